// The product with float weights over a table of kernels: as rows_product.h.
#pragma once

#include "dense.h"
#include "dense_portable.h"
#include "float_mode.h"
#include "product.h"
#if defined(__x86_64__)
#include "dense_x86.h"
#endif

namespace bitnet {

// One for each of kKernels, in its order.
static const DenseKernel* const kDenseKernels[] = {
#if defined(__x86_64__)
    &dense_avx512::kKernel, &dense_avx512::kKernel, &dense_avx2::kKernel, &dense_avx2::kKernel,
#elif defined(__aarch64__)
    &dense_portable::kKernel, &dense_portable::kKernel,  // NEON is in the base set
#endif
    &dense_portable::kKernel,
};
static_assert(sizeof(kDenseKernels) == sizeof(kKernels), "a row for each instruction set");

struct DenseProduct {
  const DenseKernel* kernel;
  int64_t tokens, out, in;
  const float* x;  // [tokens, in]
  const void* w;   // [out, in]
  bool w_bf16;
  float* y;  // [tokens, out]
};

constexpr int64_t kDenseUnitBytes = 256 << 10;
constexpr int64_t kDenseUnitTokens = 24;  // 240 KB of activations of 2560: in L2

template <typename W>
static void DenseRows(const DenseProduct& p, void (*kernel)(const DenseStrip<W>&, const float*,
                                                           int64_t, float*, int64_t),
                      int64_t row0, int64_t row1, int64_t t0, int64_t tokens) {
  for (int64_t r = row0; r < row1; r += kStrip) {
    const DenseStrip<W> strip = {static_cast<const W*>(p.w) + r * p.in, Min(kStrip, row1 - r),
                                 p.in};
    kernel(strip, p.x + t0 * p.in, tokens, p.y + t0 * p.out + r, p.out);
  }
}

template <typename Run>
static void RunDenseProduct(const DenseProduct& p, int64_t threads, Run run) {
  const IeeeFloats floats;
  if (p.tokens == 0 || p.out == 0) return;
  const int64_t row_bytes = Max(p.in * (p.w_bf16 ? 2 : 4), 1);
  const int64_t by_threads = CeilDiv(p.out, 4 * Max(threads, 1));
  const int64_t rows = Max(Min(kDenseUnitBytes / row_bytes, by_threads), 1);
  const int64_t unit_rows = CeilDiv(rows, kStrip) * kStrip;
  const int64_t row_units = CeilDiv(p.out, unit_rows);
  const int64_t token_units = CeilDiv(p.tokens, kDenseUnitTokens);
  run(row_units * token_units, [&](int64_t i) {
    const int64_t row0 = i / token_units * unit_rows, row1 = Min(row0 + unit_rows, p.out);
    const int64_t t0 = i % token_units * kDenseUnitTokens;
    const int64_t tokens = Min(kDenseUnitTokens, p.tokens - t0);
    if (p.w_bf16) {
      DenseRows<uint16_t>(p, p.kernel->bf16, row0, row1, t0, tokens);
    } else {
      DenseRows<float>(p, p.kernel->f32, row0, row1, t0, tokens);
    }
  });
}

}  // namespace bitnet

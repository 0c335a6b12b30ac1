// The library: its FFI entries, and plain C functions for the self-test and for Python.

#include <cstdint>

#include "dense_entries.h"
#include "float_entries.h"
#include "rows_entries.h"
#include "rows_quantize.h"
#include "ternary_entries.h"

#include "probe_entry.h"  // needs BITNET_EXPORT

#ifndef BITNET_SOURCE_KEY
#define BITNET_SOURCE_KEY "unknown"
#endif

BITNET_EXPORT const char* bitnet_source_key() { return BITNET_SOURCE_KEY; }

BITNET_EXPORT int64_t bitnet_isa_count() { return bitnet::kKernelCount; }

BITNET_EXPORT const char* bitnet_isa_name(int64_t isa) {
  return isa >= 0 && isa < bitnet::kKernelCount ? bitnet::kKernels[isa]->name : nullptr;
}

BITNET_EXPORT int bitnet_isa_usable(int64_t isa) { return Find(isa) != nullptr; }

// As the FFI entries, on `threads` threads. sizes: batch, tokens, out, in,
// scale_kind (3: accumulate int8 codes into int32), group, x is bf16, y is bf16, layout.
// Returns 0, 1 (instruction set missing) or 2 (no memory).
BITNET_EXPORT int bitnet_run(int64_t isa, int64_t threads, const int64_t* sizes, const void* x,
               const uint8_t* codes, const float* scale, void* y) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return 1;
  p.input.batch = sizes[0], p.input.tokens = sizes[1], p.input.in = sizes[3];
  p.input.x = x, p.input.bf16 = sizes[6] != 0;
  p.parts = 1, p.layout = sizes[8], p.group = sizes[4] == bitnet::kGroup ? sizes[5] : 0;
  p.part[0] = {sizes[2], codes, scale, sizes[4], nullptr, y, sizes[7] != 0};
  return RunOnPool(p, threads) ? 0 : 2;
}

// As `bitnet_run`, of weights in rows. sizes: batch, tokens, out, in, scale_kind, group, x is
// bf16, y is bf16, layout.
BITNET_EXPORT int bitnet_rows_run(int64_t isa, int64_t threads, const int64_t* sizes,
                                  const void* x, const uint8_t* codes, const float* scale,
                                  void* y) {
  RowsProduct p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return 1;
  p.rows = bitnet::kRowsKernels[isa];
  p.batch = sizes[0], p.tokens = sizes[1], p.out = sizes[2], p.in = sizes[3];
  p.scale_kind = sizes[4], p.group = sizes[5];
  p.x_bf16 = sizes[6] != 0, p.y_bf16 = sizes[7] != 0, p.layout = sizes[8];
  p.x = x, p.codes = codes, p.scale = scale, p.y = y;
  return RunOnPool(p, threads) ? 0 : 2;
}

// As `bitnet_run`, of float weights (`codes`) and without scales. sizes: tokens, out, in, w is
// bf16.
BITNET_EXPORT int bitnet_dense_run(int64_t isa, int64_t threads, const int64_t* sizes,
                                   const void* x, const void* codes, const void*, void* y) {
  DenseProduct p = {};
  if (Find(isa) == nullptr) return 1;
  p.kernel = bitnet::kDenseKernels[isa];
  p.tokens = sizes[0], p.out = sizes[1], p.in = sizes[2], p.w_bf16 = sizes[3] != 0;
  p.x = static_cast<const float*>(x), p.w = codes, p.y = static_cast<float*>(y);
  RunOnPool(p, threads);
  return 0;
}

// Turns `blocks` row blocks of `in` columns from t2.16x16 to t1.16x20, or back. Returns 0, or 1
// where a code is no trit.
BITNET_EXPORT int bitnet_repack(int64_t to_dense, int64_t blocks, int64_t in,
                                const uint8_t* from, uint8_t* to) {
  const int64_t threads = bitnet::Pool::Get().threads();
  const bool legal = bitnet::Repack(
      to_dense != 0, blocks, in, from, to,
      [&](int64_t count, const auto& fn) { bitnet::Pool::Get().Run(count, threads, fn); });
  return legal ? 0 : 1;
}

// Float weights [rows, in] to codes in rows with a float32 scale for each row. Returns 0, 1 where a
// weight is not finite, or 2 (no memory).
BITNET_EXPORT int bitnet_quantize_rows(int64_t layout, int64_t rows, int64_t in, int bf16,
                                       const void* w, uint8_t* codes, float* scale) {
  const bitnet::QuantizeRows p = {layout, rows, in, bf16 != 0, w, codes, scale};
  const int64_t threads = bitnet::Pool::Get().threads();
  return static_cast<int>(bitnet::RunQuantizeRows(p, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  }));
}

// Threads of a call from now on, the caller's included; 0: one for each processor.
BITNET_EXPORT void bitnet_set_threads(int64_t count) { bitnet::Pool::Get().SetThreads(count); }

BITNET_EXPORT int64_t bitnet_threads() { return bitnet::Pool::Get().threads(); }

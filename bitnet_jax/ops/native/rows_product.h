// The product with weights in rows over a table of kernels: as product.h, and with what it
// has in common (the kinds of scale, memory, the activations' quantization).
//
// A unit's result does not depend on how the work was cut or on who ran it.
#pragma once

#include "product.h"
#include "rows.h"
#include "rows_portable.h"
#if defined(__x86_64__)
#include "rows_avx2.h"
#include "rows_avx512.h"
#elif defined(__aarch64__)
#include "rows_neon.h"
#include "rows_neon_i8mm.h"
#endif

namespace bitnet {

// One for each of kKernels, in its order.
static const RowsKernel* const kRowsKernels[] = {
#if defined(__x86_64__)
    &rows_avx512_vbmi::kKernel, &rows_avx512_vnni::kKernel, &rows_avx_vnni::kKernel,
    &rows_avx2::kKernel,
#elif defined(__aarch64__)
    &rows_neon_i8mm::kKernel, &rows_neon::kKernel,
#endif
    &rows_portable::kKernel,
};
static_assert(sizeof(kRowsKernels) == sizeof(kKernels), "a row for each instruction set");

struct RowsProduct {
  const Kernel* kernel;
  const RowsKernel* rows;
  int64_t layout;
  int64_t batch, tokens, out, in;  // x [batch, tokens, in], y [batch, tokens, out]
  int64_t scale_kind, group;       // group: columns per scale, 0 unless kGroup
  const void* x;
  bool x_bf16;
  const uint8_t* codes;  // [batch, out, bytes of a row]
  const float* scale;    // [batch] | [batch, out] | [batch, out, in/group]
  void* y;
  bool y_bf16;
};

struct RowsPlan {
  const RowsProduct* p;
  int64_t columns;                    // of a segment
  int64_t segments, chunks, width;    // width: columns of a token, all segments padded
  int64_t stride, segment_bytes;      // packed bytes of a row and of a segment
  int64_t unit_rows, row_units, token_units;
  int64_t together;  // as in RowsKernel, of q; 1 where `stream` reads it
  int64_t tokens;    // of a batch element in q: a multiple of it, the last perhaps anything
  Buffer<int8_t> q;      // [batch * tokens, width], as `Arrange` has them
  Buffer<int32_t> sums;  // [batch * p->tokens, segments], of q
  Buffer<float> a;       // [batch * p->tokens]
};

constexpr int64_t kRowsUnitBytes = 128 << 10;  // codes of a unit
constexpr int64_t kRowsUnitTokens = 64;        // 160 KB of activations of 2560: in L2; even

static inline int64_t RowBytes(int64_t layout, int64_t in) {
  constexpr int64_t kStep[kRowsLayouts] = {1, 4, 2}, kStepBytes[kRowsLayouts] = {1, 3, 1};
  return CeilDiv(in, kStep[layout]) * kStepBytes[layout];
}

static bool MakeRowsPlan(const RowsProduct& p, int64_t threads, RowsPlan* plan) {
  plan->p = &p;
  plan->columns = p.scale_kind == kGroup ? p.group : p.in;
  plan->segments = p.scale_kind == kGroup ? p.in / p.group : 1;
  plan->chunks = CeilDiv(plan->columns, kChunkColumns[p.layout]);
  plan->width = plan->segments * plan->chunks * kChunkColumns[p.layout];
  plan->stride = RowBytes(p.layout, p.in);
  plan->segment_bytes = RowBytes(p.layout, plan->columns);
  // About a cache-friendly piece each, but at least four pieces a thread to even out.
  const int64_t by_bytes = Max(kRowsUnitBytes / Max(plan->stride, 1), 1);
  const int64_t by_threads = CeilDiv(p.batch * p.out, 4 * threads);
  plan->unit_rows = CeilDiv(Max(Min(by_bytes, by_threads), 1), kStrip) * kStrip;
  plan->row_units = CeilDiv(p.out, plan->unit_rows);
  plan->token_units = CeilDiv(p.tokens, kRowsUnitTokens);
  plan->together = p.tokens > p.rows->few ? p.rows->together : 1;
  plan->tokens = CeilDiv(p.tokens, plan->together) * plan->together;
  const int64_t rows = p.batch * p.tokens;
  plan->q = Allocate<int8_t>(p.batch * plan->tokens * plan->width);
  plan->sums = Allocate<int32_t>(rows * plan->segments);
  plan->a = Allocate<float>(rows);
  return plan->q && plan->sums && plan->a;
}

// Bytes of `natural` below: a token's codes in order, and a segment of them before it is spread.
static inline int64_t NaturalBytes(const RowsPlan& plan) {
  const int64_t segment = plan.chunks * kChunkColumns[plan.p->layout];
  return CeilDiv(plan.p->in, 16) * 16 + (plan.together > 1 ? segment : 0);
}

// Quantizes token `row` (of batch * tokens), arranges its codes and sums them by segment.
static void PrepareRowsToken(const RowsPlan& plan, int64_t row, int8_t* natural) {
  const RowsProduct& p = *plan.p;
  const int64_t padded = CeilDiv(p.in, 16) * 16, together = plan.together;
  plan.a[row] = p.x_bf16
                    ? p.kernel->quantize_bf16(static_cast<const uint16_t*>(p.x) + row * p.in,
                                              p.in, padded, natural)
                    : p.kernel->quantize_f32(static_cast<const float*>(p.x) + row * p.in, p.in,
                                             padded, natural);
  const int64_t width = plan.chunks * kChunkColumns[p.layout];
  const int64_t token = row % p.tokens, beside = token % together;
  int8_t* q = plan.q.get() + (row / p.tokens * plan.tokens + token - beside) * plan.width;
  for (int64_t s = 0; s < plan.segments; ++s, q += together * width) {
    int8_t* arranged = together == 1 ? q : natural + padded;
    Arrange(p.layout, natural + s * plan.columns, plan.columns, plan.chunks, arranged);
    plan.sums[row * plan.segments + s] = p.kernel->sum(arranged, width);
    if (together == 1) continue;
    for (int64_t i = 0; i < width; i += kTurn)
      std::memcpy(q + i * together + beside * kTurn, arranged + i, kTurn);
  }
}

// Scales the sums of one token and one strip. raw + s * step is segment s. The order of the
// float operations is the contract's.
static void FinishStrip(const RowsPlan& plan, int64_t e, int64_t token, int64_t row0,
                        int64_t count, const int32_t* raw, int64_t step) {
  const RowsProduct& p = *plan.p;
  const int64_t row = e * p.tokens + token;
  const int32_t* sums = plan.sums.get() + row * plan.segments;
  const uint32_t offset = static_cast<uint32_t>(p.rows->offset[p.layout]);
  const auto exact = [&](int64_t s, int64_t n) {
    // The true sum fits 32 bits; that with the offset need not.
    return static_cast<float>(static_cast<int32_t>(
        static_cast<uint32_t>(raw[s * step + n]) - offset * static_cast<uint32_t>(sums[s])));
  };
  const float token_scale = plan.a[row] * kInv127;
  float y[kStrip];
  if (p.scale_kind == kTensor) {
    const float factor = p.scale[e] * token_scale;
    for (int64_t n = 0; n < kStrip; ++n) y[n] = exact(0, n) * factor;
  } else if (p.scale_kind == kRow) {
    const float* scale = p.scale + e * p.out + row0;
    for (int64_t n = 0; n < count; ++n) y[n] = exact(0, n) * (scale[n] * token_scale);
  } else {
    const float* scale = p.scale + (e * p.out + row0) * plan.segments;
    for (int64_t n = 0; n < count; ++n) {
      float total = 0.0f;
      for (int64_t s = 0; s < plan.segments; ++s)
        total += exact(s, n) * scale[n * plan.segments + s];
      y[n] = total * token_scale;
    }
  }
  const int64_t at = row * p.out + row0;
  if (p.y_bf16) {
    for (int64_t n = 0; n < count; ++n) static_cast<uint16_t*>(p.y)[at + n] = ToBf16(y[n]);
  } else {
    std::memcpy(static_cast<float*>(p.y) + at, y, count * sizeof(float));
  }
}

static void RunRowsUnit(const RowsPlan& plan, int64_t unit) {
  const RowsProduct& p = *plan.p;
  const int64_t tu = unit % plan.token_units;
  const int64_t ru = unit / plan.token_units % plan.row_units;
  const int64_t e = unit / plan.token_units / plan.row_units;
  const int64_t r_end = Min((ru + 1) * plan.unit_rows, p.out);
  // With what stands beside the last one of an odd number: its sums are not looked at.
  const int64_t t0 = tu * kRowsUnitTokens, tokens = Min(kRowsUnitTokens, plan.tokens - t0);
  const int8_t* q = plan.q.get() + (e * plan.tokens + t0) * plan.width;
  const bool few = tokens <= p.rows->few && plan.together == 1;
  Buffer<int32_t> raw = Allocate<int32_t>(plan.segments * tokens * kStrip);
  Buffer<uint8_t> expanded = Allocate<uint8_t>(few ? 0 : kStrip * plan.width);
  if (!raw || !expanded) std::abort();  // nobody can be told from here; a strip is small
  for (int64_t r = ru * plan.unit_rows; r < r_end; r += kStrip) {
    const Strip strip = {p.codes + (e * p.out + r) * plan.stride,
                         plan.stride,
                         Min(kStrip, r_end - r),
                         plan.segments,
                         plan.segment_bytes,
                         plan.chunks};
    if (few) {
      p.rows->stream[p.layout](strip, q, tokens, raw.get());
    } else {
      p.rows->expand[p.layout](strip, expanded.get());
      p.rows->tile[p.layout](expanded.get(), strip, q, tokens, raw.get());
    }
    for (int64_t i = 0; i < Min(tokens, p.tokens - t0); ++i)
      FinishStrip(plan, e, t0 + i, r, strip.rows, raw.get() + i * kStrip, tokens * kStrip);
  }
}

// As `RunProduct`.
template <typename Run>
static bool RunRowsProduct(const RowsProduct& p, int64_t threads, Run run) {
  const IeeeFloats floats;
  const int64_t rows = p.batch * p.tokens;
  if (rows == 0 || p.out == 0) return true;
  RowsPlan plan;
  if (!MakeRowsPlan(p, Max(threads, 1), &plan)) return false;
  constexpr int64_t kElementsPerTask = 32 << 10;
  const int64_t scratch = NaturalBytes(plan);
  const int64_t per_task = Max(kElementsPerTask / Max(p.in, 1), 1);
  const int64_t tasks = CeilDiv(rows, per_task);
  Buffer<int8_t> natural = Allocate<int8_t>(tasks * scratch);
  if (!natural) return false;
  run(tasks, [&](int64_t i) {
    for (int64_t row = i * per_task; row < Min((i + 1) * per_task, rows); ++row)
      PrepareRowsToken(plan, row, natural.get() + i * scratch);
  });
  run(p.batch * plan.row_units * plan.token_units, [&](int64_t i) { RunRowsUnit(plan, i); });
  return true;
}

}  // namespace bitnet

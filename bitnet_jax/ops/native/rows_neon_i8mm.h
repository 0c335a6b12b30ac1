// AArch64 form of rows.h with the matrix products of int8 (SMMLA): two tokens by two rows by
// eight columns in one instruction. What does not multiply so is rows_neon.h's.
#pragma once

#include "kernel_neon_i8mm.h"
#include "rows_neon.h"

namespace bitnet {
namespace rows_neon_i8mm {
using namespace rows_neon;

#define BITNET_TARGET BITNET_I8MM_TARGET
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

// `Stream` is rows_neon.h's: it takes row after row, and SMMLA gains nothing without a second one.
// For three tokens that is as many instructions as to lay rows together and multiply them by
// SMMLA, for two it is fewer. (Counted, not timed: no such processor was at hand.)
constexpr int kFew = 3;
constexpr int kTogether = 2;
constexpr int kTokens = 8;  // 2 x 4 x 2 sums, 2 vectors of codes: 18 of 32 registers

// Between the halves, of eight columns each, stand those of the row beside.
BITNET_OP void Put(uint8_t* at, Codes v) {
  vst1_u8(at, vreinterpret_u8_s8(vget_low_s8(v)));
  vst1_u8(at + kCodes, vreinterpret_u8_s8(vget_high_s8(v)));
}

template <int L>
BITNET_OP Sums Dot(Sums sums, Codes v, const int8_t* q) {
  return neon_i8mm::MatrixProduct(sums, vld1q_s8(q), v);
}

BITNET_OP void Reduce(const Sums* s, int32_t* raw) {
  const int64x2_t a = vreinterpretq_s64_s32(s[0]), b = vreinterpretq_s64_s32(s[1]);
  vst1q_s32(raw, vreinterpretq_s32_s64(vzip1q_s64(a, b)));
  vst1q_s32(raw + kStrip, vreinterpretq_s32_s64(vzip2q_s64(a, b)));
}

#include "rows_tile_body.h"

static const RowsKernel kKernel = {
    "neon_i8mm",
    {kOffsets[kI8], kOffsets[kI6], kOffsets[kI4]},
    kFew,
    kTogether,
    {Stream<kI8>, Stream<kI6>, Stream<kI4>},
    {Expand<kI8>, Expand<kI6>, Expand<kI4>},
    {Tile<kI8>, Tile<kI6>, Tile<kI4>}};

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_neon_i8mm
}  // namespace bitnet

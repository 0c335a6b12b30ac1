// AArch64 form of rows.h with the dot-product instructions (SDOT), which take signed codes.
#pragma once

#include <arm_neon.h>

#include "rows.h"

namespace bitnet {
namespace rows_neon {

#if defined(__clang__)
#define BITNET_TARGET __attribute__((target("dotprod")))
#else
#define BITNET_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

using Codes = int8x16_t;
using Sums = int32x4_t;
constexpr int kVectors = 4;
constexpr const char* kName = "neon_dotprod";
constexpr int32_t kOffsets[] = {0, 0, 0};
constexpr int kFew = 4, kTokens = 4;  // 4 x 4 sums, 4 rows of codes: 20 of 32 registers

BITNET_OP Sums Zero() { return vdupq_n_s32(0); }
BITNET_OP Sums Add(Sums a, Sums b) { return vaddq_s32(a, b); }
BITNET_OP Codes Get(const uint8_t* at) { return vreinterpretq_s8_u8(vld1q_u8(at)); }
BITNET_OP void Put(uint8_t* at, Codes v) { vst1q_u8(at, vreinterpretq_u8_s8(v)); }

BITNET_OP void Load8(const uint8_t* at, Codes* v) {
  for (int i = 0; i < 4; ++i) v[i] = Get(at + 16 * i);
}

BITNET_OP void Load6(const uint8_t* at, Codes* v) {
  // Three bytes to each 32 bits (an index beyond the table gives 0); the last twelve are
  // loaded with the four before them: nothing beyond is read.
  static const uint8_t kTriples[2][16] = {
      {0, 1, 2, 99, 3, 4, 5, 99, 6, 7, 8, 99, 9, 10, 11, 99},
      {4, 5, 6, 99, 7, 8, 9, 99, 10, 11, 12, 99, 13, 14, 15, 99}};
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t twelve = vld1q_u8(at + (i < 3 ? 12 * i : 32));
    const uint32x4_t x =
        vreinterpretq_u32_u8(vqtbl1q_u8(twelve, vld1q_u8(kTriples[i == 3 ? 1 : 0])));
    // Each field to the top of its byte, and down again with its sign.
    const uint32x4_t r = vorrq_u32(
        vorrq_u32(vandq_u32(vshlq_n_u32(x, 2), vdupq_n_u32(0xfcu)),
                  vandq_u32(vshlq_n_u32(x, 4), vdupq_n_u32(0xfc00u))),
        vorrq_u32(vandq_u32(vshlq_n_u32(x, 6), vdupq_n_u32(0xfc0000u)),
                  vandq_u32(vshlq_n_u32(x, 8), vdupq_n_u32(0xfc000000u))));
    v[i] = vshrq_n_s8(vreinterpretq_s8_u32(r), 2);
  }
}

BITNET_OP void Load4(const uint8_t* at, Codes* v) {
  for (int i = 0; i < 4; ++i) {
    const int8x16_t w = Get(at + 16 * i);
    v[i] = vshrq_n_s8(vshlq_n_s8(w, 4), 4);
    v[i + 4] = vshrq_n_s8(w, 4);
  }
}

template <int L>
BITNET_OP Sums Dot(Sums sums, Codes v, const int8_t* q) {
  return vdotq_s32(sums, v, vld1q_s8(q));
}

BITNET_OP void Reduce(const Sums* s, int32_t* raw) {
  vst1q_s32(raw, vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3])));
}

#include "rows_body.h"

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_neon
}  // namespace bitnet

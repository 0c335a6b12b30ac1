// AArch64 form with the matrix products of int8 (SMMLA): two tokens by two rows by eight
// columns in one instruction, twice what SDOT does. One token would leave half of it idle, so
// it takes kernel_neon.h's tile. Of t1.16x20 the lines are turned first, as there.
#pragma once

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "kernel_neon.h"

namespace bitnet {
namespace neon_i8mm {

// For all that calls `MatrixProduct`, here and in other files.
#if defined(__clang__)
#define BITNET_I8MM_TARGET __attribute__((target("dotprod,i8mm")))
#else
#define BITNET_I8MM_TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
#define BITNET_TARGET BITNET_I8MM_TARGET
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

// sums[i][j] += row i of a by row j of b: two rows of eight columns each.
BITNET_OP int32x4_t MatrixProduct(int32x4_t sums, int8x16_t a, int8x16_t b) {
#if defined(__clang__) && __clang_major__ < 16 && !defined(__ARM_FEATURE_MATMUL_INT8)
  // Their arm_neon.h has it only where the whole program is for such processors.
  __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(a), "w"(b));
  return sums;
#else
  return vmmlaq_s32(sums, a, b);
#endif
}

// Four columns of each of four tokens; of fewer, and nothing is read beyond them, the rest is
// anything.
BITNET_OP int32x4_t Quads(const int8_t* at, int64_t count) {
  if (count >= 4) return vreinterpretq_s32_s8(vld1q_s8(at));
  int32_t last;
  std::memcpy(&last, at + (count - 1) * 4, sizeof(last));
  if (count == 1) return vdupq_n_s32(last);
  return vcombine_s32(vreinterpret_s32_s8(vld1_s8(at)), vdup_n_s32(count == 2 ? 0 : last));
}

// Rows of kQuarters quarters of a line (four rows each) by NT tokens. With eight columns of a
// row side by side, a line's quads of columns are used two at once.
template <int NT, int kQuarters>
BITNET_OP void Part(const uint8_t* codes, int64_t l0, int64_t l1, const int8_t* q,
                    int64_t step, int32_t* out, int64_t ldo) {
  constexpr int kPairs = (NT + 1) / 2;  // of tokens; the last may be half
  const uint8x16_t three = vdupq_n_u8(3);
  int32x4_t acc[kPairs][kQuarters][2];  // [.][.][rows 0 and 1, or 2 and 3]
  for (int t = 0; t < kPairs; ++t)
    for (int h = 0; h < kQuarters; ++h) acc[t][h][0] = acc[t][h][1] = vdupq_n_s32(0);
  for (int64_t l = l0; l < l1; ++l) {
    const uint8_t* at = codes + l * kLineBytes;
    __builtin_prefetch(at + kPrefetchBytes);
    int8x16_t pair[2][kPairs];  // eight columns of two tokens
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k)
#pragma GCC unroll 2
      for (int t = 0; t < NT; t += 4) {
        const int8_t* four = q + (l * 4 + k * 2) * step + t * 4;
        const int32x4_t a = Quads(four, NT - t), b = Quads(four + step, NT - t);
        pair[k][t / 2] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
        if (NT - t > 2) pair[k][t / 2 + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
      }
#pragma GCC unroll 4
    for (int h = 0; h < kQuarters; ++h) {
      const uint8x16_t line = vld1q_u8(at + 16 * h);
      const uint32x4_t even = vreinterpretq_u32_u8(line);
      const uint32x4_t odd = vreinterpretq_u32_u8(vshrq_n_u8(line, 2));
      uint8x16_t rows[2] = {vreinterpretq_u8_u32(vzip1q_u32(even, odd)),
                            vreinterpretq_u8_u32(vzip2q_u32(even, odd))};
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k)
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
          const int8x16_t code = vreinterpretq_s8_u8(vandq_u8(rows[r], three));
          rows[r] = vshrq_n_u8(rows[r], 4);
          for (int t = 0; t < kPairs; ++t)
            acc[t][h][r] = MatrixProduct(acc[t][h][r], pair[k][t], code);
        }
    }
  }
  for (int t = 0; t < NT; ++t)
    for (int h = 0; h < kQuarters; ++h) {
      const int64x2_t a = vreinterpretq_s64_s32(acc[t / 2][h][0]);
      const int64x2_t b = vreinterpretq_s64_s32(acc[t / 2][h][1]);
      vst1q_s32(out + t * ldo + h * 4,
                vreinterpretq_s32_s64(t % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b)));
    }
}

// At most 16 sums, of 32 registers: of more than four tokens, half of the rows at a time, which is
// fewer instructions than two tiles of four. Against SDOT two tokens take a tenth to a fifth
// fewer, three about as many, four and eight a third to two fifths fewer. (Counted in what g++ 12
// and clang 16 make, not timed: no such processor was at hand.)
template <int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t l0, int64_t l1, const int8_t* q,
                               int64_t step, int32_t* out, int64_t ldo) {
  constexpr int kQuarters = NT > 4 ? 2 : 4;
  for (int h = 0; h < 4; h += kQuarters)
    Part<NT, kQuarters>(codes + h * 16, l0, l1, q, step, out + h * 4, ldo);
}

static const neon_dotprod::TileFn kTiles[kMaxTokens] = {
    neon_dotprod::Tile<1>, Tile<2>, Tile<3>, Tile<4>, Tile<5>, Tile<6>, Tile<7>, Tile<8>};

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens,
                       int32_t* raw) {
  neon_dotprod::AccumulateBy(kTiles, kMaxTokens, codes, blocks, lines, segment_lines, q, tokens,
                             raw);
}

static bool Usable() {
#if defined(__linux__)
  // HWCAP2_I8MM, which older headers lack.
  return neon_dotprod::Usable() && ((getauxval(AT_HWCAP2) >> 13) & 1);
#elif defined(__APPLE__)
  int found = 0;  // the M1 lacks it
  size_t size = sizeof(found);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, nullptr, 0) == 0 && found;
#else
  return false;  // nowhere else are kernels built for AArch64
#endif
}

static const Kernel kKernel = {"neon_i8mm",
                               Usable,
                               portable::Quantize<float>,
                               portable::Quantize<uint16_t>,
                               portable::Sum,
                               Accumulate, &portable::kFloats};

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace neon_i8mm
}  // namespace bitnet

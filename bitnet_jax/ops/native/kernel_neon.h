// AArch64 form with the dot-product instructions (SDOT): a line is four registers
// of four rows. Quantization is the plain loop, which compilers vectorise here.
#pragma once

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "kernel.h"
#include "kernel_portable.h"

namespace bitnet {
namespace neon_dotprod {

#if defined(__clang__)
#define BITNET_TARGET __attribute__((target("dotprod")))
#else
#define BITNET_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

constexpr int64_t kTileTokens = 4;  // 4 quarters x 4 tokens of the 32 registers

template <int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t l0, int64_t l1, const int8_t* q,
                               int64_t step, int32_t* out, int64_t ldo) {
  const uint8x16_t three = vdupq_n_u8(3);
  int32x4_t acc[NT][4];
  for (int t = 0; t < NT; ++t)
    for (int h = 0; h < 4; ++h) acc[t][h] = vdupq_n_s32(0);
  for (int64_t l = l0; l < l1; ++l) {
    const uint8_t* at = codes + l * kLineBytes;
    __builtin_prefetch(at + kPrefetchBytes);
    uint8x16_t line[4];
    for (int h = 0; h < 4; ++h) line[h] = vld1q_u8(at + 16 * h);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      int8x16_t code[4];
      for (int h = 0; h < 4; ++h) {
        code[h] = vreinterpretq_s8_u8(vandq_u8(line[h], three));
        line[h] = vshrq_n_u8(line[h], 2);
      }
      for (int t = 0; t < NT; ++t) {
        int32_t bits;
        std::memcpy(&bits, q + (l * 4 + j) * step + t * 4, sizeof(bits));
        const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(bits));
        for (int h = 0; h < 4; ++h) acc[t][h] = vdotq_s32(acc[t][h], code[h], four);
      }
    }
  }
  for (int t = 0; t < NT; ++t)
    for (int h = 0; h < 4; ++h) vst1q_s32(out + t * ldo + h * 4, acc[t][h]);
}

using TileFn = void (*)(const uint8_t*, int64_t, int64_t, const int8_t*, int64_t, int32_t*,
                        int64_t);
static const TileFn kTiles[kTileTokens] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};

// `accumulate` over tiles[n - 1] for n tokens, `most` at once.
static inline void AccumulateBy(const TileFn* tiles, int64_t most, const uint8_t* codes,
                                int64_t blocks, int64_t lines, int64_t segment_lines,
                                const int8_t* q, int64_t tokens, int32_t* raw) {
  const int64_t ldo = blocks * kRows;
  for (int64_t l0 = 0; l0 < lines; l0 += segment_lines, raw += tokens * ldo) {
    const int64_t l1 = l0 + segment_lines < lines ? l0 + segment_lines : lines;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < tokens; t += most) {
        const int64_t count = tokens - t < most ? tokens - t : most;
        tiles[count - 1](codes + b * lines * kLineBytes, l0, l1, q + t * 4, tokens * 4,
                         raw + t * ldo + b * kRows, ldo);
      }
  }
}

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens,
                       int32_t* raw) {
  AccumulateBy(kTiles, kTileTokens, codes, blocks, lines, segment_lines, q, tokens, raw);
}

static bool Usable() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20) & 1;  // HWCAP_ASIMDDP
#else
  return true;  // every Apple processor that runs macOS on AArch64 has it
#endif
}

static const Kernel kKernel = {"neon_dotprod",
                               Usable,
                               portable::Quantize<float>,
                               portable::Quantize<uint16_t>,
                               portable::Sum,
                               Accumulate, &portable::kFloats};

#undef BITNET_TARGET
}  // namespace neon_dotprod
}  // namespace bitnet

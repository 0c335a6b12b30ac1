// AVX2 form, and the same with the 256-bit VNNI of newer client processors.
//
// A line is two registers of eight rows. Without VNNI, VPMADDUBSW sums pairs in 16
// bits: each pair is at most 2*2*128 = 512, so 63 of them fit before they must be
// widened; 15 lines of four are 60.
#pragma once

#include <immintrin.h>

#include "cpu_x86.h"
#include "kernel.h"

namespace bitnet {
namespace avx2 {

#define BITNET_TARGET __attribute__((target("avx2")))

BITNET_TARGET static inline __m256 Load8(const float* x) { return _mm256_loadu_ps(x); }
BITNET_TARGET static inline __m256 Load8(const uint16_t* x) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

// The values from i on, zeros beyond k.
template <typename T>
BITNET_TARGET static inline __m256 LoadTail(const T* x, int64_t i, int64_t k) {
  if (i + 8 <= k) return Load8(x + i);
  T tail[8] = {};
  if (i < k) std::memcpy(tail, x + i, (k - i) * sizeof(T));
  return Load8(tail);
}

template <typename T>
BITNET_TARGET static float Quantize(const T* x, int64_t k, int64_t padded, int8_t* q) {
  const __m256i sign = _mm256_set1_epi32(0x7fffffff);
  __m256i tops = _mm256_setzero_si256();
  for (int64_t i = 0; i < k; i += 8) {
    const __m256i v = _mm256_castps_si256(LoadTail(x, i, k));
    tops = _mm256_max_epi32(tops, _mm256_and_si256(v, sign));
  }
  uint32_t lanes[8], top = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), tops);
  for (uint32_t lane : lanes) top = lane > top ? lane : top;
  const float a = ClampAbsmax(top);
  if (!IsFiniteBits(top)) {
    std::memset(q, 0, padded);
    return a;
  }
  const __m256 r = _mm256_set1_ps(127.0f / a);
  for (int64_t i = 0; i < padded; i += 8) {
    const __m256 v = _mm256_mul_ps(LoadTail(x, i, k), r);
    const __m256i wide = _mm256_cvtps_epi32(
        _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m128i half =
        _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi16(half, half));
  }
  return a;
}

BITNET_TARGET static int32_t Sum(const int8_t* q, int64_t n) {
  __m256i acc = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
    acc = _mm256_add_epi32(
        acc, _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), _mm256_set1_epi16(1)));
  }
  int32_t lanes[8], total = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), acc);
  for (int32_t lane : lanes) total += lane;
  return total;
}

BITNET_TARGET static inline __m256i Broadcast4(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof(four));
  return _mm256_set1_epi32(four);
}

constexpr int64_t kWidenLines = 15;
constexpr int64_t kTileTokens = 4;  // 2 halves x 4 tokens, 16-bit and 32-bit: 16 registers

template <int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t l0, int64_t l1, const int8_t* q,
                               int64_t step, int32_t* out, int64_t ldo) {
  const __m256i three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  __m256i acc[NT][2];
  for (int t = 0; t < NT; ++t) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
  for (int64_t base = l0; base < l1; base += kWidenLines) {
    const int64_t end = base + kWidenLines < l1 ? base + kWidenLines : l1;
    __m256i narrow[NT][2];
    for (int t = 0; t < NT; ++t) narrow[t][0] = narrow[t][1] = _mm256_setzero_si256();
    for (int64_t l = base; l < end; ++l) {
      const uint8_t* at = codes + l * kLineBytes;
      _mm_prefetch(reinterpret_cast<const char*>(at + kPrefetchBytes), _MM_HINT_T0);
      __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m256i c0 = _mm256_and_si256(low, three), c1 = _mm256_and_si256(high, three);
        low = _mm256_srli_epi32(low, 2);
        high = _mm256_srli_epi32(high, 2);
        for (int t = 0; t < NT; ++t) {
          const __m256i four = Broadcast4(q + (l * 4 + j) * step + t * 4);
          narrow[t][0] = _mm256_add_epi16(narrow[t][0], _mm256_maddubs_epi16(c0, four));
          narrow[t][1] = _mm256_add_epi16(narrow[t][1], _mm256_maddubs_epi16(c1, four));
        }
      }
    }
    for (int t = 0; t < NT; ++t)
      for (int h = 0; h < 2; ++h)
        acc[t][h] = _mm256_add_epi32(acc[t][h], _mm256_madd_epi16(narrow[t][h], ones));
  }
  for (int t = 0; t < NT; ++t)
    for (int h = 0; h < 2; ++h)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + t * ldo + h * 8), acc[t][h]);
}

using TileFn = void (*)(const uint8_t*, int64_t, int64_t, const int8_t*, int64_t, int32_t*,
                        int64_t);
static const TileFn kTiles[kTileTokens] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};

static inline void AccumulateWith(const TileFn* tiles, const uint8_t* codes, int64_t blocks,
                                  int64_t lines, int64_t segment_lines, const int8_t* q,
                                  int64_t tokens, int32_t* raw) {
  const int64_t ldo = blocks * kRows;
  for (int64_t l0 = 0; l0 < lines; l0 += segment_lines, raw += tokens * ldo) {
    const int64_t l1 = l0 + segment_lines < lines ? l0 + segment_lines : lines;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t t = 0; t < tokens; t += kTileTokens) {
        const int64_t count = tokens - t < kTileTokens ? tokens - t : kTileTokens;
        tiles[count - 1](codes + b * lines * kLineBytes, l0, l1, q + t * 4, tokens * 4,
                         raw + t * ldo + b * kRows, ldo);
      }
  }
}

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens,
                       int32_t* raw) {
  AccumulateWith(kTiles, codes, blocks, lines, segment_lines, q, tokens, raw);
}

static bool Usable() { return HasAvx2(); }

#define BITNET_PARTS 2
#include "floats.h"

static const Kernel kKernel = {"avx2", Usable, Quantize<float>, Quantize<uint16_t>,
                               Sum,    Accumulate, &kFloats};

#undef BITNET_TARGET
}  // namespace avx2

namespace avx_vnni {

#define BITNET_TARGET __attribute__((target("avx2,avxvnni")))

template <int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t l0, int64_t l1, const int8_t* q,
                               int64_t step, int32_t* out, int64_t ldo) {
  const __m256i three = _mm256_set1_epi8(3);
  // Few tokens have few sums: spread each over the quads of a line, or the latency of
  // VPDPBUSD sets the pace.
  constexpr int kChains = NT == 1 ? 4 : NT == 2 ? 2 : 1;
  __m256i acc[kChains][NT][2];
  for (int c = 0; c < kChains; ++c)
    for (int t = 0; t < NT; ++t) acc[c][t][0] = acc[c][t][1] = _mm256_setzero_si256();
  for (int64_t l = l0; l < l1; ++l) {
    const uint8_t* at = codes + l * kLineBytes;
    _mm_prefetch(reinterpret_cast<const char*>(at + kPrefetchBytes), _MM_HINT_T0);
    __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i c0 = _mm256_and_si256(low, three), c1 = _mm256_and_si256(high, three);
      low = _mm256_srli_epi32(low, 2);
      high = _mm256_srli_epi32(high, 2);
      for (int t = 0; t < NT; ++t) {
        int32_t bits;
        std::memcpy(&bits, q + (l * 4 + j) * step + t * 4, sizeof(bits));
        const __m256i four = _mm256_set1_epi32(bits);
        __m256i* sums = acc[j % kChains][t];
        sums[0] = _mm256_dpbusd_avx_epi32(sums[0], c0, four);
        sums[1] = _mm256_dpbusd_avx_epi32(sums[1], c1, four);
      }
    }
  }
  for (int t = 0; t < NT; ++t)
    for (int h = 0; h < 2; ++h) {
      __m256i total = acc[0][t][h];
      for (int c = 1; c < kChains; ++c) total = _mm256_add_epi32(total, acc[c][t][h]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + t * ldo + h * 8), total);
    }
}

static const avx2::TileFn kTiles[avx2::kTileTokens] = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens,
                       int32_t* raw) {
  avx2::AccumulateWith(kTiles, codes, blocks, lines, segment_lines, q, tokens, raw);
}

static bool Usable() { return HasAvxVnni(); }

static const Kernel kKernel = {"avx_vnni", Usable,    avx2::Quantize<float>,
                               avx2::Quantize<uint16_t>, avx2::Sum, Accumulate, &avx2::kFloats};

#undef BITNET_TARGET
}  // namespace avx_vnni
}  // namespace bitnet

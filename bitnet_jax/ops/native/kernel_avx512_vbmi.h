// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later), for both layouts.
//
// Five trits a byte: two subtractions and two minima leave byte % 81, VPERMI2B looks its four
// codes up, and what was taken away is 81 times the fifth. One token's codes are masked where
// they lie, without a shift: their sums are then 1, 4, 16, 64 or 81 times too large, and
// divided at the end.
//
// Row blocks are read one after the other: a single stream, fetched far ahead. Four beside each
// other, as kernel_avx512.h has them, share their broadcasts, and memory brings a third less
// (Zen 4; benchmarks/LOG.md).
#pragma once

#include <immintrin.h>

#include "cpu_x86.h"
#include "codes_dense.h"
#include "kernel.h"
#include "kernel_avx512.h"

namespace bitnet {
namespace avx512_vbmi {

#define BITNET_TARGET \
  __attribute__((     \
      target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")))
#define BITNET_INLINE BITNET_TARGET static inline __attribute__((always_inline))

// Sums that are 64 times too large stay within 32 bits over this many lines.
constexpr int64_t kFoldLines = 16384;
constexpr int kSums = 5;  // too large by 1, 4, 16, 64 and 81
constexpr uint32_t kInverse81 = 0x781948b1;  // 81 * kInverse81 = 1 modulo 2^32
static_assert(81 * kInverse81 == 1, "an exact division by 81 is this multiplication");
constexpr int64_t kAhead = 8192;  // bytes

// (byte >> 2*quad) & 3. (GF2P8AFFINEQB does it in one instruction, on the pipes of VPDPBUSD:
// a tenth to a third slower on Zen 4.)
BITNET_INLINE __m512i Pair(__m512i bytes, int quad) {
  return _mm512_and_si512(_mm512_srli_epi32(bytes, 2 * quad), _mm512_set1_epi8(3));
}
BITNET_INLINE __m512i Mask(__m512i bytes, int quad) {
  return _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>(3 << 2 * quad)));
}

// t2.16x16. `InPlace` gives the codes of quad j as large as sum j wants them.
struct Plain {
  static constexpr int kQuads = 4;

  BITNET_INLINE void InPlace(__m512i line, __m512i* codes) {
    for (int j = 0; j < 4; ++j) codes[j] = Mask(line, j);
  }
  BITNET_INLINE void Codes(__m512i line, __m512i* codes) {
    codes[0] = Mask(line, 0);
    for (int j = 1; j < 4; ++j) codes[j] = Pair(line, j);
  }
};

// t1.16x20.
struct Dense {
  static constexpr int kQuads = 5;

  // byte % 81.
  BITNET_INLINE __m512i Rest(__m512i line) {
    const __m512i less81 = _mm512_sub_epi8(line, _mm512_set1_epi8(81));
    const __m512i less162 = _mm512_sub_epi8(line, _mm512_set1_epi8(static_cast<char>(162)));
    return _mm512_min_epu8(line, _mm512_min_epu8(less81, less162));
  }
  BITNET_INLINE __m512i Four(__m512i rest) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(kFourCodes.of), rest,
                                    _mm512_load_si512(kFourCodes.of + 64));
  }
  BITNET_INLINE void InPlace(__m512i line, __m512i* codes) {
    const __m512i rest = Rest(line);
    Plain::InPlace(Four(rest), codes);
    codes[4] = _mm512_sub_epi8(line, rest);
  }
  BITNET_INLINE void Codes(__m512i line, __m512i* codes) {
    const __m512i rest = Rest(line);
    Plain::Codes(Four(rest), codes);
    codes[4] = Pair(_mm512_sub_epi8(line, rest), 3);  // 81 and 162 are 1 and 2 there
  }
};

// One row block, few tokens: a sum for each quad of a line.
template <class L, int NT>
BITNET_TARGET static void Stream(const uint8_t* codes, int64_t, int64_t l0, int64_t l1,
                                 const int8_t* q, int32_t* out, int64_t ldo) {
  for (int64_t from = l0; from < l1; from += kFoldLines) {
    const int64_t to = l1 - from > kFoldLines ? from + kFoldLines : l1;
    __m512i acc[NT][kSums];
    for (int t = 0; t < NT; ++t)
      for (int s = 0; s < kSums; ++s) acc[t][s] = _mm512_setzero_si512();
    for (int64_t l = from; l < to; ++l) {
      const uint8_t* at = codes + l * kLineBytes;
      _mm_prefetch(reinterpret_cast<const char*>(at + kAhead), _MM_HINT_T0);
      const int8_t* ql = q + l * L::kQuads * 4 * NT;
      __m512i code[L::kQuads];
      L::InPlace(_mm512_loadu_si512(at), code);
#pragma GCC unroll 8
      for (int j = 0; j < L::kQuads; ++j)
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t)
          acc[t][j] = _mm512_dpbusd_epi32(acc[t][j], code[j],
                                          avx512_vnni::Broadcast4(ql + (j * NT + t) * 4));
    }
    for (int t = 0; t < NT; ++t) {
      __m512i sum =
          _mm512_mullo_epi32(acc[t][4], _mm512_set1_epi32(static_cast<int>(kInverse81)));
      for (int s = 0; s < 4; ++s)
        sum = _mm512_add_epi32(sum, _mm512_srai_epi32(acc[t][s], 2 * s));
      if (from > l0) sum = _mm512_add_epi32(sum, _mm512_loadu_si512(out + t * ldo));
      _mm512_storeu_si512(out + t * ldo, sum);
    }
  }
}

// NT tokens, NB row blocks: a line is expanded once and used NT times.
template <class L, int NB, int NT>
BITNET_INLINE void TileLines(const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1,
                             int64_t ahead, const int8_t* q, __m512i (*acc)[NB]) {
  for (int64_t l = l0; l < l1; ++l) {
    const int8_t* ql = q + l * L::kQuads * 4 * NT;
    __m512i code[NB][L::kQuads];
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) {
      const uint8_t* at = codes + (b * lines + l) * kLineBytes;
      if (NT <= 4 || NB == 1) _mm_prefetch(reinterpret_cast<const char*>(at + ahead), _MM_HINT_T0);
      L::Codes(_mm512_loadu_si512(at), code[b]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < L::kQuads; ++j) {
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const __m512i four = avx512_vnni::Broadcast4(ql + (j * NT + t) * 4);
        for (int b = 0; b < NB; ++b) acc[t][b] = _mm512_dpbusd_epi32(acc[t][b], code[b][j], four);
      }
    }
  }
}

template <class L, int NB, int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1,
                               const int8_t* q, int32_t* out, int64_t ldo) {
  __m512i acc[NT][NB];
  for (int t = 0; t < NT; ++t)
    for (int b = 0; b < NB; ++b) acc[t][b] = _mm512_setzero_si512();
  const int64_t turn = avx512_vnni::Turn(lines, l0, l1);
  TileLines<L, NB, NT>(codes, lines, l0, turn, kPrefetchBytes, q, acc);
  TileLines<L, NB, NT>(codes, lines, turn, l1, avx512_vnni::Jump(NB, lines), q, acc);
  for (int t = 0; t < NT; ++t)
    for (int b = 0; b < NB; ++b) _mm512_storeu_si512(out + t * ldo + b * kRows, acc[t][b]);
}

using avx512_vnni::Shape;

// One block at a time: a single stream. What a broadcast costs more is hidden by memory.
static const Shape kPlainShapes[kMaxTokens] = {
    {1, Stream<Plain, 1>, Stream<Plain, 1>},   {1, Stream<Plain, 2>, Stream<Plain, 2>},
    {1, Stream<Plain, 3>, Stream<Plain, 3>},   {1, Stream<Plain, 4>, Stream<Plain, 4>},
    {1, Tile<Plain, 1, 5>, Tile<Plain, 1, 5>}, {1, Tile<Plain, 1, 6>, Tile<Plain, 1, 6>},
    {1, Tile<Plain, 1, 7>, Tile<Plain, 1, 7>}, {1, Tile<Plain, 1, 8>, Tile<Plain, 1, 8>},
};
static const Shape kDenseShapes[kMaxTokens] = {
    {1, Stream<Dense, 1>, Stream<Dense, 1>},   {1, Stream<Dense, 2>, Stream<Dense, 2>},
    {2, Tile<Dense, 2, 3>, Tile<Dense, 1, 3>},  // 15 sums and what they need outgrow 32 registers
    {1, Tile<Dense, 1, 4>, Tile<Dense, 1, 4>}, {1, Tile<Dense, 1, 5>, Tile<Dense, 1, 5>},
    {1, Tile<Dense, 1, 6>, Tile<Dense, 1, 6>}, {1, Tile<Dense, 1, 7>, Tile<Dense, 1, 7>},
    {1, Tile<Dense, 1, 8>, Tile<Dense, 1, 8>},
};

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens, int32_t* raw) {
  avx512_vnni::AccumulateWith(kPlainShapes, codes, blocks, lines, segment_lines, q, tokens, raw);
}

static void AccumulateDense(const uint8_t* codes, int64_t blocks, int64_t lines,
                            int64_t segment_lines, const int8_t* q, int64_t tokens,
                            int32_t* raw) {
  avx512_vnni::AccumulateWith(kDenseShapes, codes, blocks, lines, segment_lines, q, tokens, raw);
}

static bool Usable() { return HasAvx512Vbmi(); }

static const Kernel kKernel = {"avx512_vbmi",
                               Usable,
                               avx512_vnni::Quantize<float>,
                               avx512_vnni::Quantize<uint16_t>,
                               avx512_vnni::Sum,
                               Accumulate,
                               &avx512_vnni::kFloats,
                               AccumulateDense};

#undef BITNET_INLINE
#undef BITNET_TARGET

}  // namespace avx512_vbmi
}  // namespace bitnet

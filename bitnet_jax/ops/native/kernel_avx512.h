// AVX-512 VNNI form: a line is one register, VPDPBUSD multiplies it by four
// activations broadcast to all sixteen rows. No horizontal sum is ever needed.
#pragma once

#include <immintrin.h>

#include "cpu_x86.h"
#include "kernel.h"

namespace bitnet {
namespace avx512_vnni {

#define BITNET_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

BITNET_TARGET static inline __m512 LoadMasked(const float* x, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, x);
}
BITNET_TARGET static inline __m512 LoadMasked(const uint16_t* x, __mmask16 mask) {
  const __m256i half = _mm256_maskz_loadu_epi16(mask, x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline uint16_t TailMask(int64_t left) {
  return left >= 16 ? 0xffff : static_cast<uint16_t>((1u << left) - 1);
}

template <typename T>
BITNET_TARGET static float Quantize(const T* x, int64_t k, int64_t padded, int8_t* q) {
  const __m512i sign = _mm512_set1_epi32(0x7fffffff);
  __m512i top0 = _mm512_setzero_si512(), top1 = top0;
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
    const __m512i v0 = _mm512_castps_si512(LoadMasked(x + i, 0xffff));
    const __m512i v1 = _mm512_castps_si512(LoadMasked(x + i + 16, 0xffff));
    top0 = _mm512_max_epi32(top0, _mm512_and_si512(v0, sign));
    top1 = _mm512_max_epi32(top1, _mm512_and_si512(v1, sign));
  }
  for (; i < k; i += 16) {
    const __m512i v = _mm512_castps_si512(LoadMasked(x + i, TailMask(k - i)));
    top0 = _mm512_max_epi32(top0, _mm512_and_si512(v, sign));
  }
  const uint32_t top =
      static_cast<uint32_t>(_mm512_reduce_max_epi32(_mm512_max_epi32(top0, top1)));
  const float a = ClampAbsmax(top);
  if (!IsFiniteBits(top)) {
    std::memset(q, 0, padded);
    return a;
  }
  const __m512 r = _mm512_set1_ps(127.0f / a);
  // padded is a multiple of 16 that reaches k: the last store writes the zeros too.
  for (i = 0; i < padded; i += 16) {
    const __m512 v = _mm512_mul_ps(LoadMasked(x + i, TailMask(k - i)), r);
    const __m512i rounded =
        _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtsepi32_epi8(rounded));
  }
  return a;
}

BITNET_TARGET static int32_t Sum(const int8_t* q, int64_t n) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i acc = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t left = n - i;
    const __mmask64 mask = left >= 64 ? ~0ull : (1ull << left) - 1;
    acc = _mm512_dpbusd_epi32(acc, ones, _mm512_maskz_loadu_epi8(mask, q + i));
  }
  return _mm512_reduce_add_epi32(acc);
}

BITNET_TARGET static inline __m512i Broadcast4(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof(four));
  return _mm512_set1_epi32(four);
}

// One token, NB row blocks side by side: their lines are NB streams, and two
// accumulators each hide the latency of VPDPBUSD. Fetches `ahead` bytes before use.
template <int NB>
BITNET_TARGET static inline __attribute__((always_inline)) void StreamLines(
    const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1, int64_t ahead,
    const int8_t* q, __m512i* even, __m512i* odd) {
  const __m512i three = _mm512_set1_epi8(3);
  for (int64_t l = l0; l < l1; ++l) {
    const int8_t* ql = q + l * kCols;
    const __m512i q0 = Broadcast4(ql), q1 = Broadcast4(ql + 4);
    const __m512i q2 = Broadcast4(ql + 8), q3 = Broadcast4(ql + 12);
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) {
      const uint8_t* at = codes + (b * lines + l) * kLineBytes;
      _mm_prefetch(reinterpret_cast<const char*>(at + ahead), _MM_HINT_T1);
      const __m512i line = _mm512_loadu_si512(at);
      const __m512i c0 = _mm512_and_si512(line, three);
      const __m512i c1 = _mm512_and_si512(_mm512_srli_epi32(line, 2), three);
      const __m512i c2 = _mm512_and_si512(_mm512_srli_epi32(line, 4), three);
      const __m512i c3 = _mm512_and_si512(_mm512_srli_epi32(line, 6), three);
      even[b] = _mm512_dpbusd_epi32(even[b], c0, q0);
      odd[b] = _mm512_dpbusd_epi32(odd[b], c1, q1);
      even[b] = _mm512_dpbusd_epi32(even[b], c2, q2);
      odd[b] = _mm512_dpbusd_epi32(odd[b], c3, q3);
    }
  }
}

// Near the end of a block, what comes next is not the block beside it, which is being
// read already, but the same place of the next NB blocks: from the line `Turn` on, fetch
// `Jump` ahead. (One thread, 2560 columns: 20 GB/s without this, 29 with it.)
static inline int64_t Turn(int64_t lines, int64_t l0, int64_t l1) {
  const int64_t turn = lines - kPrefetchBytes / kLineBytes;
  return turn < l0 ? l0 : turn > l1 ? l1 : turn;
}
static inline int64_t Jump(int64_t blocks, int64_t lines) {
  return kPrefetchBytes + (blocks - 1) * lines * kLineBytes;
}

template <int NB>
BITNET_TARGET static void Stream(const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1,
                                 const int8_t* q, int32_t* out) {
  __m512i even[NB], odd[NB];
  for (int b = 0; b < NB; ++b) even[b] = odd[b] = _mm512_setzero_si512();
  const int64_t turn = Turn(lines, l0, l1);
  StreamLines<NB>(codes, lines, l0, turn, kPrefetchBytes, q, even, odd);
  StreamLines<NB>(codes, lines, turn, l1, Jump(NB, lines), q, even, odd);
  for (int b = 0; b < NB; ++b)
    _mm512_storeu_si512(out + b * kRows, _mm512_add_epi32(even[b], odd[b]));
}

// NT tokens, NB row blocks: a line is expanded once and used NT times.
template <int NB, int NT>
BITNET_TARGET static inline __attribute__((always_inline)) void TileLines(
    const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1, int64_t ahead,
    const int8_t* q, __m512i (*acc)[NB]) {
  const __m512i three = _mm512_set1_epi8(3);
  for (int64_t l = l0; l < l1; ++l) {
    const int8_t* ql = q + l * kCols * NT;
    __m512i line[NB];
    for (int b = 0; b < NB; ++b) {
      const uint8_t* at = codes + (b * lines + l) * kLineBytes;
      // More tokens are bound by arithmetic, and there the extra instruction costs 20 %.
      if (NT <= 4) _mm_prefetch(reinterpret_cast<const char*>(at + ahead), _MM_HINT_T1);
      line[b] = _mm512_loadu_si512(at);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __m512i code[NB];
      for (int b = 0; b < NB; ++b) {
        code[b] = _mm512_and_si512(line[b], three);
        line[b] = _mm512_srli_epi32(line[b], 2);
      }
#pragma GCC unroll 8
      for (int t = 0; t < NT; ++t) {
        const __m512i four = Broadcast4(ql + (j * NT + t) * 4);
        for (int b = 0; b < NB; ++b) acc[t][b] = _mm512_dpbusd_epi32(acc[t][b], code[b], four);
      }
    }
  }
}

template <int NB, int NT>
BITNET_TARGET static void Tile(const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1,
                               const int8_t* q, int32_t* out, int64_t ldo) {
  __m512i acc[NT][NB];
  for (int t = 0; t < NT; ++t)
    for (int b = 0; b < NB; ++b) acc[t][b] = _mm512_setzero_si512();
  const int64_t turn = Turn(lines, l0, l1);
  TileLines<NB, NT>(codes, lines, l0, turn, kPrefetchBytes, q, acc);
  TileLines<NB, NT>(codes, lines, turn, l1, Jump(NB, lines), q, acc);
  for (int t = 0; t < NT; ++t)
    for (int b = 0; b < NB; ++b) _mm512_storeu_si512(out + t * ldo + b * kRows, acc[t][b]);
}

template <int NB>
BITNET_TARGET static void Tile1(const uint8_t* codes, int64_t lines, int64_t l0, int64_t l1,
                                const int8_t* q, int32_t* out, int64_t) {
  Stream<NB>(codes, lines, l0, l1, q, out);
}

using TileFn = void (*)(const uint8_t*, int64_t, int64_t, int64_t, const int8_t*, int32_t*,
                        int64_t);

// How many blocks at once for a number of tokens: up to 16 sums stay in registers, and
// each broadcast of activations serves as many blocks as it can.
struct Shape {
  int64_t blocks;
  TileFn wide, narrow;  // for `blocks` blocks, and for one
};
static const Shape kShapes[kMaxTokens] = {
    {4, Tile1<4>, Tile1<1>},     {4, Tile<4, 2>, Tile<1, 2>}, {4, Tile<4, 3>, Tile<1, 3>},
    {4, Tile<4, 4>, Tile<1, 4>}, {2, Tile<2, 5>, Tile<1, 5>}, {2, Tile<2, 6>, Tile<1, 6>},
    {2, Tile<2, 7>, Tile<1, 7>}, {2, Tile<2, 8>, Tile<1, 8>},
};

static inline void AccumulateWith(const Shape* shapes, const uint8_t* codes, int64_t blocks,
                                  int64_t lines, int64_t segment_lines, const int8_t* q,
                                  int64_t tokens, int32_t* raw) {
  const Shape& shape = shapes[tokens - 1];
  const int64_t ldo = blocks * kRows;
  for (int64_t l0 = 0; l0 < lines; l0 += segment_lines, raw += tokens * ldo) {
    const int64_t l1 = l0 + segment_lines < lines ? l0 + segment_lines : lines;
    for (int64_t b = 0; b < blocks;) {
      const bool wide = blocks - b >= shape.blocks;
      (wide ? shape.wide : shape.narrow)(codes + b * lines * kLineBytes, lines, l0, l1, q,
                                         raw + b * kRows, ldo);
      b += wide ? shape.blocks : 1;
    }
  }
}

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens, int32_t* raw) {
  AccumulateWith(kShapes, codes, blocks, lines, segment_lines, q, tokens, raw);
}

#define BITNET_PARTS 1
#include "floats.h"

static bool Usable() { return HasAvx512Vnni(); }

static const Kernel kKernel = {"avx512_vnni",      Usable, Quantize<float>,
                               Quantize<uint16_t>, Sum,    Accumulate, &kFloats};

#undef BITNET_TARGET

}  // namespace avx512_vnni
}  // namespace bitnet

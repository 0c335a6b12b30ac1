// AVX2 form of rows.h, and the same with the 256-bit VNNI of newer client processors.
//
// Without VNNI: codes of 4 and 6 bits, made unsigned, are summed in pairs in 16 bits by
// VPMADDUBSW, at most 2*63*128 = 16,128. Of 8-bit codes a pair may not fit there, so these
// are widened first.
#pragma once

#include <immintrin.h>

#include "cpu_x86.h"
#include "rows.h"

namespace bitnet {
namespace rows_avx {

#define BITNET_TARGET __attribute__((target("avx2")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

using Codes = __m256i;
using Sums = __m256i;
constexpr int kVectors = 2;
constexpr int kFew = 2, kTokens = 2;  // 4 x 2 sums, 4 rows of codes: 12 of 16 registers

BITNET_OP Sums Zero() { return _mm256_setzero_si256(); }
BITNET_OP Sums Add(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
BITNET_OP Codes Get(const void* at) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(at));
}
BITNET_OP void Put(uint8_t* at, Codes v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), v);
}

BITNET_OP __m128i Get16(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

BITNET_OP __m256i Field(__m256i shifted, int32_t mask) {
  return _mm256_and_si256(shifted, _mm256_set1_epi32(mask));
}

// Sixteen codes to a half, from the first twelve bytes of `low` and of `high`.
BITNET_OP Codes Sixes(__m128i low, __m128i high, __m256i triples) {
  const __m256i x = _mm256_shuffle_epi8(
      _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1), triples);
  const __m256i r = _mm256_or_si256(
      _mm256_or_si256(Field(x, 0x3f), Field(_mm256_slli_epi32(x, 2), 0x3f00)),
      _mm256_or_si256(Field(_mm256_slli_epi32(x, 4), 0x3f0000),
                      Field(_mm256_slli_epi32(x, 6), 0x3f000000)));
  return _mm256_xor_si256(r, _mm256_set1_epi8(32));
}

BITNET_OP void Load6(const uint8_t* at, Codes* v) {
  const __m256i triples = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,
                                           0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
  v[0] = Sixes(Get16(at), Get16(at + 12), triples);
  // The last twelve bytes are loaded with the four before them: nothing beyond is read.
  v[1] = Sixes(Get16(at + 24), _mm_srli_si128(Get16(at + 32), 4), triples);
}

BITNET_OP void Load4(const uint8_t* at, Codes* v) {
  const __m256i fifteen = _mm256_set1_epi8(15), eights = _mm256_set1_epi8(-120);  // 0x88
  const __m256i w0 = _mm256_xor_si256(Get(at), eights);
  const __m256i w1 = _mm256_xor_si256(Get(at + 32), eights);
  v[0] = _mm256_and_si256(w0, fifteen);
  v[1] = _mm256_and_si256(w1, fifteen);
  v[2] = _mm256_and_si256(_mm256_srli_epi32(w0, 4), fifteen);
  v[3] = _mm256_and_si256(_mm256_srli_epi32(w1, 4), fifteen);
}

BITNET_OP void Reduce(const Sums* s, int32_t* raw) {
  const __m256i a = _mm256_hadd_epi32(s[0], s[1]), b = _mm256_hadd_epi32(s[2], s[3]);
  const __m256i c = _mm256_hadd_epi32(a, b);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(raw),
                   _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1)));
}

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_avx

namespace rows_avx2 {
using namespace rows_avx;

#define BITNET_TARGET __attribute__((target("avx2")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

constexpr const char* kName = "avx2";
constexpr int32_t kOffsets[] = {0, 32, 8};

BITNET_OP void Load8(const uint8_t* at, Codes* v) {
  v[0] = Get(at);
  v[1] = Get(at + 32);
}

BITNET_OP __m256i Wide(__m128i codes) { return _mm256_cvtepi8_epi16(codes); }

template <int L>
BITNET_OP Sums Dot(Sums sums, Codes v, const int8_t* q) {
  const __m256i four = Get(q);
  if constexpr (L == kI8) {
    const __m256i low = _mm256_madd_epi16(Wide(_mm256_castsi256_si128(v)),
                                          Wide(_mm256_castsi256_si128(four)));
    const __m256i high = _mm256_madd_epi16(Wide(_mm256_extracti128_si256(v, 1)),
                                           Wide(_mm256_extracti128_si256(four, 1)));
    return _mm256_add_epi32(sums, _mm256_add_epi32(low, high));
  } else {
    const __m256i pairs = _mm256_maddubs_epi16(v, four);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
}

#include "rows_body.h"

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_avx2

namespace rows_avx_vnni {
using namespace rows_avx;

#define BITNET_TARGET __attribute__((target("avx2,avxvnni")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

constexpr const char* kName = "avx_vnni";
constexpr int32_t kOffsets[] = {128, 32, 8};

BITNET_OP void Load8(const uint8_t* at, Codes* v) {
  v[0] = _mm256_xor_si256(Get(at), _mm256_set1_epi8(-128));
  v[1] = _mm256_xor_si256(Get(at + 32), _mm256_set1_epi8(-128));
}

template <int L>
BITNET_OP Sums Dot(Sums sums, Codes v, const int8_t* q) {
  return _mm256_dpbusd_avx_epi32(sums, v, Get(q));
}

#include "rows_body.h"

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_avx_vnni
}  // namespace bitnet

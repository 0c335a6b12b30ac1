// AVX-512 forms of rows.h: VPDPBUSD over 64 codes that an offset made unsigned. With VBMI,
// 6-bit codes are spread by one permutation of bytes and one shift with a count for each
// byte; without, by shifts within 32 bits.
#pragma once

#include <immintrin.h>

#include "cpu_x86.h"
#include "rows.h"

namespace bitnet {
namespace rows_avx512 {

#define BITNET_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

using Codes = __m512i;
using Sums = __m512i;
constexpr int kVectors = 1;
constexpr int32_t kOffsets[] = {128, 32, 8};
constexpr int kFew = 4, kTokens = 6;  // 4 x 6 sums and 4 rows of codes: 28 of 32 registers

BITNET_OP Sums Zero() { return _mm512_setzero_si512(); }
BITNET_OP Sums Add(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
BITNET_OP Codes Get(const uint8_t* at) { return _mm512_loadu_si512(at); }
BITNET_OP void Put(uint8_t* at, Codes v) { _mm512_storeu_si512(at, v); }

BITNET_OP void Load8(const uint8_t* at, Codes* v) {
  v[0] = _mm512_xor_si512(Get(at), _mm512_set1_epi8(-128));
}

constexpr int kAndXor = 0x6a, kOrAnd = 0xf8;  // VPTERNLOG: (a & b) ^ c, a | (b & c)

BITNET_OP void Load4(const uint8_t* at, Codes* v) {
  const __m512i w = Get(at), low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
  v[0] = _mm512_ternarylogic_epi32(w, low, eight, kAndXor);
  v[1] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(w, 4), low, eight, kAndXor);
}

BITNET_OP __m512i Get48(const uint8_t* at) { return _mm512_maskz_loadu_epi32(0x0fff, at); }

template <int L>
BITNET_OP Sums Dot(Sums sums, Codes v, const int8_t* q) {
  return _mm512_dpbusd_epi32(sums, v, _mm512_loadu_si512(q));
}

// The totals of four vectors, transposed while they are added.
BITNET_OP void Reduce(const Sums* s, int32_t* raw) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]),
                                     _mm512_unpackhi_epi32(s[0], s[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]),
                                     _mm512_unpackhi_epi32(s[2], s[3]));
  const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  const __m256i d =
      _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(raw),
                   _mm_add_epi32(_mm256_castsi256_si128(d), _mm256_extracti128_si256(d, 1)));
}

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace rows_avx512

namespace rows_avx512_vnni {
using namespace rows_avx512;

#define BITNET_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

BITNET_TARGET static inline __attribute__((always_inline)) void Load6(const uint8_t* at,
                                                                      Codes* v) {
  // Twelve bytes to a lane of sixteen, then three to each 32 bits, then a field to a byte.
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const __m512i triples = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  const __m512i x =
      _mm512_shuffle_epi8(_mm512_permutexvar_epi32(lanes, Get48(at)), triples);
  __m512i r = _mm512_and_si512(x, _mm512_set1_epi32(0x3f));
  r = _mm512_ternarylogic_epi32(r, _mm512_slli_epi32(x, 2), _mm512_set1_epi32(0x3f00), kOrAnd);
  r = _mm512_ternarylogic_epi32(r, _mm512_slli_epi32(x, 4), _mm512_set1_epi32(0x3f0000), kOrAnd);
  r = _mm512_ternarylogic_epi32(r, _mm512_slli_epi32(x, 6), _mm512_set1_epi32(0x3f000000),
                                kOrAnd);
  v[0] = _mm512_xor_si512(r, _mm512_set1_epi8(32));
}

constexpr const char* kName = "avx512_vnni";
#include "rows_body.h"

#undef BITNET_TARGET
}  // namespace rows_avx512_vnni

namespace rows_avx512_vbmi {
using namespace rows_avx512;

#define BITNET_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")))

BITNET_TARGET static inline __attribute__((always_inline)) void Load6(const uint8_t* at,
                                                                      Codes* v) {
  // Six bytes to a lane of eight, whose byte i becomes its bits 6i to 6i+7.
  const __m512i sixes = _mm512_set_epi64(
      0x31302f2e2d2c2b2a, 0x2b2a292827262524, 0x2524232221201f1e,
      0x1f1e1d1c1b1a1918, 0x1918171615141312, 0x131211100f0e0d0c, 0x0d0c0b0a09080706,
      0x0706050403020100);
  const __m512i fields = _mm512_set1_epi64(0x2a241e18120c0600);
  const __m512i x = _mm512_multishift_epi64_epi8(
      fields, _mm512_permutexvar_epi8(sixes, Get48(at)));
  v[0] = _mm512_ternarylogic_epi32(x, _mm512_set1_epi8(63), _mm512_set1_epi8(32), kAndXor);
}

constexpr const char* kName = "avx512_vbmi";
#include "rows_body.h"

#undef BITNET_TARGET
}  // namespace rows_avx512_vbmi
}  // namespace bitnet

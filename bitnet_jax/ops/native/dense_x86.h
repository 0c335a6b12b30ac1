// AVX-512 and AVX2 forms of dense.h.
#pragma once

#include <immintrin.h>

#include "dense.h"

namespace bitnet {
namespace dense_avx512 {

#define BITNET_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

using Lanes = __m512;
constexpr int kTokens = 6;  // 4 x 6 sums, 4 rows of weights: 28 of 32 registers

BITNET_OP Lanes Zero() { return _mm512_setzero_ps(); }
BITNET_OP Lanes Get(const float* at) { return _mm512_loadu_ps(at); }
BITNET_OP Lanes Get(const uint16_t* at) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
BITNET_OP void Put(float* at, Lanes v) { _mm512_storeu_ps(at, v); }
BITNET_OP Lanes MultiplyAdd(Lanes sum, Lanes w, Lanes x) {
  return _mm512_add_ps(sum, _mm512_mul_ps(w, x));
}

#include "dense_body.h"

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace dense_avx512

namespace dense_avx2 {

#define BITNET_TARGET __attribute__((target("avx2")))
#define BITNET_OP BITNET_TARGET static inline __attribute__((always_inline))

struct Lanes {
  __m256 low, high;
};
constexpr int kTokens = 1;  // 4 x 1 sums of two registers: two tokens would need 16

BITNET_OP Lanes Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
BITNET_OP Lanes Get(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
BITNET_OP __m256 Widen(const uint16_t* at) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
BITNET_OP Lanes Get(const uint16_t* at) { return {Widen(at), Widen(at + 8)}; }
BITNET_OP void Put(float* at, Lanes v) {
  _mm256_storeu_ps(at, v.low);
  _mm256_storeu_ps(at + 8, v.high);
}
BITNET_OP Lanes MultiplyAdd(Lanes sum, Lanes w, Lanes x) {
  return {_mm256_add_ps(sum.low, _mm256_mul_ps(w.low, x.low)),
          _mm256_add_ps(sum.high, _mm256_mul_ps(w.high, x.high))};
}

#include "dense_body.h"

#undef BITNET_OP
#undef BITNET_TARGET
}  // namespace dense_avx2
}  // namespace bitnet

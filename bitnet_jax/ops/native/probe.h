// What this machine can do at most: bytes read from memory, and int8 products whose operands
// stand in registers. `bitnet bench` sets what an engine reaches beside them.
//
// A form is an instruction set; each gives the best loop that it has. Knows nothing of models,
// layouts or XLA. As in the kernel files, no standard templates are used inside the forms.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu_x86.h"
#elif defined(__aarch64__)
#include "kernel_neon_i8mm.h"
#endif

namespace bitnet {
namespace probe {

constexpr int64_t kStreams = 4;        // places that one thread reads from in turn, at most
constexpr int64_t kLine = 64;          // bytes of a cache line
constexpr int64_t kAhead = 4096;       // bytes fetched ahead of use, in each stream
constexpr int64_t kUnroll = 12;        // sums kept at once: more than latency times width
constexpr int64_t kRepeat = 4;         // times in one turn of a loop, whose moves then count little

struct Form {
  const char* name;
  bool (*usable)();
  // A sum over `bytes` at `at`, a multiple of kStreams * kLine: only so that all is read. By
  // kStreams streams, fetched ahead; and by one, which the processor fetches ahead by itself.
  // (Seen on two shared Zen 5 cores: 10 GB/s and 14. Which is faster is found out by trying.)
  uint64_t (*read[2])(const uint8_t* at, int64_t bytes);
  // `rounds` turns of products; `*sum` keeps them alive. Returns operations (two a product).
  int64_t (*multiply)(int64_t rounds, uint64_t* sum);
};

#if defined(__x86_64__)
namespace avx512_vnni {
#define BITNET_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
// One stream is read four lines at a time, or its sums would wait for each other.
template <bool kApart>
BITNET_TARGET static uint64_t Read(const uint8_t* at, int64_t bytes) {
  const int64_t part = kApart ? bytes / kStreams : kLine;
  const int64_t step = kApart ? kLine : kStreams * kLine;
  __m512i sum[kStreams];
  for (int64_t s = 0; s < kStreams; ++s) sum[s] = _mm512_setzero_si512();
  for (int64_t i = 0; i < (kApart ? part : bytes); i += step) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < kStreams; ++s) {
      const uint8_t* line = at + s * part + i;
      if (kApart) _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
      sum[s] = _mm512_xor_si512(sum[s], _mm512_loadu_si512(line));
    }
  }
  __m512i all = sum[0];
  for (int64_t s = 1; s < kStreams; ++s) all = _mm512_xor_si512(all, sum[s]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
}
BITNET_TARGET static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(static_cast<char>(*sum | 1));
  __m512i acc[kUnroll];
  for (int64_t u = 0; u < kUnroll; ++u) acc[u] = _mm512_set1_epi32(static_cast<int>(u));
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRepeat; ++r)
#pragma GCC unroll 12
      for (int64_t u = 0; u < kUnroll; ++u) acc[u] = _mm512_dpbusd_epi32(acc[u], a, b);
  __m512i all = acc[0];
  for (int64_t u = 1; u < kUnroll; ++u) all = _mm512_xor_si512(all, acc[u]);
  *sum = static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
  return rounds * kRepeat * kUnroll * 64 * 2;
}
static bool Usable() { return HasAvx512Vnni(); }
static const Form kForm = {"avx512_vnni", Usable, {Read<true>, Read<false>}, Multiply};
#undef BITNET_TARGET
}  // namespace avx512_vnni

namespace avx2 {
#define BITNET_TARGET __attribute__((target("avx2")))
BITNET_TARGET static inline uint64_t Fold(__m256i v) {
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), v);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}
template <bool kApart>
BITNET_TARGET static uint64_t Read(const uint8_t* at, int64_t bytes) {
  const int64_t part = kApart ? bytes / kStreams : kLine;
  const int64_t step = kApart ? kLine : kStreams * kLine;
  __m256i sum[kStreams];
  for (int64_t s = 0; s < kStreams; ++s) sum[s] = _mm256_setzero_si256();
  for (int64_t i = 0; i < (kApart ? part : bytes); i += step) {
#pragma GCC unroll 4
    for (int64_t s = 0; s < kStreams; ++s) {
      const uint8_t* line = at + s * part + i;
      if (kApart) _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line));
      const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32));
      sum[s] = _mm256_xor_si256(sum[s], _mm256_xor_si256(low, high));
    }
  }
  __m256i all = sum[0];
  for (int64_t s = 1; s < kStreams; ++s) all = _mm256_xor_si256(all, sum[s]);
  return Fold(all);
}
// Three instructions for 32 products: the pairs are summed in 16 bits, then in 32.
BITNET_TARGET static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  const __m256i b = _mm256_set1_epi8(static_cast<char>(*sum | 1));
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(3);
  __m256i acc[kUnroll];
  for (int64_t u = 0; u < kUnroll; ++u) acc[u] = _mm256_set1_epi32(static_cast<int>(u));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int64_t u = 0; u < kUnroll; ++u) {
      // The first operand changes, or the compiler would take the product out of the loop.
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_xor_si256(a, acc[u]), b);
      acc[u] = _mm256_add_epi32(acc[u], _mm256_madd_epi16(pairs, ones));
    }
  }
  __m256i all = acc[0];
  for (int64_t u = 1; u < kUnroll; ++u) all = _mm256_xor_si256(all, acc[u]);
  *sum = Fold(all);
  return rounds * kUnroll * 32 * 2;
}
static bool Usable() { return HasAvx2(); }
static const Form kForm = {"avx2", Usable, {Read<true>, Read<false>}, Multiply};
#undef BITNET_TARGET
}  // namespace avx2

namespace avx_vnni {
#define BITNET_TARGET __attribute__((target("avx2,avxvnni")))
BITNET_TARGET static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(static_cast<char>(*sum | 1));
  __m256i acc[kUnroll];
  for (int64_t u = 0; u < kUnroll; ++u) acc[u] = _mm256_set1_epi32(static_cast<int>(u));
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 4
    for (int64_t r = 0; r < kRepeat; ++r)
#pragma GCC unroll 12
      for (int64_t u = 0; u < kUnroll; ++u) acc[u] = _mm256_dpbusd_avx_epi32(acc[u], a, b);
  __m256i all = acc[0];
  for (int64_t u = 1; u < kUnroll; ++u) all = _mm256_xor_si256(all, acc[u]);
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), all);
  *sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  return rounds * kRepeat * kUnroll * 32 * 2;
}
static bool Usable() { return HasAvxVnni(); }
static const Form kForm = {"avx_vnni", Usable, {avx2::Read<true>, avx2::Read<false>}, Multiply};
#undef BITNET_TARGET
}  // namespace avx_vnni
#endif  // __x86_64__

// What every compiler can do; it may make vectors of the baseline instruction set.
namespace portable {
template <bool kApart>
static uint64_t Read(const uint8_t* at, int64_t bytes) {
  const int64_t part = kApart ? bytes / kStreams : 8;
  const int64_t step = kApart ? 8 : kStreams * 8;
  uint64_t sum[kStreams] = {};
  for (int64_t i = 0; i < (kApart ? part : bytes); i += step) {
    for (int64_t s = 0; s < kStreams; ++s) {
      uint64_t word;
      std::memcpy(&word, at + s * part + i, sizeof(word));
      sum[s] ^= word;
    }
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}
static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  constexpr int64_t kBytes = 1024;  // of each operand: in the first cache
  int8_t a[kBytes], b[kBytes];
  for (int64_t i = 0; i < kBytes; ++i) {
    a[i] = static_cast<int8_t>(i * 7), b[i] = static_cast<int8_t>(*sum + i);
  }
  uint64_t total = 0;
  for (int64_t r = 0; r < rounds; ++r) {
    int32_t acc = 0;
    for (int64_t i = 0; i < kBytes; ++i) acc += a[i] * b[i];
    b[r % kBytes] = static_cast<int8_t>(acc);
    total += static_cast<uint32_t>(acc);
  }
  *sum = total;
  return rounds * kBytes * 2;
}
static bool Usable() { return true; }
static const Form kForm = {"portable", Usable, {Read<true>, Read<false>}, Multiply};
}  // namespace portable

#if defined(__aarch64__)
namespace neon_dotprod {
#if defined(__clang__)
#define BITNET_TARGET __attribute__((target("dotprod")))
#else
#define BITNET_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
BITNET_TARGET static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(static_cast<int8_t>(*sum | 1));
  int32x4_t acc[kUnroll];
  for (int64_t u = 0; u < kUnroll; ++u) acc[u] = vdupq_n_s32(static_cast<int>(u));
  for (int64_t i = 0; i < rounds; ++i)
    for (int64_t r = 0; r < kRepeat; ++r)
      for (int64_t u = 0; u < kUnroll; ++u) acc[u] = vdotq_s32(acc[u], a, b);
  int32x4_t all = acc[0];
  for (int64_t u = 1; u < kUnroll; ++u) all = veorq_s32(all, acc[u]);
  *sum = static_cast<uint32_t>(vaddvq_s32(all));
  return rounds * kRepeat * kUnroll * 16 * 2;
}
static const Form kForm = {"neon_dotprod", bitnet::neon_dotprod::Usable,
                           {portable::Read<true>, portable::Read<false>}, Multiply};
#undef BITNET_TARGET
}  // namespace neon_dotprod

namespace neon_i8mm {
BITNET_I8MM_TARGET static int64_t Multiply(int64_t rounds, uint64_t* sum) {
  const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(static_cast<int8_t>(*sum | 1));
  int32x4_t acc[kUnroll];
  for (int64_t u = 0; u < kUnroll; ++u) acc[u] = vdupq_n_s32(static_cast<int>(u));
  for (int64_t i = 0; i < rounds; ++i)
    for (int64_t r = 0; r < kRepeat; ++r)
      for (int64_t u = 0; u < kUnroll; ++u)
        acc[u] = bitnet::neon_i8mm::MatrixProduct(acc[u], a, b);
  int32x4_t all = acc[0];
  for (int64_t u = 1; u < kUnroll; ++u) all = veorq_s32(all, acc[u]);
  *sum = static_cast<uint32_t>(vaddvq_s32(all));
  return rounds * kRepeat * kUnroll * 32 * 2;
}
static const Form kForm = {"neon_i8mm", bitnet::neon_i8mm::Usable,
                           {portable::Read<true>, portable::Read<false>}, Multiply};
}  // namespace neon_i8mm
#endif

// Best first.
static const Form* const kForms[] = {
#if defined(__x86_64__)
    &avx512_vnni::kForm, &avx_vnni::kForm, &avx2::kForm,
#elif defined(__aarch64__)
    &neon_i8mm::kForm, &neon_dotprod::kForm,
#endif
    &portable::kForm,
};
constexpr int64_t kFormCount = sizeof(kForms) / sizeof(kForms[0]);

}  // namespace probe
}  // namespace bitnet

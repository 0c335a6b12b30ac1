// What this machine can do at most, for benchmarks/ternary_product.py: bytes read per second,
// and int8 operations per second with everything in registers. Built by it, no part of the library.
#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <ctime>
#include <thread>
#include <vector>

// Seconds that this thread ran: what other work takes of the processor does not count.
static double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds of the thread that ran longest.
template <typename Fn>
static double Timed(int threads, Fn fn) {
  std::atomic<int> ready{0};
  std::vector<double> from(threads), to(threads);
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t)
    all.emplace_back([&, t] {
      for (ready++; ready.load() < threads;) std::this_thread::yield();
      from[t] = Now();
      fn(t);
      to[t] = Now();
    });
  for (std::thread& thread : all) thread.join();
  double longest = 0;
  for (int t = 0; t < threads; ++t)
    longest = to[t] - from[t] > longest ? to[t] - from[t] : longest;
  return longest;
}

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni"), noinline))

// `streams` places at once, each fetched `ahead` bytes before use.
AVX512 static int64_t ReadAll(const char* from, int64_t bytes, int64_t streams, int64_t ahead) {
  const int64_t part = bytes / streams / 64 * 64;
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < part; i += 64)
    for (int64_t s = 0; s < streams; ++s) {
      _mm_prefetch(from + s * part + i + ahead, _MM_HINT_T0);
      sum = _mm512_xor_si512(sum, _mm512_loadu_si512(from + s * part + i));
    }
  return _mm512_reduce_add_epi64(sum);
}

AVX512 static void Multiply(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(2), b = _mm512_set1_epi8(3);
  __m512i s[12] = {a, a, a, a, a, a, a, a, a, a, a, a};
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s[j]) : "v"(a), "v"(b));
}

extern "C" double read_seconds(const char* from, int64_t bytes, int64_t threads, int64_t streams,
                               int64_t ahead) {
  const int64_t part = bytes / threads;
  std::atomic<int64_t> keep{0};
  return Timed(threads, [&](int t) { keep += ReadAll(from + t * part, part, streams, ahead); });
}

// 12 x 64 products and sums a round and thread.
extern "C" double multiply_seconds(int64_t rounds, int64_t threads) {
  return Timed(threads, [&](int) { Multiply(rounds); });
}

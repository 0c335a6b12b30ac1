// The library's entry to probe.h: a form on a number of threads that begin together.
// Included by library.cc alone, whose BITNET_EXPORT it uses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "probe.h"

// The name of a form, best first; null beyond the last.
BITNET_EXPORT const char* bitnet_probe_name(int64_t form) {
  return form >= 0 && form < bitnet::probe::kFormCount ? bitnet::probe::kForms[form]->name
                                                       : nullptr;
}

BITNET_EXPORT int bitnet_probe_usable(int64_t form) {
  return form >= 0 && form < bitnet::probe::kFormCount && bitnet::probe::kForms[form]->usable();
}

// Reads `bytes` at `buffer` `rounds` times on `threads` threads, each its own part by one stream
// or by several (buffer not null); or multiplies for `rounds` rounds on each. out: seconds, and
// bytes or operations. Returns 0, or 1: the form cannot run here, or the sizes are not right.
BITNET_EXPORT int bitnet_probe(int64_t form, int64_t threads, const uint8_t* buffer,
                               int64_t bytes, int64_t streams, int64_t rounds, double* out) {
  using namespace bitnet::probe;
  constexpr int64_t kStep = kStreams * kLine;
  if (!bitnet_probe_usable(form) || threads < 1 || threads > 4096 || rounds < 1) return 1;
  const int64_t part = bytes / threads / kStep * kStep;
  if (buffer != nullptr && part < kStep) return 1;
  const Form& at = *kForms[form];
  const auto read = at.read[streams == 1];
  std::atomic<int64_t> ready{0}, work{0};
  std::atomic<bool> go{false};
  std::atomic<uint64_t> kept{0};
  std::vector<std::thread> started;
  for (int64_t t = 0; t < threads; ++t) {
    started.emplace_back([&, t] {
      ready.fetch_add(1);
      while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
      uint64_t sum = static_cast<uint64_t>(t);
      int64_t mine = 0;
      if (buffer == nullptr) {
        mine = at.multiply(rounds, &sum);
      } else {
        for (int64_t r = 0; r < rounds; ++r, mine += part) sum ^= read(buffer + t * part, part);
      }
      kept.fetch_xor(sum), work.fetch_add(mine);
    });
  }
  while (ready.load() < threads) std::this_thread::yield();
  const auto begin = std::chrono::steady_clock::now();
  go.store(true, std::memory_order_release);
  for (auto& thread : started) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  out[0] = took.count(), out[1] = static_cast<double>(work.load());
  out[2] = static_cast<double>(kept.load());
  return 0;
}

// The float environment of a call and of the library's threads: rounding to nearest even, subnormal numbers kept.
//
// XLA's threads flush subnormal numbers to zero and the library's own would not: without this,
// such a number would depend on which thread met it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bitnet {

class IeeeFloats {
 public:
#if defined(__x86_64__)
  IeeeFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~IeeeFloats() { _mm_setcsr(before_); }

 private:
  uint32_t before_;
#elif defined(__aarch64__)
  IeeeFloats() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~IeeeFloats() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
  IeeeFloats(const IeeeFloats&) = delete;
  IeeeFloats& operator=(const IeeeFloats&) = delete;
};

}  // namespace bitnet

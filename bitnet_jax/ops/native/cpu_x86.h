// What this x86-64 processor and its system offer, from cpuid itself: the answer of
// __builtin_cpu_supports is no to everything with runtime libraries that never ask (zig's).
// Macro-free and without templates, as the kernel files.
#pragma once

#include <cstdint>

namespace bitnet {

struct CpuidAnswer {
  uint32_t eax, ebx, ecx, edx;
};

static inline CpuidAnswer Cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidAnswer a;
  __asm__ volatile("cpuid"
                   : "=a"(a.eax), "=b"(a.ebx), "=c"(a.ecx), "=d"(a.edx)
                   : "a"(leaf), "c"(subleaf));
  return a;
}

// Whether the system saves the registers of `mask` (XCR0): 0x6 is AVX, 0xe6 is AVX-512.
static inline bool SystemSaves(uint32_t mask) {
  constexpr uint32_t kOsxsaveAndAvx = (1u << 27) | (1u << 28);
  if ((Cpuid(1, 0).ecx & kOsxsaveAndAvx) != kOsxsaveAndAvx) return false;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}

static inline bool HasAvx2() {
  return Cpuid(0, 0).eax >= 7 && SystemSaves(0x6) && (Cpuid(7, 0).ebx >> 5 & 1);
}

static inline bool HasAvxVnni() {
  return HasAvx2() && Cpuid(7, 0).eax >= 1 && (Cpuid(7, 1).eax >> 4 & 1);
}

static inline bool HasAvx512Vnni() {
  constexpr uint32_t kFDqBwVl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  if (!HasAvx2() || !SystemSaves(0xe6)) return false;
  const CpuidAnswer a = Cpuid(7, 0);
  return (a.ebx & kFDqBwVl) == kFDqBwVl && (a.ecx >> 11 & 1);
}

static inline bool HasAvx512Vbmi() {
  return HasAvx512Vnni() && (Cpuid(7, 0).ecx >> 1 & 1);
}

}  // namespace bitnet

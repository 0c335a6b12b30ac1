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

// What this processor has, asked once: in a virtual machine each cpuid leaves it, and asking
// in every call cost the call 11 to 25 us.
struct CpuX86 {
  bool avx2 = false, avx_vnni = false, avx512_vnni = false, avx512_vbmi = false;

  CpuX86() {
    if (Cpuid(0, 0).eax < 7 || !SystemSaves(0x6)) return;
    constexpr uint32_t kFDqBwVl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
    const CpuidAnswer a = Cpuid(7, 0);
    avx2 = a.ebx >> 5 & 1;
    avx_vnni = avx2 && a.eax >= 1 && (Cpuid(7, 1).eax >> 4 & 1);
    avx512_vnni = avx2 && SystemSaves(0xe6) && (a.ebx & kFDqBwVl) == kFDqBwVl && (a.ecx >> 11 & 1);
    avx512_vbmi = avx512_vnni && (a.ecx >> 1 & 1);
  }
};

static inline const CpuX86& ThisCpu() {
  static const CpuX86 cpu;
  return cpu;
}

static inline bool HasAvx2() { return ThisCpu().avx2; }
static inline bool HasAvxVnni() { return ThisCpu().avx_vnni; }
static inline bool HasAvx512Vnni() { return ThisCpu().avx512_vnni; }
static inline bool HasAvx512Vbmi() { return ThisCpu().avx512_vbmi; }

}  // namespace bitnet

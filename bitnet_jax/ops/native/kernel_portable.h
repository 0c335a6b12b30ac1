// Plain C++ form of the kernel, for any machine; also the meaning of the others.
#pragma once

#include "kernel.h"

namespace bitnet {
namespace portable {

static inline float Load(const float* x, int64_t i) { return x[i]; }
static inline float Load(const uint16_t* x, int64_t i) {
  return FloatOf(static_cast<uint32_t>(x[i]) << 16);
}

// Adding and taking away 1.5 * 2^23 rounds half to even for |v| < 2^22, without a
// call to rintf on machines whose base instruction set has no rounding.
static inline int32_t Round(float v) {
  const float magic = 12582912.0f;
  return static_cast<int32_t>(BitsOf(v + magic) - BitsOf(magic));
}

template <typename T>
static float Quantize(const T* x, int64_t k, int64_t padded, int8_t* q) {
  uint32_t top = 0;
  for (int64_t i = 0; i < k; ++i) {
    const uint32_t bits = AbsBits(BitsOf(Load(x, i)));
    top = bits > top ? bits : top;
  }
  const float a = ClampAbsmax(top);
  if (!IsFiniteBits(top)) {
    std::memset(q, 0, padded);
    return a;
  }
  const float r = 127.0f / a;
  for (int64_t i = 0; i < k; ++i) {
    int32_t v = Round(Load(x, i) * r);
    v = v < -128 ? -128 : v;
    v = v > 127 ? 127 : v;
    q[i] = static_cast<int8_t>(v);
  }
  std::memset(q + k, 0, padded - k);
  return a;
}

static int32_t Sum(const int8_t* q, int64_t n) {
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += q[i];
  return total;
}

static void Accumulate(const uint8_t* codes, int64_t blocks, int64_t lines,
                       int64_t segment_lines, const int8_t* q, int64_t tokens,
                       int32_t* raw) {
  int64_t segment = 0;
  for (int64_t l0 = 0; l0 < lines; l0 += segment_lines, ++segment) {
    const int64_t l1 = l0 + segment_lines < lines ? l0 + segment_lines : lines;
    for (int64_t b = 0; b < blocks; ++b) {
      int32_t acc[kMaxTokens][kRows] = {};
      for (int64_t l = l0; l < l1; ++l) {
        const uint8_t* line = codes + (b * lines + l) * kLineBytes;
        // [j][p][row]: rows innermost, so that the product over rows vectorises.
        int16_t code[4][4][kRows];
        for (int j = 0; j < 4; ++j)
          for (int r = 0; r < kRows; ++r)
            for (int p = 0; p < 4; ++p) code[j][p][r] = (line[r * 4 + p] >> (2 * j)) & 3;
        for (int64_t t = 0; t < tokens; ++t) {
          for (int j = 0; j < 4; ++j) {
            const int8_t* four = q + ((l * 4 + j) * tokens + t) * 4;
            for (int p = 0; p < 4; ++p)
              for (int r = 0; r < kRows; ++r) acc[t][r] += code[j][p][r] * four[p];
          }
        }
      }
      for (int64_t t = 0; t < tokens; ++t)
        std::memcpy(raw + ((segment * tokens + t) * blocks + b) * kRows, acc[t],
                    sizeof(acc[t]));
    }
  }
}

#define BITNET_TARGET
#include "floats.h"
#undef BITNET_TARGET

static bool Usable() { return true; }

static const Kernel kKernel = {"portable",        Usable, Quantize<float>,
                               Quantize<uint16_t>, Sum,    Accumulate, &kFloats};

}  // namespace portable
}  // namespace bitnet

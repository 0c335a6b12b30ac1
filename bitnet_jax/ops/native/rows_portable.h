// Plain C++ form of rows.h, for any machine; also the meaning of the others.
#pragma once

#include "rows.h"

namespace bitnet {
namespace rows_portable {

#define BITNET_TARGET

struct Codes {
  int8_t code[64];
};
using Sums = uint32_t;  // unsigned: the sums of hostile codes may wrap
constexpr int kVectors = 1;
constexpr const char* kName = "portable";
constexpr int32_t kOffsets[] = {0, 0, 0};
constexpr int kFew = 1, kTokens = 1;

static inline Sums Zero() { return 0; }
static inline Sums Add(Sums a, Sums b) { return a + b; }
static inline Codes Get(const uint8_t* at) {
  Codes v;
  std::memcpy(&v, at, sizeof(v));
  return v;
}
static inline void Put(uint8_t* at, const Codes& v) { std::memcpy(at, &v, sizeof(v)); }

static inline void Load8(const uint8_t* at, Codes* v) { v[0] = Get(at); }

// The low six bits of a byte, as a two's complement number.
static inline int8_t Six(int32_t field) {
  return static_cast<int8_t>(((field & 63) ^ 32) - 32);
}

static inline void Load6(const uint8_t* at, Codes* v) {
  for (int i = 0; i < 16; ++i) {
    const int32_t bits = at[3 * i] | at[3 * i + 1] << 8 | at[3 * i + 2] << 16;
    for (int j = 0; j < 4; ++j) v[0].code[4 * i + j] = Six(bits >> (6 * j));
  }
}

static inline void Load4(const uint8_t* at, Codes* v) {
  for (int i = 0; i < 64; ++i) {
    v[0].code[i] = static_cast<int8_t>(((at[i] & 15) ^ 8) - 8);
    v[1].code[i] = static_cast<int8_t>(((at[i] >> 4) ^ 8) - 8);
  }
}

template <int L>
static inline Sums Dot(Sums sums, const Codes& v, const int8_t* q) {
  int32_t sum = 0;
  for (int i = 0; i < 64; ++i) sum += static_cast<int16_t>(v.code[i]) * static_cast<int16_t>(q[i]);
  return sums + static_cast<uint32_t>(sum);
}

static inline void Reduce(const Sums* sums, int32_t* raw) {
  for (int r = 0; r < kStrip; ++r) raw[r] = static_cast<int32_t>(sums[r]);
}

#include "rows_body.h"

#undef BITNET_TARGET
}  // namespace rows_portable
}  // namespace bitnet

// Plain form of dense.h, for any machine: SSE2 and NEON are what it becomes.
#pragma once

#include "dense.h"

namespace bitnet {
namespace dense_portable {

#define BITNET_TARGET

// Vectors that every processor has, or that compilers make of scalars: left to themselves
// they make none of the loops over sixteen.
typedef float Four __attribute__((vector_size(16)));
typedef uint32_t FourBits __attribute__((vector_size(16)));
typedef uint16_t FourHalves __attribute__((vector_size(8)));

struct Lanes {
  Four four[4];
};
constexpr int kTokens = 1;

static inline Lanes Zero() { return Lanes{}; }
static inline Lanes Get(const float* at) {
  Lanes v;
  std::memcpy(&v, at, sizeof(v));
  return v;
}
static inline Lanes Get(const uint16_t* at) {
  Lanes v;
  for (int i = 0; i < 4; ++i) {
    FourHalves half;
    std::memcpy(&half, at + 4 * i, sizeof(half));
    v.four[i] = reinterpret_cast<Four>(__builtin_convertvector(half, FourBits) << 16);
  }
  return v;
}
static inline void Put(float* at, const Lanes& v) { std::memcpy(at, &v, sizeof(v)); }
static inline Lanes MultiplyAdd(const Lanes& sum, const Lanes& w, const Lanes& x) {
  Lanes v;
  for (int i = 0; i < 4; ++i) v.four[i] = sum.four[i] + w.four[i] * x.four[i];
  return v;
}

#include "dense_body.h"

#undef BITNET_TARGET
}  // namespace dense_portable
}  // namespace bitnet

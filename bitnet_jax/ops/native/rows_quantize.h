// Float weights [rows, in] to codes in rows (layouts i8.rows, i6.rows, i4.rows) with a scale
// for each row, as quant/kinds.py defines them:
//
//   s = max(absmax(W) * float32(1/high), 2^-24),  codes = clamp(rint(W * (1/s)), -high, high)
//
// Knows nothing of threads: whoever calls it gives a function that runs `count` units.
#pragma once

#include <atomic>
#include <cstring>

#include "float_mode.h"
#include "rows_product.h"

namespace bitnet {

struct QuantizeRows {
  int64_t layout;  // RowsLayout
  int64_t rows, in;
  bool bf16;
  const void* w;  // [rows, in]
  uint8_t* codes;
  float* scale;  // [rows]
};

constexpr int64_t kHigh[kRowsLayouts] = {127, 31, 7};
constexpr float kSmallestScale = 0x1p-24f;

// Row `row` as float32 in `to`; the largest of its absolute values, as the bits of a float: above
// those of infinity where one is NaN.
static uint32_t Widen(const QuantizeRows& p, int64_t row, float* to) {
  if (p.bf16) {
    const uint16_t* from = static_cast<const uint16_t*>(p.w) + row * p.in;
    uint32_t* bits = reinterpret_cast<uint32_t*>(to);
    for (int64_t i = 0; i < p.in; ++i) bits[i] = static_cast<uint32_t>(from[i]) << 16;
  } else {
    std::memcpy(to, static_cast<const float*>(p.w) + row * p.in, p.in * sizeof(float));
  }
  constexpr int kLanes = 16;
  int32_t most[kLanes] = {};
  const int32_t* bits = reinterpret_cast<const int32_t*>(to);
  int64_t i = 0;
  for (; i + kLanes <= p.in; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t size = bits[i + lane] & 0x7fffffff;
      most[lane] = size > most[lane] ? size : most[lane];
    }
  int64_t all = 0;
  for (; i < p.in; ++i) all = Max(all, bits[i] & 0x7fffffff);
  for (int lane = 0; lane < kLanes; ++lane) all = Max(all, most[lane]);
  return static_cast<uint32_t>(all);
}

// `w` becomes its codes, a byte each. Adding 1.5 * 2^23 rounds to the nearest even integer.
static void Round(const float* w, int64_t count, float inverse, float high, int8_t* codes) {
  constexpr float kRound = 12582912.0f;
  for (int64_t i = 0; i < count; ++i) {
    float x = w[i] * inverse;
    x = x > high ? high : x;
    x = x < -high ? -high : x;
    const float moved = x + kRound;
    int32_t bits;
    std::memcpy(&bits, &moved, sizeof bits);
    codes[i] = static_cast<int8_t>(bits);
  }
}

// Codes a byte each, followed by three zeros at least, to the layout's bytes.
static void PackRow(int64_t layout, const int8_t* codes, int64_t in, uint8_t* to) {
  const uint8_t* from = reinterpret_cast<const uint8_t*>(codes);
  switch (layout) {
    case kI8: std::memcpy(to, from, in); return;
    case kI4:
      for (int64_t k = 0; k < CeilDiv(in, 2); ++k)
        to[k] = static_cast<uint8_t>((from[2 * k] & 15) | from[2 * k + 1] << 4);
      return;
    default:
      for (int64_t k = 0; k < CeilDiv(in, 4); ++k, from += 4, to += 3) {
        const uint32_t bits = (from[0] & 63u) | (from[1] & 63u) << 6 | (from[2] & 63u) << 12 |
                              (from[3] & 63u) << 18;
        to[0] = static_cast<uint8_t>(bits);
        to[1] = static_cast<uint8_t>(bits >> 8);
        to[2] = static_cast<uint8_t>(bits >> 16);
      }
  }
}

enum class Quantized { kDone, kNotFinite, kNoMemory };

template <typename Run>
static Quantized RunQuantizeRows(const QuantizeRows& p, Run run) {
  constexpr int64_t kRowsPerTask = 64;
  std::atomic<bool> finite{true}, memory{true};
  const int64_t bytes = RowBytes(p.layout, p.in);
  run(CeilDiv(p.rows, kRowsPerTask), [&](int64_t task) {
    const IeeeFloats floats;
    const Buffer<float> wide = Allocate<float>(p.in + 1);
    const Buffer<int8_t> codes = Allocate<int8_t>(p.in + 4);
    if (!wide || !codes) {
      memory = false;
      return;
    }
    std::memset(codes.get() + p.in, 0, 4);
    const int64_t end = Min((task + 1) * kRowsPerTask, p.rows);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      const uint32_t most = Widen(p, row, wide.get());
      if (most >= 0x7f800000) finite = false;
      float peak;
      std::memcpy(&peak, &most, sizeof peak);
      const float high = static_cast<float>(kHigh[p.layout]);
      float scale = peak * static_cast<float>(1.0 / static_cast<double>(kHigh[p.layout]));
      scale = scale < kSmallestScale ? kSmallestScale : scale;
      p.scale[row] = scale;
      Round(wide.get(), p.in, 1.0f / scale, high, codes.get());
      PackRow(p.layout, codes.get(), p.in, p.codes + row * bytes);
    }
  });
  if (!memory) return Quantized::kNoMemory;
  return finite ? Quantized::kDone : Quantized::kNotFinite;
}

}  // namespace bitnet

// What one instruction set offers for float weights [out, in]: strips of four rows, held as
// float32 or bfloat16, multiplied by float32 activations.
//
// The order of a sum is fixed, for each row and token by itself: column c belongs to lane
// c % 16; a lane adds its products, each rounded to float32, in ascending order; `Total` adds
// the lanes. So the bits depend on neither the number of tokens, nor threads, nor the
// instruction set (no fused multiply-add: not every processor has one).
//
// Knows nothing of threads or XLA. As in kernel.h, no standard templates here.
#pragma once

#include "kernel.h"
#include "rows.h"

namespace bitnet {

constexpr int64_t kLanes = 16;
constexpr int64_t kDenseAhead = 8192;  // bytes, as kRowsAhead

// A strip of kStrip rows, of which `rows` exist; they lie one after another.
template <typename W>
struct DenseStrip {
  const W* w;
  int64_t rows, in;
};

struct DenseKernel {
  // y[t * ldy + row] of `tokens` tokens x [tokens, in] for the strip's rows.
  void (*f32)(const DenseStrip<float>& s, const float* x, int64_t tokens, float* y, int64_t ldy);
  void (*bf16)(const DenseStrip<uint16_t>& s, const float* x, int64_t tokens, float* y,
               int64_t ldy);
};

static inline float Total(const float* lane) {
  float sum[8];
  for (int i = 0; i < 8; ++i) sum[i] = lane[i] + lane[i + 8];
  for (int i = 0; i < 4; ++i) sum[i] += sum[i + 4];
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

}  // namespace bitnet

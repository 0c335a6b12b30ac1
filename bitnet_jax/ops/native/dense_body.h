// The loops of dense.h over what an instruction set calls its vectors. Included once in the
// namespace of each, which has defined before:
//
//   BITNET_TARGET           the attribute of its functions
//   Lanes                   sixteen float32
//   kTokens                 tokens at once
//   Zero()                  sixteen zeros
//   Get(at)                 sixteen float32, or sixteen bfloat16 widened
//   Put(at, v)              stores them
//   MultiplyAdd(sum, w, x)  sum + w * x, rounded twice
//
// No `#pragma once`: each inclusion is another instruction set.

template <typename W, int NT>
BITNET_TARGET static inline __attribute__((always_inline)) void Step(
    const W* const* w, int64_t c, const float* x, int64_t ldx, Lanes (*sums)[kStrip]) {
  Lanes wide[kStrip];
#pragma GCC unroll 4
  for (int r = 0; r < kStrip; ++r) wide[r] = Get(w[r] + c);
#pragma GCC unroll 8
  for (int t = 0; t < NT; ++t) {
    const Lanes own = Get(x + t * ldx + c);
#pragma GCC unroll 4
    for (int r = 0; r < kStrip; ++r) sums[t][r] = MultiplyAdd(sums[t][r], wide[r], own);
  }
}

template <typename W, int NT>
BITNET_TARGET static void DenseTokens(const DenseStrip<W>& s, bool fetch, const float* x,
                                      float* y, int64_t ldy) {
  const W* w[kStrip];
  for (int r = 0; r < kStrip; ++r) w[r] = s.w + (r < s.rows ? r : 0) * s.in;
  Lanes sums[NT][kStrip];
  for (int t = 0; t < NT; ++t)
    for (int r = 0; r < kStrip; ++r) sums[t][r] = Zero();
  constexpr int64_t kAhead = kDenseAhead / static_cast<int64_t>(sizeof(W));
  // Near a row's end, what comes next is the same place of the next strip: as in rows_body.h.
  const int64_t jump = (kStrip - 1) * s.in, full = s.in - kLanes, turn = s.in - kAhead;
  int64_t c = 0;
  if (fetch) {
    for (; c <= full && c < turn; c += kLanes) {
      for (int r = 0; r < kStrip; ++r) Fetch(w[r] + c + kAhead);
      Step<W, NT>(w, c, x, s.in, sums);
    }
    for (; c <= full; c += kLanes) {
      for (int r = 0; r < kStrip; ++r) Fetch(w[r] + c + kAhead + jump);
      Step<W, NT>(w, c, x, s.in, sums);
    }
  }
  for (; c <= full; c += kLanes) Step<W, NT>(w, c, x, s.in, sums);
  if (c < s.in) {
    W last[kStrip][kLanes] = {};
    float own[NT][kLanes] = {};
    const W* tails[kStrip];
    for (int r = 0; r < kStrip; ++r) {
      std::memcpy(last[r], w[r] + c, (s.in - c) * sizeof(W));
      tails[r] = last[r];
    }
    for (int t = 0; t < NT; ++t) std::memcpy(own[t], x + t * s.in + c, (s.in - c) * sizeof(float));
    Step<W, NT>(tails, 0, own[0], kLanes, sums);
  }
  for (int t = 0; t < NT; ++t)
    for (int r = 0; r < kStrip; ++r) {
      alignas(64) float lanes[kLanes];
      Put(lanes, sums[t][r]);
      if (r < s.rows) y[t * ldy + r] = Total(lanes);
    }
}

template <typename W, int NT = kTokens>
static void DenseSome(const DenseStrip<W>& s, int64_t at, int64_t count, const float* x, float* y,
                      int64_t ldy) {
  if (count == NT) {
    DenseTokens<W, NT>(s, at == 0, x + at * s.in, y + at * ldy, ldy);
  } else if constexpr (NT > 1) {
    DenseSome<W, NT - 1>(s, at, count, x, y, ldy);
  }
}

template <typename W>
static void Dense(const DenseStrip<W>& s, const float* x, int64_t tokens, float* y, int64_t ldy) {
  for (int64_t t = 0, left = (tokens + kTokens - 1) / kTokens; left > 0; --left) {
    const int64_t count = (tokens - t + left - 1) / left;
    DenseSome<W>(s, t, count, x, y, ldy);
    t += count;
  }
}

static const DenseKernel kKernel = {Dense<float>, Dense<uint16_t>};

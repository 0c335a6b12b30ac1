// The float arithmetic of one instruction set: norm, gate, attention.
//
// Included by each kernel file inside its own namespace, with BITNET_TARGET set: sixteen lanes
// whatever the registers are, and every sum in an order that is written down here. So a row's
// result depends on no other row, on no thread, and not on the instruction set.
// (No #pragma once: it is meant to be compiled once for each of them.)

typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
typedef float VAny __attribute__((vector_size(64), aligned(4), may_alias));

// Not functions: a function that takes a vector would have another convention for each target.
#define BITNET_LOAD(p) (*reinterpret_cast<const VAny*>(p))
#define BITNET_STORE(p, v) (*reinterpret_cast<VAny*>(p) = (v))
#if defined(__clang__) || __GNUC__ >= 12
#define BITNET_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BITNET_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VI{__VA_ARGS__})
#endif
// Keys whose sums with four queries are held at once: as many as registers hold.
#ifdef BITNET_WIDE  // a V is one register, and there are 32
#define BITNET_KEYS 4
#else
#define BITNET_KEYS 1
#endif
#define BITNET_INLINE BITNET_TARGET static inline __attribute__((always_inline))

// Sum of the lanes: i and i+8, then i and i+4, i+2, i+1.
BITNET_INLINE float Fold(const V& v) {
  float s[16];
  BITNET_STORE(s, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}

BITNET_INLINE float FoldMax(const V& v) {
  float s[16];
  BITNET_STORE(s, v);
  float most = s[0];
  for (int i = 1; i < 16; ++i) most = s[i] > most ? s[i] : most;
  return most;
}

// Sixteen `Fold`s at once, to lane i that of rows[i]: the same additions.
#ifdef BITNET_WIDE
BITNET_INLINE void FoldRows(const V* rows, V& sums) {
  V eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i)  // lanes 0-7 of row i, then of row i + 8
    eight[i] = BITNET_SHUFFLE(rows[i], rows[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20,
                              21, 22, 23) +
               BITNET_SHUFFLE(rows[i], rows[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26,
                              27, 28, 29, 30, 31);
  for (int i = 0; i < 4; ++i)  // rows i, i + 4, i + 8, i + 12
    four[i] = BITNET_SHUFFLE(eight[i], eight[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11,
                             24, 25, 26, 27) +
              BITNET_SHUFFLE(eight[i], eight[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14,
                             15, 28, 29, 30, 31);
  for (int i = 0; i < 2; ++i)
    two[i] = BITNET_SHUFFLE(four[i], four[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12,
                            13, 28, 29) +
             BITNET_SHUFFLE(four[i], four[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27,
                            14, 15, 30, 31);
  sums = BITNET_SHUFFLE(two[0], two[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                        30) +
         BITNET_SHUFFLE(two[0], two[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15,
                        31);
}
#else
// Where a V is several registers, compilers shuffle it element by element.
BITNET_INLINE void FoldRows(const V* rows, V& sums) {
  for (int i = 0; i < 16; ++i) sums[i] = Fold(rows[i]);
}
#endif

// Sum of squares: 64 sums by index modulo 64, in ascending order; then j and j+32, j+16, and
// as `Fold`.
BITNET_TARGET static float SumSquares(const float* x, int64_t n) {
  V s[4] = {};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; ++j) {
      const V v = BITNET_LOAD(x + i + 16 * j);
      s[j] += v * v;
    }
  if (i < n) {
    float tail[64] = {};
    std::memcpy(tail, x + i, (n - i) * sizeof(float));
    for (int j = 0; j < 4; ++j) {
      const V v = BITNET_LOAD(tail + 16 * j);
      s[j] += v * v;
    }
  }
  const V pair0 = s[0] + s[2], pair1 = s[1] + s[3];
  return Fold(pair0 + pair1);
}

// out = weight * (x * 1/sqrt(mean(x²) + eps))
BITNET_TARGET static void Norm(const float* x, const float* weight, float eps, int64_t n,
                               float* out) {
  const float r = 1.0f / __builtin_sqrtf(SumSquares(x, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = weight[i] * (x[i] * r);
}

// out = relu(gate)² * up; NaN stays NaN.
BITNET_TARGET static void Relu2Gate(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float positive = gate[i] < 0.0f ? 0.0f : gate[i];
    out[i] = positive * positive * up[i];
  }
}

// e^x for x <= 0, within 2 ULP (Cephes' expf: argument reduction in two parts, a polynomial of
// degree 5); 0 below -87, where the result would be subnormal. NaN stays NaN.
BITNET_INLINE void Exp(V& x) {
  const V zero = {};
  const VI tiny = x < zero - 87.0f;
  const V magic = zero + 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to even
  const V shifted = x * 1.44269504088896341f + magic;
  const V n = shifted - magic;
  const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  V p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VI exponent = (VI)shifted << 23;
  const VI bits = ((VI)p + exponent) & ~tiny;
  const VI is_nan = x != x;
  x = (V)((bits & ~is_nan) | ((VI)x & is_nan));
}

BITNET_TARGET static void Rotate(const float* x, const float* cos, const float* sin, int64_t half,
                                 float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[half + i];
    out[i] = first * cos[i] - second * sin[i];
    out[half + i] = second * cos[i] + first * sin[i];
  }
}

// rows[h * 16 + i] = products of q_h and key i, in sixteen lanes, for `H` heads and `K` keys at
// once: a key that is loaded serves all heads, a query all keys.
template <int H, int K>
BITNET_INLINE void Lanes(const float* q, const float* k, int64_t stride, int64_t width,
                         V* rows) {
  V sums[H][K] = {};
  for (int64_t d = 0; d < width; d += 16) {
    V keys[K];
    for (int i = 0; i < K; ++i) keys[i] = BITNET_LOAD(k + i * stride + d);
    for (int h = 0; h < H; ++h) {
      const V x = BITNET_LOAD(q + h * width + d);
      for (int i = 0; i < K; ++i) sums[h][i] += x * keys[i];
    }
  }
  for (int h = 0; h < H; ++h)
    for (int i = 0; i < K; ++i) rows[h * 16 + i] = sums[h][i];
}

// scores[h * kChunk + j] = (q_h . k_j) * scale for `count` keys, `stride` floats apart; 0 to the
// multiple of 16.
template <int H>
BITNET_TARGET static void Scores(const float* q, const float* k, int64_t stride, int64_t count,
                                 int64_t width, float scale, float* scores) {
  V rows[H * 16];
  for (int64_t j = 0; j < count; j += 16) {
    const int64_t some = count - j < 16 ? count - j : 16;
    int64_t i = 0;
    for (; i + BITNET_KEYS <= some; i += BITNET_KEYS)
      Lanes<H, BITNET_KEYS>(q, k + (j + i) * stride, stride, width, rows + i);
    for (; i < some; ++i)
      Lanes<H, 1>(q, k + (j + i) * stride, stride, width, rows + i);
    for (; i < 16; ++i)
      for (int h = 0; h < H; ++h) rows[h * 16 + i] = V{};
    for (int h = 0; h < H; ++h) {
      V sums;
      FoldRows(rows + h * 16, sums);
      BITNET_STORE(scores + h * kChunk + j, sums * scale);
    }
  }
}

// out[d] = sum of weights[j] * v_j[d], in ascending order of j, `H` heads at once.
template <int H>
BITNET_TARGET static void Gather(const float* weights, const float* v, int64_t stride,
                                 int64_t count, int64_t width, float* out) {
  for (int64_t d = 0; d < width; d += 32) {
    const bool both = d + 16 < width;
    V low[H] = {}, high[H] = {};
    for (int64_t j = 0; j < count; ++j) {
      const V v0 = BITNET_LOAD(v + j * stride + d);
      const V v1 = both ? V(BITNET_LOAD(v + j * stride + d + 16)) : v0;
      for (int h = 0; h < H; ++h) {
        const float w = weights[h * kChunk + j];
        low[h] += v0 * w;
        high[h] += v1 * w;
      }
    }
    for (int h = 0; h < H; ++h) {
      BITNET_STORE(out + h * width + d, low[h]);
      if (both) BITNET_STORE(out + h * width + d + 16, high[h]);
    }
  }
}

// What `heads` queries [heads, width] see of one chunk of at most kChunk keys: the largest
// score, the sum of e^(score - largest), and the values weighted so. `width` is a multiple of 16.
BITNET_TARGET static void AttendChunk(const float* q, int64_t heads, const float* k,
                                      const float* v, int64_t stride, int64_t count,
                                      int64_t width, float scale, float* most, float* total,
                                      float* out) {
  float scores[kHeads * kChunk];
  for (int64_t h0 = 0; h0 < heads; h0 += kHeads) {
    const int64_t some = heads - h0 < kHeads ? heads - h0 : kHeads;
    int64_t scored = 0;
    for (; scored + 4 <= some; scored += 4)
      Scores<4>(q + (h0 + scored) * width, k, stride, count, width, scale,
                scores + scored * kChunk);
    for (; scored < some; ++scored)
      Scores<1>(q + (h0 + scored) * width, k, stride, count, width, scale,
                scores + scored * kChunk);
    for (int64_t h = 0; h < some; ++h) {
      float* row = scores + h * kChunk;
      float top = row[0];
      for (int64_t j = 1; j < count; ++j) top = row[j] > top || row[j] != row[j] ? row[j] : top;
      V sum = {};
      for (int64_t j = 0; j < count; j += 16) {
        V x = BITNET_LOAD(row + j) - top;
        Exp(x);
        BITNET_STORE(row + j, x);
        for (int64_t i = count - j; i < 16; ++i) row[j + i] = 0.0f;
        sum += BITNET_LOAD(row + j);
      }
      most[h0 + h] = top;
      total[h0 + h] = Fold(sum);
    }
    float* to = out + h0 * width;
    int64_t h = 0;
    for (; h + 4 <= some; h += 4)
      Gather<4>(scores + h * kChunk, v, stride, count, width, to + h * width);
    for (; h < some; ++h)
      Gather<1>(scores + h * kChunk, v, stride, count, width, to + h * width);
  }
}

// Takes a chunk that comes after into (most, total, out), the softmax of what came before.
BITNET_TARGET static void MergeChunk(float* most, float* total, float* out, float chunk_most,
                                     float chunk_total, const float* chunk_out, int64_t width) {
  const float top = chunk_most > *most || chunk_most != chunk_most ? chunk_most : *most;
  V shift = {};
  shift[0] = *most - top, shift[1] = chunk_most - top;
  Exp(shift);
  const float old = shift[0], fresh = shift[1];
  for (int64_t d = 0; d < width; ++d) out[d] = out[d] * old + chunk_out[d] * fresh;
  *total = *total * old + chunk_total * fresh;
  *most = top;
}

// out[j] = codes * scale of row j: `width` int8 codes, a multiple of 16, and a float32 after them.
BITNET_TARGET static void WidenRows(const uint8_t* rows, int64_t stride, int64_t count,
                                    int64_t width, float* out) {
  for (int64_t j = 0; j < count; ++j, rows += stride, out += width) {
    float scale;
    std::memcpy(&scale, rows + width, sizeof scale);
    const int8_t* codes = reinterpret_cast<const int8_t*>(rows);
    for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(codes[i]) * scale;
  }
}

static const Floats kFloats = {Norm, Relu2Gate, Rotate, AttendChunk, WidenRows, MergeChunk};

#undef BITNET_KEYS
#undef BITNET_WIDE
#undef BITNET_LOAD
#undef BITNET_STORE
#undef BITNET_SHUFFLE
#undef BITNET_INLINE

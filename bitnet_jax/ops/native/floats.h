// The float arithmetic of one instruction set: norm, gate, attention.
//
// Included by each kernel file inside its own namespace, with BITNET_TARGET set, and BITNET_PARTS
// to how many of its registers hold sixteen floats. There are sixteen lanes whatever the registers
// are, and every sum has an order that is written down here. So a row's result depends on no
// other row, on no thread, and not on the instruction set.
// (No #pragma once: it is meant to be compiled once for each of them.)

#ifndef BITNET_PARTS
#define BITNET_PARTS 4  // registers of 16 bytes: SSE2, NEON
#endif
constexpr int kPartLanes = 16 / BITNET_PARTS;
typedef float P __attribute__((vector_size(64 / BITNET_PARTS)));
typedef int32_t PI __attribute__((vector_size(64 / BITNET_PARTS)));
typedef float PAny __attribute__((vector_size(64 / BITNET_PARTS), aligned(4), may_alias));

// Sixteen lanes, in as many registers as they take. (As one vector that is wider than a register,
// GCC keeps them in memory: attention was twelve times slower on AVX2 than on AVX-512.)
struct V {
  P p[BITNET_PARTS];
};

#define BITNET_INLINE BITNET_TARGET static inline __attribute__((always_inline))
#define BITNET_EACH _Pragma("GCC unroll 8") for (int r = 0; r < BITNET_PARTS; ++r)

BITNET_INLINE void Load(const float* x, V& v) {
  BITNET_EACH v.p[r] = *reinterpret_cast<const PAny*>(x + r * kPartLanes);
}
BITNET_INLINE void Store(float* x, const V& v) {
  BITNET_EACH *reinterpret_cast<PAny*>(x + r * kPartLanes) = v.p[r];
}
BITNET_INLINE void Zero(V& v) { BITNET_EACH v.p[r] = P{}; }
BITNET_INLINE void Add(V& sum, const V& x) { BITNET_EACH sum.p[r] += x.p[r]; }
// A product and a sum, each rounded.
BITNET_INLINE void AddProduct(V& sum, const V& x, const V& y) {
  BITNET_EACH sum.p[r] += x.p[r] * y.p[r];
}
BITNET_INLINE void AddProduct(V& sum, const V& x, float y) {
  BITNET_EACH sum.p[r] += x.p[r] * y;
}

// Sum of the lanes: i and i+8, then i and i+4, i+2, i+1.
BITNET_INLINE float Fold(const V& v) {
  float s[16];
  Store(s, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  return s[0];
}

// out[i] = Fold(rows[i]) * scale for sixteen rows.
#if BITNET_PARTS == 1
#if defined(__clang__) || __GNUC__ >= 12
#define BITNET_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BITNET_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, PI{__VA_ARGS__})
#endif
BITNET_INLINE void FoldRows(const V* rows, float scale, float* out) {
  P eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i) {  // lanes 0-7 of row i, then of row i + 8
    const P a = rows[i].p[0], b = rows[i + 8].p[0];
    eight[i] = BITNET_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               BITNET_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
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
  const P sums = BITNET_SHUFFLE(two[0], two[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                        30) +
         BITNET_SHUFFLE(two[0], two[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15,
                        31);
  *reinterpret_cast<PAny*>(out) = sums * scale;
}
#undef BITNET_SHUFFLE
#else
BITNET_INLINE void FoldRows(const V* rows, float scale, float* out) {
  for (int i = 0; i < 16; ++i) out[i] = Fold(rows[i]) * scale;
}
#endif

// Sum of squares: 64 sums by index modulo 64, in ascending order; then j and j+32, j+16, and
// as `Fold`.
BITNET_TARGET static float SumSquares(const float* x, int64_t n) {
  V s[4];
  for (int j = 0; j < 4; ++j) Zero(s[j]);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; ++j) {
      V v;
      Load(x + i + 16 * j, v);
      AddProduct(s[j], v, v);
    }
  if (i < n) {
    float tail[64] = {};
    std::memcpy(tail, x + i, (n - i) * sizeof(float));
    for (int j = 0; j < 4; ++j) {
      V v;
      Load(tail + 16 * j, v);
      AddProduct(s[j], v, v);
    }
  }
  Add(s[0], s[2]);
  Add(s[1], s[3]);
  Add(s[0], s[1]);
  return Fold(s[0]);
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
BITNET_INLINE void Exp(V& v) {
  BITNET_EACH {
    const P x = v.p[r], zero = {};
    const PI tiny = x < zero - 87.0f;
    const P magic = zero + 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to even
    const P shifted = x * 1.44269504088896341f + magic;
    const P n = shifted - magic;
    const P rest = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    P p = zero + 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    const PI exponent = (PI)shifted << 23;
    const PI bits = ((PI)p + exponent) & ~tiny;
    const PI is_nan = x != x;
    v.p[r] = (P)((bits & ~is_nan) | ((PI)x & is_nan));
  }
}

BITNET_TARGET static void Rotate(const float* x, const float* cos, const float* sin, int64_t half,
                                 float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[half + i];
    out[i] = first * cos[i] - second * sin[i];
    out[half + i] = second * cos[i] + first * sin[i];
  }
}

// How much is held in registers at once: keys of four queries in `Lanes`, and columns of sixteen in
// `Gather`.
constexpr int kKeysHeld = BITNET_PARTS == 1 ? 4 : 1;
constexpr int kColumnsHeld = BITNET_PARTS == 1 ? 2 : 1;

// Rows of a cache lie apart, one for each kv head: the processor does not see which come next.
constexpr int64_t kKeysAhead = 16;

// rows[h * 16 + i] = products of q_h and key i, in sixteen lanes, for `H` heads and `K` keys at
// once: a key that is loaded serves all heads, a query all keys.
template <int H, int K>
BITNET_INLINE void Lanes(const float* q, const float* k, const float* v, int64_t stride,
                         int64_t width, V* rows) {
  V sums[H][K];
  for (int h = 0; h < H; ++h)
    for (int i = 0; i < K; ++i) Zero(sums[h][i]);
  for (int64_t d = 0; d < width; d += 16) {
    V keys[K];
    for (int i = 0; i < K; ++i) {
      Load(k + i * stride + d, keys[i]);
      __builtin_prefetch(k + (i + kKeysAhead) * stride + d);
      __builtin_prefetch(v + i * stride + d, 0, 2);
    }
    for (int h = 0; h < H; ++h) {
      V x;
      Load(q + h * width + d, x);
      for (int i = 0; i < K; ++i) AddProduct(sums[h][i], x, keys[i]);
    }
  }
  for (int h = 0; h < H; ++h)
    for (int i = 0; i < K; ++i) rows[h * 16 + i] = sums[h][i];
}

// scores[h * kChunk + j] = (q_h . k_j) * scale for `count` keys, `stride` floats apart; 0 to the
// multiple of 16.
template <int H>
BITNET_TARGET static void Scores(const float* q, const float* k, const float* v, int64_t stride,
                                 int64_t count, int64_t width, float scale, float* scores) {
  V rows[H * 16];
  for (int64_t j = 0; j < count; j += 16) {
    const int64_t some = count - j < 16 ? count - j : 16;
    int64_t i = 0;
    for (; i + kKeysHeld <= some; i += kKeysHeld)
      Lanes<H, kKeysHeld>(q, k + (j + i) * stride, v + (j + i) * stride, stride, width, rows + i);
    for (; i < some; ++i)
      Lanes<H, 1>(q, k + (j + i) * stride, v + (j + i) * stride, stride, width, rows + i);
    for (; i < 16; ++i)
      for (int h = 0; h < H; ++h) Zero(rows[h * 16 + i]);
    for (int h = 0; h < H; ++h) FoldRows(rows + h * 16, scale, scores + h * kChunk + j);
  }
}

// out[d] = sum of weights[j] * v_j[d], in ascending order of j, `H` heads and 16 * `C` columns at
// once.
template <int H, int C>
BITNET_INLINE void GatherColumns(const float* weights, const float* v, int64_t stride,
                                 int64_t count, int64_t width, float* out) {
  V sums[H][C];
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) Zero(sums[h][c]);
  for (int64_t j = 0; j < count; ++j) {
    V columns[C];
    for (int c = 0; c < C; ++c) Load(v + j * stride + 16 * c, columns[c]);
    for (int h = 0; h < H; ++h)
      for (int c = 0; c < C; ++c) AddProduct(sums[h][c], columns[c], weights[h * kChunk + j]);
  }
  for (int h = 0; h < H; ++h)
    for (int c = 0; c < C; ++c) Store(out + h * width + 16 * c, sums[h][c]);
}

template <int H>
BITNET_TARGET static void Gather(const float* weights, const float* v, int64_t stride,
                                 int64_t count, int64_t width, float* out) {
  int64_t d = 0;
  for (; d + 16 * kColumnsHeld <= width; d += 16 * kColumnsHeld)
    GatherColumns<H, kColumnsHeld>(weights, v + d, stride, count, width, out + d);
  for (; d < width; d += 16) GatherColumns<H, 1>(weights, v + d, stride, count, width, out + d);
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
      Scores<4>(q + (h0 + scored) * width, k, v, stride, count, width, scale,
                scores + scored * kChunk);
    for (; scored < some; ++scored)
      Scores<1>(q + (h0 + scored) * width, k, v, stride, count, width, scale,
                scores + scored * kChunk);
    for (int64_t h = 0; h < some; ++h) {
      float* row = scores + h * kChunk;
      float top = row[0];
      for (int64_t j = 1; j < count; ++j) top = row[j] > top || row[j] != row[j] ? row[j] : top;
      V sum;
      Zero(sum);
      for (int64_t j = 0; j < count; j += 16) {
        V x;
        Load(row + j, x);
        BITNET_EACH x.p[r] -= top;
        Exp(x);
        Store(row + j, x);
        if (count - j < 16) {
          for (int64_t i = count - j; i < 16; ++i) row[j + i] = 0.0f;
          Load(row + j, x);
        }
        Add(sum, x);
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
  float shift[16] = {*most - top, chunk_most - top};
  V both;
  Load(shift, both);
  Exp(both);
  Store(shift, both);
  const float old = shift[0], fresh = shift[1];
  for (int64_t d = 0; d < width; ++d) out[d] = out[d] * old + chunk_out[d] * fresh;
  *total = *total * old + chunk_total * fresh;
  *most = top;
}

// out[j] = codes * scale of row j: `width` int8 codes, a multiple of 16, and a float32 after them.
BITNET_TARGET static void WidenRows(const uint8_t* rows, int64_t stride, int64_t count,
                                    int64_t width, float* out) {
  for (int64_t j = 0; j < count; ++j, rows += stride, out += width) {
    for (int64_t i = 0; i < width + 64; i += 64)
      __builtin_prefetch(rows + kKeysAhead * stride + i);
    float scale;
    std::memcpy(&scale, rows + width, sizeof scale);
    const int8_t* codes = reinterpret_cast<const int8_t*>(rows);
    for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(codes[i]) * scale;
  }
}

static const Floats kFloats = {Norm, Relu2Gate, Rotate, AttendChunk, WidenRows, MergeChunk};

#undef BITNET_EACH
#undef BITNET_INLINE
#undef BITNET_PARTS

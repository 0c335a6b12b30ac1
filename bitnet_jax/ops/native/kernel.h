// What one instruction set offers: the inner loops of the ternary product.
//
// A "line" is 64 bytes of codes (layout t2.16x16): 16 rows by 16 columns. Byte
// r*4+p, bit pair j, is trit+1 of row r, column j*4+p. So a line shifted right by
// 2j and masked with 3 holds, per 32-bit lane, four consecutive columns of a row.
// Sums of code*q are corrected by the sum of q afterwards: trit = code - 1.
//
// Knows nothing of threads, scales or XLA. No standard templates are used in the
// kernel files: an inline function compiled for AVX-512 could be the copy that the
// linker keeps for every caller.
#pragma once

#include <cstdint>
#include <cstring>

namespace bitnet {

constexpr int64_t kRows = 16;       // rows of a block
constexpr int64_t kCols = 16;       // columns of a line
constexpr int64_t kLineBytes = 64;  // bytes of a line
constexpr int64_t kMaxBlocks = 4;   // row blocks in one call of `accumulate`
constexpr int64_t kMaxTokens = 8;   // tokens in one call of `accumulate`

// Codes are fetched into cache this far ahead (benchmarks/LOG.md has what was tried).
constexpr int64_t kPrefetchBytes = 2048;

constexpr float kMinAbsmax = 1e-5f;
constexpr float kInv127 = static_cast<float>(1.0 / 127.0);

constexpr int64_t kChunk = 128;  // keys in one call of `attend`
constexpr int64_t kHeads = 8;    // queries whose scores of a chunk are held at once

// The float arithmetic, compiled for one instruction set: floats.h says what each does.
struct Floats {
  void (*norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*relu2_gate)(const float* gate, const float* up, int64_t n, float* out);
  void (*rotate)(const float* x, const float* cos, const float* sin, int64_t half, float* out);
  void (*attend)(const float* q, int64_t heads, const float* k, const float* v, int64_t stride,
                 int64_t count, int64_t width, float scale, float* most, float* total,
                 float* out);
  void (*widen)(const uint8_t* rows, int64_t stride, int64_t count, int64_t width, float* out);
  void (*merge)(float* most, float* total, float* out, float chunk_most, float chunk_total,
                const float* chunk_out, int64_t width);
};

struct Kernel {
  const char* name;
  bool (*usable)();

  // Quantizes one token of `k` values into `padded` int8 (the rest are zeros) and
  // returns a = max(absmax, 1e-5). A value that is not finite makes all codes zero
  // and `a` not finite, so the outputs of that token are NaN.
  float (*quantize_f32)(const float* x, int64_t k, int64_t padded, int8_t* q);
  float (*quantize_bf16)(const uint16_t* x, int64_t k, int64_t padded, int8_t* q);

  // Sum of `n` codes, n a multiple of 16.
  int32_t (*sum)(const int8_t* q, int64_t n);

  // raw[segment][token][block*16 + row] = sum over the segment's lines of code*q.
  // `lines` per block, cut into segments of `segment_lines`. Columns 4c to 4c+3 of
  // token t stand at q + (c*tokens + t)*4: one address and constant offsets reach a
  // whole tile, where a stride per token was a third slower.
  // blocks <= kMaxBlocks, tokens <= kMaxTokens.
  void (*accumulate)(const uint8_t* codes, int64_t blocks, int64_t lines,
                     int64_t segment_lines, const int8_t* q, int64_t tokens, int32_t* raw);

  const Floats* floats;

  // `accumulate` for lines of t1.16x20 (codes_dense.h), columns 4c to 4c+3 at the same place;
  // nullptr where they are turned to t2.16x16 first.
  void (*accumulate_dense)(const uint8_t* codes, int64_t blocks, int64_t lines,
                           int64_t segment_lines, const int8_t* q, int64_t tokens,
                           int32_t* raw) = nullptr;
};

// Monotone in |v| and above infinity for NaN, so an integer maximum keeps NaN.
static inline uint32_t AbsBits(uint32_t bits) { return bits & 0x7fffffffu; }

static inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static inline bool IsFiniteBits(uint32_t abs_bits) { return abs_bits < 0x7f800000u; }

// absmax from its bits, at least 1e-5; NaN stays NaN.
static inline float ClampAbsmax(uint32_t abs_bits) {
  const float value = FloatOf(abs_bits);
  return value < kMinAbsmax ? kMinAbsmax : value;
}

}  // namespace bitnet

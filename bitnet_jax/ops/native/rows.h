// What one instruction set offers for integer weights that lie in rows (layouts i8.rows,
// i6.rows, i4.rows): strips of four rows, multiplied by the codes of activations.
//
// Rows are cut into segments (groups of one scale; the whole row if there are none), and
// segments into chunks: as many columns as a kernel takes at once. Activations stand in
// the order of `Arrange`, each segment padded with zeros to whole chunks. Codes may be
// taken with an offset that makes them unsigned; its share is subtracted afterwards.
//
// Knows nothing of threads, scales or XLA. As in kernel.h, no standard templates here.
#pragma once

#include "kernel.h"

namespace bitnet {

enum RowsLayout : int64_t { kI8 = 0, kI6 = 1, kI4 = 2, kRowsLayouts = 3 };

// Columns and bytes of a chunk. Of 4-bit codes a byte holds two: its chunk is 64 bytes.
constexpr int64_t kChunkColumns[kRowsLayouts] = {64, 64, 128};
constexpr int64_t kChunkBytes[kRowsLayouts] = {64, 48, 64};
constexpr int64_t kChunkMost = 128;  // bytes of a chunk that was expanded, at most
constexpr int64_t kBits[kRowsLayouts] = {8, 6, 4};
constexpr int64_t kStrip = 4;  // rows of a strip
constexpr int64_t kTurn = 8;   // columns of one token or row, before those of the one beside it

// Codes are fetched this far ahead, to the second cache (benchmarks/LOG.md).
constexpr int64_t kRowsAhead = 8192;

static inline void Fetch(const void* at) { __builtin_prefetch(at, 0, 2); }

struct Strip {
  const uint8_t* codes;  // of its first row
  int64_t stride;        // bytes of a row
  int64_t rows;          // 1 to kStrip
  int64_t segments;
  int64_t segment_bytes;  // packed
  int64_t chunks;         // of a segment, the last one perhaps not full
};

struct RowsKernel {
  const char* name;  // as the ternary kernel's
  int32_t offset[kRowsLayouts];  // what `stream` and `expand` add to each code
  int64_t few;                   // tokens that `stream` takes at most
  int64_t together;              // rows, and tokens, that a vector of `tile` holds: 1 or 2

  // raw[(segment * tokens + token) * kStrip + row]: sums of (code + offset) * q, modulo
  // 2^32. Token t's activations stand at q + t * segments * chunks * kChunkColumns.
  void (*stream[kRowsLayouts])(const Strip& s, const int8_t* q, int64_t tokens, int32_t* raw);

  // The same in two steps, for many tokens: codes to a byte each, then products. Expanded
  // rows lie as the activations do, which for `tile` stand `together`: kTurn columns of the one
  // token, then of the other; `tokens` is a multiple of it. While it multiplies, `tile` fetches
  // the `next` strip.
  void (*expand[kRowsLayouts])(const Strip& s, uint8_t* expanded);
  void (*tile[kRowsLayouts])(const uint8_t* expanded, const Strip& s, const int8_t* q,
                             int64_t tokens, int32_t* raw);
};

// Activations of one segment in the order that kernels want: of 4-bit codes, which lie two
// to a byte, each chunk's 64 even columns come before its 64 odd ones.
static inline void Arrange(int64_t layout, const int8_t* from, int64_t columns, int64_t chunks,
                           int8_t* to) {
  std::memset(to, 0, chunks * kChunkColumns[layout]);
  if (layout != kI4) {
    std::memcpy(to, from, columns);
    return;
  }
  for (; columns >= 128; columns -= 128, from += 128, to += 128)
    for (int i = 0; i < 64; ++i) to[i] = from[2 * i], to[64 + i] = from[2 * i + 1];
  for (int64_t i = 0; i < columns; ++i) to[i % 2 * 64 + i / 2] = from[i];
}

}  // namespace bitnet

// The loops of rows.h over what an instruction set calls its vectors; those for many tokens
// stand in rows_tile_body.h. Included once in the namespace of each, which has defined before:
//
//   BITNET_TARGET        the attribute of its functions
//   Codes, Sums          vectors of codes (a byte each) and of partial sums
//   kVectors             `Codes` in 64 columns
//   kName, kOffsets      as in RowsKernel
//   kFew, kTokens        tokens at once in `Stream` and in `Tile`
//   Zero(), Add(a, b)    sums of nothing, and of both
//   Load8, Load6, Load4(at, v)  a full chunk, expanded to v; they read nothing beyond it
//   Get(at), Put(at, v)  expanded codes
//   Dot<L>(sums, v, q)   sums + v * (the activations at q)
//   Reduce(sums, raw)    the totals of kStrip sums
//
// No `#pragma once`: each inclusion is another instruction set.

#define BITNET_INLINE BITNET_TARGET static inline __attribute__((always_inline))

template <int L>
constexpr int kParts = kVectors * (L == kI4 ? 2 : 1);  // `Codes` in a chunk
constexpr int64_t kCodes = 64 / kVectors;

template <int L>
BITNET_INLINE void Load(const uint8_t* at, Codes* v) {
  if constexpr (L == kI8) Load8(at, v);
  if constexpr (L == kI6) Load6(at, v);
  if constexpr (L == kI4) Load4(at, v);
}

// One chunk of one row by NT tokens.
template <int L, int NT>
BITNET_INLINE void Multiply(const uint8_t* at, const int8_t* q, int64_t width, Sums* sums) {
  Codes v[kParts<L>];
  Load<L>(at, v);
#pragma GCC unroll 8
  for (int p = 0; p < kParts<L>; ++p)
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) sums[t] = Dot<L>(sums[t], v[p], q + t * width + p * kCodes);
}

// Row after row, as they lie: one stream is what processors fetch ahead best by themselves.
template <int L, int NT>
BITNET_TARGET static void StreamTokens(const Strip& s, const int8_t* q, int32_t* raw) {
  constexpr int kChains = NT == 1 ? 4 : 2;  // or the latency of `Dot` sets the pace
  const int64_t segment_width = s.chunks * kChunkColumns[L], width = s.segments * segment_width;
  for (int64_t segment = 0; segment < s.segments; ++segment, q += segment_width) {
    Sums totals[NT][kStrip];
    for (int r = 0; r < kStrip; ++r) {
      const uint8_t* at =
          s.codes + (r < s.rows ? r : 0) * s.stride + segment * s.segment_bytes;
      const int8_t* own = q;
      Sums sums[kChains][NT];
      for (int k = 0; k < kChains; ++k)
        for (int t = 0; t < NT; ++t) sums[k][t] = Zero();
      int64_t left = s.segment_bytes;
      constexpr int64_t kBytes = kChunkBytes[L], kColumns = kChunkColumns[L];
      for (; left >= kChains * kBytes; left -= kChains * kBytes) {
        for (int64_t line = 0; line < kChains * kBytes; line += 64) Fetch(at + kRowsAhead + line);
#pragma GCC unroll 4
        for (int k = 0; k < kChains; ++k)
          Multiply<L, NT>(at + k * kBytes, own + k * kColumns, width, sums[k]);
        at += kChains * kBytes, own += kChains * kColumns;
      }
      for (; left >= kBytes; left -= kBytes, at += kBytes, own += kColumns)
        Multiply<L, NT>(at, own, width, sums[0]);
      if (left > 0) {
        alignas(64) uint8_t last[64] = {};
        std::memcpy(last, at, left);
        Multiply<L, NT>(last, own, width, sums[1]);
      }
      for (int t = 0; t < NT; ++t) {
        totals[t][r] = sums[0][t];
        for (int k = 1; k < kChains; ++k) totals[t][r] = Add(totals[t][r], sums[k][t]);
      }
    }
    for (int t = 0; t < NT; ++t) Reduce(totals[t], raw + (segment * NT + t) * kStrip);
  }
}

template <int L, int NT = kFew>
static void Stream(const Strip& s, const int8_t* q, int64_t tokens, int32_t* raw) {
  if (tokens == NT) {
    StreamTokens<L, NT>(s, q, raw);
  } else if constexpr (NT > 1) {
    Stream<L, NT - 1>(s, q, tokens, raw);
  }
}

constexpr int64_t kTogether = 1;
#include "rows_tile_body.h"

static const RowsKernel kKernel = {
    kName,
    {kOffsets[kI8], kOffsets[kI6], kOffsets[kI4]},
    kFew,
    kTogether,
    {Stream<kI8>, Stream<kI6>, Stream<kI4>},
    {Expand<kI8>, Expand<kI6>, Expand<kI4>},
    {Tile<kI8>, Tile<kI6>, Tile<kI4>}};

#undef BITNET_INLINE

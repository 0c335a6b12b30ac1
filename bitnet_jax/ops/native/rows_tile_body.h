// The loops of rows.h for many tokens: codes to a byte each, then products. rows_body.h includes
// them for most instruction sets; one that takes kTogether rows and tokens in a vector includes
// them itself, with what rows_body.h lists, `Load` and `kParts`, where
//
//   Put(at, v)          puts each part of v kCodes behind the one before
//   Dot<L>(sums, v, q)  sums of each row by each token
//   Reduce(sums, raw)   the totals of kStrip rows by kTogether tokens
//
// No `#pragma once`: each inclusion is another instruction set.

template <int L>
BITNET_TARGET static void Expand(const Strip& s, uint8_t* expanded) {
  const int64_t width = s.segments * s.chunks * kChunkColumns[L];
  for (int64_t r = 0; r < kStrip; ++r) {
    const uint8_t* row = s.codes + (r < s.rows ? r : 0) * s.stride;
    uint8_t* to = expanded + (r - r % kTogether) * width + r % kTogether * kTurn;
    for (int64_t segment = 0; segment < s.segments; ++segment) {
      int64_t o = segment * s.segment_bytes;
      const int64_t end = o + s.segment_bytes;
      for (; o < end; o += kChunkBytes[L], to += kChunkColumns[L] * kTogether) {
        alignas(64) uint8_t last[64] = {};
        const uint8_t* at = row + o;
        if (end - o < kChunkBytes[L]) {
          std::memcpy(last, at, end - o);
          at = last;
        }
        Codes v[kParts<L>];
        Load<L>(at, v);
        for (int p = 0; p < kParts<L>; ++p) Put(to + p * kCodes * kTogether, v[p]);
      }
    }
  }
}

template <int L, int NT>
BITNET_TARGET static void TileTokens(const uint8_t* expanded, const Strip& s, bool fetch,
                                     const int8_t* q, int64_t tokens, int32_t* raw) {
  const int64_t segment_width = s.chunks * kChunkColumns[L], width = s.segments * segment_width;
  // Of the next strip, what belongs to as many columns as are multiplied meanwhile.
  const uint8_t* next = s.codes + kStrip * s.stride;
  constexpr int64_t kNext = kStrip * kCodes * kBits[L] / 8;
  constexpr int kTiles = NT / kTogether, kStrips = kStrip / kTogether;
  for (int64_t segment = 0; segment < s.segments; ++segment) {
    // Sums of their own for each part of a vector's columns, or latency would set the pace.
    Sums sums[kTogether][kTiles][kStrips];
    for (int g = 0; g < kTogether; ++g)
      for (int t = 0; t < kTiles; ++t)
        for (int r = 0; r < kStrips; ++r) sums[g][t][r] = Zero();
    const int64_t end = (segment + 1) * segment_width;
    for (int64_t o = segment * segment_width; o < end; o += kCodes) {
      if (fetch) {
        for (int64_t line = 0; line < kNext; line += 64) Fetch(next + line);
        next += kNext;
      }
#pragma GCC unroll 2
      for (int g = 0; g < kTogether; ++g) {
        const int64_t at = o * kTogether + g * kCodes;
        Codes v[kStrips];
        for (int r = 0; r < kStrips; ++r) v[r] = Get(expanded + r * kTogether * width + at);
#pragma GCC unroll 8
        for (int t = 0; t < kTiles; ++t)
          for (int r = 0; r < kStrips; ++r)
            sums[g][t][r] = Dot<L>(sums[g][t][r], v[r], q + t * kTogether * width + at);
      }
    }
    for (int t = 0; t < kTiles; ++t) {
      for (int g = 1; g < kTogether; ++g)
        for (int r = 0; r < kStrips; ++r) sums[0][t][r] = Add(sums[0][t][r], sums[g][t][r]);
      Reduce(sums[0][t], raw + (segment * tokens + t * kTogether) * kStrip);
    }
  }
}

template <int L, int NT = kTokens>
static void TileSome(const uint8_t* expanded, const Strip& s, int64_t at, int64_t count,
                     const int8_t* q, int64_t tokens, int32_t* raw) {
  if (count == NT) {
    const int64_t width = s.segments * s.chunks * kChunkColumns[L];
    TileTokens<L, NT>(expanded, s, at == 0, q + at * width, tokens, raw + at * kStrip);
  } else if constexpr (NT > kTogether) {
    TileSome<L, NT - kTogether>(expanded, s, at, count, q, tokens, raw);
  }
}

template <int L>
static void Tile(const uint8_t* expanded, const Strip& s, const int8_t* q, int64_t tokens,
                 int32_t* raw) {
  // Tiles of like sizes: 4 and 4 tokens take less time than 6 and 2.
  for (int64_t t = 0, left = (tokens + kTokens - 1) / kTokens; left > 0; --left) {
    const int64_t most = (tokens - t + left - 1) / left;
    const int64_t count = (most + kTogether - 1) / kTogether * kTogether;
    TileSome<L>(expanded, s, t, count, q, tokens, raw);
    t += count;
  }
}

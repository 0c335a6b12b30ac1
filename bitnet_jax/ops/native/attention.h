// Causal attention of queries over keys that stand at their own index, with the rotation of
// queries and keys and the write into the cache before it, where there is a cache.
//
// The keys that a query sees are taken in chunks that begin at multiples of kChunk, and the
// chunks are merged in ascending order, whether one thread takes them all or each another. So
// the result for a query depends on its own position and on nothing else: not on the other
// queries of the call, the batch, the capacity of the cache or the threads.
// Knows nothing of XLA: whoever calls it gives a function that runs `count` units.
#pragma once

#include <atomic>
#include <cstring>

#include "product.h"

namespace bitnet {

struct Attention {
  const Kernel* kernel;
  int64_t batch, tokens, heads, kv_heads, width, capacity;
  const float* q;  // [batch, tokens, heads, width]
  // [batch, tokens, kv_heads, width], rotated and written into the caches; null where the
  // keys of all positions are given (as `keys` and `values`).
  const float *k, *v;
  const float *cos, *sin;    // [batch, tokens, width/2], or null: nothing is rotated
  const int32_t* positions;  // [batch, tokens]; with k and v ascending by one along a row
  void *keys, *values;       // [batch, capacity, kv_heads], rows of CacheRowBytes
  bool narrow;  // a row: `width` codes int8 and their float32 scale; else `width` floats
  int64_t window;  // how many keys a query sees at most, its own included; 0: all before it
  float* y;                  // [batch, tokens, heads, width]
};

constexpr int64_t kScaleBytes = sizeof(float);

static inline int64_t CacheRowBytes(const Attention& p) {
  return p.narrow ? p.width + kScaleBytes : p.width * static_cast<int64_t>(sizeof(float));
}

// Units of one kv head of one token, and what they leave for the merge.
struct AttentionPlan {
  const Attention* p;
  int64_t chunks;      // of the longest row, at most
  bool split;          // chunks are units of their own: few tokens, long rows
  Buffer<float> turned;  // q rotated
  Buffer<float> most, total, out;  // by token, head and chunk, where split
  mutable std::atomic<bool> memory{true};  // none was lacking
};

// A thread's own floats: the caller's, or one of the pool's, kept for its next call. Good until the
// same thread asks again. Null where memory is lacking.
static float* Scratch(int64_t count) {
  static thread_local Buffer<float> held;
  static thread_local int64_t size = 0;
  if (count > size) {
    held = Allocate<float>(count);
    size = held ? count : 0;
  }
  return held.get();
}

// Queries whose keys are read together.
constexpr int64_t kQueryBlock = 8;

static inline int64_t KeysOf(const Attention& p, int64_t row) {
  const int64_t seen = int64_t{p.positions[row]} + 1;
  return Max(Min(seen, p.capacity), 1);  // positions are not negative: key 0 is seen
}

// The first key that a query sees.
static inline int64_t FirstOf(const Attention& p, int64_t row) {
  if (p.window <= 0) return 0;
  return Min(Max(int64_t{p.positions[row]} + 1 - p.window, 0), p.capacity - 1);
}

static inline int64_t FirstChunk(const Attention& p, int64_t row) {
  return FirstOf(p, row) / kChunk;
}

// A key or value into its row of the cache.
static void PutRow(const Attention& p, const float* from, uint8_t* to) {
  if (!p.narrow) {
    std::memcpy(to, from, p.width * sizeof(float));
    return;
  }
  const float a =
      p.kernel->quantize_f32(from, p.width, p.width, reinterpret_cast<int8_t*>(to));
  const float scale = a * kInv127;
  std::memcpy(to + p.width, &scale, sizeof scale);
}

// Rotates the queries of token `row`, and puts its key and value where they belong.
static void PlaceToken(const AttentionPlan& plan, int64_t row) {
  const Attention& p = *plan.p;
  const int64_t half = p.width / 2, b = row / p.tokens, t = row % p.tokens;
  const bool turns = p.cos != nullptr;
  const float* cos = turns ? p.cos + row * half : nullptr;
  const float* sin = turns ? p.sin + row * half : nullptr;
  if (turns) {
    const float* q = p.q + row * p.heads * p.width;
    float* to = plan.turned.get() + row * p.heads * p.width;
    for (int64_t h = 0; h < p.heads; ++h)
      p.kernel->floats->rotate(q + h * p.width, cos, sin, half, to + h * p.width);
  }
  if (p.k == nullptr) return;
  // The whole run of tokens stays inside the cache, as dynamic_update_slice keeps it.
  const int64_t start = Max(Min(p.positions[b * p.tokens], p.capacity - p.tokens), 0);
  float* turned = Scratch(p.width);
  if (turned == nullptr) {
    plan.memory = false;
    return;
  }
  const int64_t bytes = CacheRowBytes(p);
  for (int64_t h = 0; h < p.kv_heads; ++h) {
    const int64_t to = ((b * p.capacity + start + t) * p.kv_heads + h) * bytes;
    const float* k = p.k + (row * p.kv_heads + h) * p.width;
    if (turns) {
      p.kernel->floats->rotate(k, cos, sin, half, turned);
      k = turned;
    }
    PutRow(p, k, static_cast<uint8_t*>(p.keys) + to);
    PutRow(p, p.v + (row * p.kv_heads + h) * p.width, static_cast<uint8_t*>(p.values) + to);
  }
}

static inline const float* Queries(const AttentionPlan& plan, int64_t row, int64_t kv) {
  const Attention& p = *plan.p;
  const float* q = p.cos != nullptr ? plan.turned.get() : p.q;
  return q + (row * p.heads + kv * (p.heads / p.kv_heads)) * p.width;
}

// Keys and values of one kv head as floats, rows `stride` apart; null where memory is lacking.
struct Seen {
  const float *keys, *values;
  int64_t stride;
};

// The first `count` keys of a chunk of sequence `b`.
static Seen See(const AttentionPlan& plan, int64_t b, int64_t kv, int64_t chunk, int64_t count) {
  const Attention& p = *plan.p;
  const int64_t bytes = CacheRowBytes(p), stride = p.kv_heads * bytes;
  const int64_t at = (b * p.capacity + chunk * kChunk) * stride + kv * bytes;
  const uint8_t* keys = static_cast<const uint8_t*>(p.keys) + at;
  const uint8_t* values = static_cast<const uint8_t*>(p.values) + at;
  if (!p.narrow)
    return {reinterpret_cast<const float*>(keys), reinterpret_cast<const float*>(values),
            p.kv_heads * p.width};
  float* wide = Scratch(2 * kChunk * p.width);
  if (wide == nullptr) {
    plan.memory = false;
    return {nullptr, nullptr, 0};
  }
  p.kernel->floats->widen(keys, stride, count, p.width, wide);
  p.kernel->floats->widen(values, stride, count, p.width, wide + kChunk * p.width);
  return {wide, wide + kChunk * p.width, p.width};
}

// One chunk of keys for the queries of one kv head of token `row`.
static void Chunk(const AttentionPlan& plan, int64_t row, int64_t kv, int64_t chunk,
                  const Seen& seen, float* most, float* total, float* out) {
  const Attention& p = *plan.p;
  const float scale = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(p.width)));
  const int64_t skipped = Max(FirstOf(p, row) - chunk * kChunk, 0), at = skipped * seen.stride;
  p.kernel->floats->attend(Queries(plan, row, kv), p.heads / p.kv_heads, seen.keys + at,
                           seen.values + at, seen.stride,
                           Min(KeysOf(p, row) - chunk * kChunk, kChunk) - skipped, p.width,
                           scale, most, total, out);
}

static void WriteRow(const AttentionPlan& plan, int64_t row, int64_t kv, const float* total,
                     const float* out) {
  const Attention& p = *plan.p;
  const int64_t group = p.heads / p.kv_heads;
  float* y = p.y + (row * p.heads + kv * group) * p.width;
  for (int64_t h = 0; h < group; ++h)
    for (int64_t d = 0; d < p.width; ++d) y[h * p.width + d] = out[h * p.width + d] / total[h];
}

static void Merge(const AttentionPlan& plan, bool is_first, float* most, float* total,
                  float* out, const float* chunk_most, const float* chunk_total,
                  const float* chunk_out) {
  const Attention& p = *plan.p;
  const int64_t group = p.heads / p.kv_heads;
  if (is_first) {
    std::memcpy(most, chunk_most, group * sizeof(float));
    std::memcpy(total, chunk_total, group * sizeof(float));
    std::memcpy(out, chunk_out, group * p.width * sizeof(float));
    return;
  }
  for (int64_t h = 0; h < group; ++h)
    p.kernel->floats->merge(most + h, total + h, out + h * p.width, chunk_most[h],
                            chunk_total[h], chunk_out + h * p.width, p.width);
}

template <typename Run>
static bool RunAttention(const Attention& p, int64_t threads, Run run) {
  const IeeeFloats floats;
  const int64_t rows = p.batch * p.tokens, group = p.heads / p.kv_heads;
  if (rows == 0 || p.heads == 0) return true;
  AttentionPlan plan;
  plan.p = &p;
  int64_t longest = 1;
  for (int64_t row = 0; row < rows; ++row) longest = Max(longest, KeysOf(p, row));
  plan.chunks = CeilDiv(longest, kChunk);
  plan.split = rows * p.kv_heads < 8 * threads && plan.chunks > 1;
  plan.turned = Allocate<float>(p.cos != nullptr ? rows * p.heads * p.width : 0);
  const int64_t pieces = plan.split ? rows * p.kv_heads * plan.chunks : 0;
  plan.most = Allocate<float>(pieces * group);
  plan.total = Allocate<float>(pieces * group);
  plan.out = Allocate<float>(pieces * group * p.width);
  if (!plan.turned || !plan.most || !plan.total || !plan.out) return false;

  constexpr int64_t kTokensPerTask = 8;
  run(CeilDiv(rows, kTokensPerTask), [&](int64_t i) {
    for (int64_t row = i * kTokensPerTask; row < Min((i + 1) * kTokensPerTask, rows); ++row)
      PlaceToken(plan, row);
  });
  if (!plan.memory) return false;

  if (plan.split) {
    run(pieces, [&](int64_t i) {
      // The heads of a chunk follow each other: their rows lie side by side.
      const int64_t kv = i % p.kv_heads, chunk = i / p.kv_heads % plan.chunks;
      const int64_t row = i / p.kv_heads / plan.chunks;
      const int64_t count = Min(KeysOf(p, row) - chunk * kChunk, kChunk);
      if (count <= 0 || chunk < FirstChunk(p, row)) return;
      const Seen seen = See(plan, row / p.tokens, kv, chunk, count);
      if (seen.keys != nullptr)
        Chunk(plan, row, kv, chunk, seen, plan.most.get() + i * group,
              plan.total.get() + i * group, plan.out.get() + i * group * p.width);
    });
    if (!plan.memory) return false;
    const int64_t next = p.kv_heads * group;  // from a chunk's piece to the next one's
    for (int64_t i = 0; i < rows * p.kv_heads; ++i) {
      const int64_t row = i / p.kv_heads, kv = i % p.kv_heads;
      const int64_t start = FirstChunk(p, row);
      const int64_t first = ((row * plan.chunks + start) * p.kv_heads + kv) * group;
      float* most = plan.most.get() + first;
      float* total = plan.total.get() + first;
      float* out = plan.out.get() + first * p.width;
      for (int64_t chunk = 1; (start + chunk) * kChunk < KeysOf(p, row); ++chunk)
        Merge(plan, false, most, total, out, most + chunk * next, total + chunk * next,
              out + chunk * next * p.width);
      WriteRow(plan, row, kv, total, out);
    }
    return true;
  }

  // A unit: some tokens of a row and one kv head, chunk by chunk so that its keys stay near.
  const int64_t blocks = CeilDiv(p.tokens, kQueryBlock);
  const int64_t units = p.batch * p.kv_heads * blocks;
  const int64_t each = group * (p.width + 2);
  const Buffer<float> scratch = Allocate<float>(units * (kQueryBlock + 1) * each);
  if (!scratch) return false;
  run(units, [&](int64_t i) {
    // The longest first: they take the most time.
    const int64_t block = blocks - 1 - i / (p.batch * p.kv_heads);
    const int64_t kv = i % p.kv_heads, b = i / p.kv_heads % p.batch;
    const int64_t t0 = block * kQueryBlock, t1 = Min(t0 + kQueryBlock, p.tokens);
    float* mine = scratch.get() + i * (kQueryBlock + 1) * each;
    float* chunk_at = mine + kQueryBlock * each;
    int64_t longest_here = 0, start = plan.chunks;
    for (int64_t t = t0; t < t1; ++t) {
      longest_here = Max(longest_here, KeysOf(p, b * p.tokens + t));
      start = Min(start, FirstChunk(p, b * p.tokens + t));
    }
    for (int64_t chunk = start; chunk * kChunk < longest_here; ++chunk) {
      const Seen seen = See(plan, b, kv, chunk, Min(longest_here - chunk * kChunk, kChunk));
      if (seen.keys == nullptr) return;
      for (int64_t t = t0; t < t1; ++t) {
        const int64_t row = b * p.tokens + t;
        if (chunk * kChunk >= KeysOf(p, row) || chunk < FirstChunk(p, row)) continue;
        float* most = mine + (t - t0) * each;
        Chunk(plan, row, kv, chunk, seen, chunk_at, chunk_at + group, chunk_at + 2 * group);
        Merge(plan, chunk == FirstChunk(p, row), most, most + group, most + 2 * group, chunk_at,
              chunk_at + group, chunk_at + 2 * group);
      }
    }
    for (int64_t t = t0; t < t1; ++t) {
      const float* most = mine + (t - t0) * each;
      WriteRow(plan, b * p.tokens + t, kv, most + group, most + 2 * group);
    }
  });
  return plan.memory;
}

}  // namespace bitnet

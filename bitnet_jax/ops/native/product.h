// The ternary products of one input over a table of kernels: make and quantize the tokens,
// cut the work into units, scale the accumulators. Knows nothing of XLA: whoever calls it
// gives a function that runs `count` independent units.
//
// A unit's result does not depend on how the work was cut or on who ran it, so the
// outputs are the same for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "codes_dense.h"
#include "float_mode.h"
#include "kernel.h"
#include "kernel_portable.h"
#if defined(__x86_64__)
#include "kernel_avx2.h"
#include "kernel_avx512.h"
#include "kernel_avx512_vbmi.h"
#elif defined(__aarch64__)
#include "kernel_neon.h"
#include "kernel_neon_i8mm.h"
#endif

namespace bitnet {

// Best first; the index is the "isa" attribute of the calls.
static const Kernel* const kKernels[] = {
#if defined(__x86_64__)
    &avx512_vbmi::kKernel, &avx512_vnni::kKernel, &avx_vnni::kKernel, &avx2::kKernel,
#elif defined(__aarch64__)
    &neon_i8mm::kKernel, &neon_dotprod::kKernel,
#endif
    &portable::kKernel,
};
constexpr int64_t kKernelCount = sizeof(kKernels) / sizeof(kKernels[0]);

enum ScaleKind : int64_t { kTensor = 0, kRow = 1, kGroup = 2, kAccumulate = 3 };
// How codes lie: t2.16x16 or t1.16x20. `cols` columns to a line of 64 bytes; activations are
// padded to, and a group of columns with one scale is, a multiple of `step`.
enum LayoutId : int64_t { kPlainCodes = 0, kDenseCodes = 1 };
struct Layout {
  int64_t cols, step;
};
static const Layout kLayouts[] = {{kCols, kCols}, {kDenseCols, kTurnCols}};
constexpr int64_t kLayoutCount = sizeof(kLayouts) / sizeof(kLayouts[0]);

enum Gate : int64_t { kNoGate = 0, kRelu2 = 1 };

// What is multiplied: x, or norm(x), or norm(relu(x)² * up).
struct Input {
  int64_t batch, tokens, in;  // x [batch, tokens, in]
  const void* x;              // int8 codes for kAccumulate
  bool bf16;                  // then neither gated nor normed
  int64_t gate;
  const float* up;    // [batch, tokens, in] where gated
  const float* norm;  // [in], or null
  float eps;
};

// One of the weights that multiply the same input.
struct Part {
  int64_t out;
  const uint8_t* codes;  // [batch, blocks, lines, 64]
  const float* scale;    // [batch] | [batch, out] | [batch, out, in/group]
  int64_t scale_kind;
  const float* add;  // [batch, tokens, out] added to the result, or null
  void* y;           // [batch, tokens, out]; int32 for kAccumulate
  bool bf16;
};

constexpr int64_t kMaxParts = 8;

struct Product {
  const Kernel* kernel;
  Input input;
  int64_t layout;  // of the codes of all parts
  int64_t group;   // columns per scale, 0 where no part has scales by group
  int64_t parts;
  Part part[kMaxParts];
};

// The language's own aligned memory: aligned_alloc is not on Windows, nor on older macOS.
constexpr std::align_val_t kAlignment{64};
struct Deleter {
  void operator()(void* p) const { ::operator delete(p, kAlignment); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Deleter>;

template <typename T>
static Buffer<T> Allocate(int64_t count) {
  const size_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
  return Buffer<T>(static_cast<T*>(::operator new(bytes, kAlignment, std::nothrow)));
}

static inline uint16_t ToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if (AbsBits(bits) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

constexpr int64_t kUnitBytes = 96 << 10;  // codes of a unit: long enough to stream well
constexpr int64_t kUnitTokens = 8 * kMaxTokens;  // whole tiles

static inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// How a product is cut, and the buffers its units share.
struct Plan {
  const Product* p;
  int64_t lines, padded, width, segments;  // width: columns of a segment
  int64_t token_units;
  int64_t unit_blocks;             // row blocks of a unit
  int64_t first_unit[kMaxParts + 1];  // of each part, in one count
  Buffer<int8_t> q;                // [batch * tokens, padded]
  Buffer<int8_t> tiles;            // the same in tiles of kMaxTokens, see Kernel::accumulate
  Buffer<float> a;                 // [batch * tokens]
  Buffer<int32_t> sums;            // [batch * tokens, segments]
};

// Returns false when memory is missing.
static bool MakePlan(const Product& p, int64_t threads, Plan* plan) {
  const Input& input = p.input;
  plan->p = &p;
  const Layout& layout = kLayouts[p.layout];
  plan->lines = CeilDiv(input.in, layout.cols);
  plan->padded = CeilDiv(input.in, layout.step) * layout.step;
  plan->width = p.group ? p.group : Max(plan->padded, 1);
  plan->segments = Max(CeilDiv(plan->padded, plan->width), 1);
  int64_t blocks = 0;
  for (int64_t i = 0; i < p.parts; ++i) blocks += CeilDiv(p.part[i].out, kRows);
  // About a cache-friendly piece each, but at least four pieces a thread to even out.
  const int64_t by_bytes = Max(kUnitBytes / Max(plan->lines * kLineBytes, 1), 1);
  const int64_t by_threads = CeilDiv(input.batch * blocks, 4 * threads);
  plan->unit_blocks = CeilDiv(Max(Min(by_bytes, by_threads), 1), kMaxBlocks) * kMaxBlocks;
  plan->token_units = CeilDiv(input.tokens, kUnitTokens);
  plan->first_unit[0] = 0;
  for (int64_t i = 0; i < p.parts; ++i)
    plan->first_unit[i + 1] =
        plan->first_unit[i] + input.batch * plan->token_units *
                                  CeilDiv(CeilDiv(p.part[i].out, kRows), plan->unit_blocks);
  const int64_t rows = input.batch * input.tokens;
  plan->q = Allocate<int8_t>(rows * plan->padded);
  plan->tiles = Allocate<int8_t>(input.tokens > 1 ? rows * plan->padded : 0);
  plan->a = Allocate<float>(rows);
  plan->sums = Allocate<int32_t>(rows * plan->segments);
  return plan->q && plan->tiles && plan->a && plan->sums;
}

// The values of token `row` that are quantized: x's own, or what is made of them in `scratch`.
static const float* Prologue(const Product& p, int64_t row, float* scratch) {
  const Input& input = p.input;
  const float* x = static_cast<const float*>(input.x) + row * input.in;
  if (input.gate == kRelu2) {
    p.kernel->floats->relu2_gate(x, input.up + row * input.in, input.in, scratch);
    x = scratch;
  }
  if (input.norm != nullptr) {
    p.kernel->floats->norm(x, input.norm, input.eps, input.in, scratch);
    x = scratch;
  }
  return x;
}

// Quantizes token `row` (of batch * tokens), and sums its codes per segment. `scratch` holds
// a token's floats.
static void PrepareToken(const Plan& plan, int64_t row, float* scratch) {
  const Product& p = *plan.p;
  const Input& input = p.input;
  int8_t* q = plan.q.get() + row * plan.padded;
  if (p.part[0].scale_kind == kAccumulate) {
    std::memcpy(q, static_cast<const int8_t*>(input.x) + row * input.in, input.in);
    std::memset(q + input.in, 0, plan.padded - input.in);
  } else {
    const int64_t filled = CeilDiv(input.in, kCols) * kCols;  // as far as `quantize` writes
    if (input.bf16)
      plan.a[row] = p.kernel->quantize_bf16(
          static_cast<const uint16_t*>(input.x) + row * input.in, input.in, filled, q);
    else
      plan.a[row] = p.kernel->quantize_f32(Prologue(p, row, scratch), input.in, filled, q);
    std::memset(q + filled, 0, plan.padded - filled);
  }
  for (int64_t s = 0; s < plan.segments; ++s)
    plan.sums[row * plan.segments + s] =
        p.kernel->sum(q + s * plan.width, Min(plan.width, plan.padded - s * plan.width));
  if (input.tokens == 1) return;  // one token: its tile is the row itself
  const int64_t token = row % input.tokens, in_tile = token % kMaxTokens;
  const int64_t width_of_tile = Min(kMaxTokens, input.tokens - (token - in_tile));
  int8_t* tile = plan.tiles.get() + (row - in_tile) * plan.padded + in_tile * 4;
  for (int64_t i = 0; i < plan.padded; i += 4)
    std::memcpy(tile + i * width_of_tile, q + i, 4);
}

// Scales the accumulators of one token, `count` rows from `row0` of batch element `e`.
// raw + s*stride is segment s. The order of the float operations is the contract's.
static void Finish(const Plan& plan, const Part& part, int64_t e, int64_t token, int64_t row0,
                   int64_t count, const int32_t* raw, int64_t stride) {
  const int64_t row = e * plan.p->input.tokens + token;
  const int32_t* sums = plan.sums.get() + row * plan.segments;
  const int64_t at = row * part.out + row0;
  if (part.scale_kind == kAccumulate) {
    int32_t* y = static_cast<int32_t*>(part.y) + at;
    for (int64_t n = 0; n < count; ++n) y[n] = raw[n] - sums[0];
    return;
  }
  const float token_scale = plan.a[row] * kInv127;
  float y[kMaxBlocks * kRows];
  if (part.scale_kind == kTensor) {
    const float factor = part.scale[e] * token_scale;
    for (int64_t n = 0; n < count; ++n) y[n] = static_cast<float>(raw[n] - sums[0]) * factor;
  } else if (part.scale_kind == kRow) {
    const float* scale = part.scale + e * part.out + row0;
    for (int64_t n = 0; n < count; ++n)
      y[n] = static_cast<float>(raw[n] - sums[0]) * (scale[n] * token_scale);
  } else {
    const float* scale = part.scale + (e * part.out + row0) * plan.segments;
    for (int64_t n = 0; n < count; ++n) {
      float total = 0.0f;
      for (int64_t s = 0; s < plan.segments; ++s)
        total += static_cast<float>(raw[s * stride + n] - sums[s]) *
                 scale[n * plan.segments + s];
      y[n] = total * token_scale;
    }
  }
  if (part.add != nullptr)
    for (int64_t n = 0; n < count; ++n) y[n] = part.add[at + n] + y[n];
  if (part.bf16) {
    uint16_t* to = static_cast<uint16_t*>(part.y) + at;
    for (int64_t n = 0; n < count; ++n) to[n] = ToBf16(y[n]);
  } else {
    std::memcpy(static_cast<float*>(part.y) + at, y, count * sizeof(float));
  }
}

static int64_t UnitCount(const Plan& plan) { return plan.first_unit[plan.p->parts]; }

// The codes of some row blocks as one `accumulate` of the kernel reads them.
struct Panel {
  int64_t lines, segment_lines;  // of a block; of a segment
  const uint8_t* codes;
  decltype(Kernel::accumulate) accumulate;
};

// The kernel's own form for the layout; or, in `scratch`, the codes turned to t2.16x16.
static Panel MakePanel(const Plan& plan, const uint8_t* codes, int64_t blocks,
                       Buffer<uint8_t>* scratch) {
  const Kernel& kernel = *plan.p->kernel;
  if (plan.p->layout == kPlainCodes || kernel.accumulate_dense != nullptr) {
    const int64_t cols = kLayouts[plan.p->layout].cols;
    return {plan.lines, CeilDiv(plan.width, cols), codes,
            plan.p->layout == kPlainCodes ? kernel.accumulate : kernel.accumulate_dense};
  }
  const int64_t lines = plan.padded / kCols;
  if (!*scratch) *scratch = Allocate<uint8_t>(kMaxBlocks * lines * kLineBytes);
  if (!*scratch) std::abort();  // as below
  for (int64_t b = 0; b < blocks; ++b)
    PlainOfDense(codes + b * plan.lines * kLineBytes, plan.lines, lines,
                 scratch->get() + b * lines * kLineBytes);
  return {lines, CeilDiv(plan.width, kCols), scratch->get(), kernel.accumulate};
}

static void RunUnit(const Plan& plan, int64_t unit) {
  const Product& p = *plan.p;
  const Input& input = p.input;
  int64_t which = 0;
  while (unit >= plan.first_unit[which + 1]) ++which;
  const Part& part = p.part[which];
  unit -= plan.first_unit[which];
  const int64_t all_blocks = CeilDiv(part.out, kRows);
  const int64_t block_units = CeilDiv(all_blocks, plan.unit_blocks);
  const int64_t tu = unit % plan.token_units;
  const int64_t bu = unit / plan.token_units % block_units;
  const int64_t e = unit / plan.token_units / block_units;
  const int64_t b_end = Min((bu + 1) * plan.unit_blocks, all_blocks);
  const int64_t t_end = Min((tu + 1) * kUnitTokens, input.tokens);
  const int8_t* tiles = input.tokens == 1 ? plan.q.get() : plan.tiles.get();
  // With many segments the accumulators outgrow the stack.
  constexpr int64_t kStack = kMaxTokens * kMaxBlocks * kRows * 8;
  const int64_t need = plan.segments * Min(kMaxTokens, input.tokens) * kMaxBlocks * kRows;
  alignas(64) int32_t stack[kStack];
  Buffer<int32_t> heap;
  int32_t* raw = stack;
  if (need > kStack) {
    heap = Allocate<int32_t>(need);
    raw = heap.get();
    if (raw == nullptr) std::abort();  // nobody can be told from here; 10 KB a segment
  }
  // Without inputs no kernel writes a sum: the empty sum is 0.
  if (plan.lines == 0) std::memset(raw, 0, need * sizeof(int32_t));
  Buffer<uint8_t> scratch;
  for (int64_t b = bu * plan.unit_blocks; b < b_end; b += kMaxBlocks) {
    const int64_t blocks = Min(kMaxBlocks, b_end - b);
    const Panel panel = MakePanel(
        plan, part.codes + (e * all_blocks + b) * plan.lines * kLineBytes, blocks, &scratch);
    const int64_t count = Min(blocks * kRows, part.out - b * kRows);
    for (int64_t t = tu * kUnitTokens; t < t_end; t += kMaxTokens) {
      const int64_t tokens = Min(kMaxTokens, t_end - t);
      panel.accumulate(panel.codes, blocks, panel.lines, panel.segment_lines,
                       tiles + (e * input.tokens + t) * plan.padded, tokens, raw);
      for (int64_t i = 0; i < tokens; ++i)
        Finish(plan, part, e, t + i, b * kRows, count, raw + i * blocks * kRows,
               tokens * blocks * kRows);
    }
  }
}

// Turns `blocks` row blocks of `in` columns from t2.16x16 to t1.16x20, or back. Returns false
// where a code is no trit.
template <typename Run>
static bool Repack(bool to_dense, int64_t blocks, int64_t in, const uint8_t* from, uint8_t* to,
                   Run run) {
  const int64_t plain = CeilDiv(in, kCols), dense = CeilDiv(in, kDenseCols);
  constexpr int64_t kLinesPerTask = 4096;
  const int64_t per_task = Max(kLinesPerTask / Max(plain, 1), 1);
  std::atomic<bool> legal{true};
  run(CeilDiv(blocks, per_task), [&](int64_t i) {
    for (int64_t b = i * per_task; b < Min((i + 1) * per_task, blocks); ++b) {
      const int64_t at_plain = b * plain * kLineBytes, at_dense = b * dense * kLineBytes;
      const bool good = to_dense ? DenseOfPlain(from + at_plain, plain, dense, to + at_dense)
                                 : PlainOfDense(from + at_dense, dense, plain, to + at_plain);
      if (!good) legal.store(false, std::memory_order_relaxed);
    }
  });
  return legal.load(std::memory_order_relaxed);
}

// `run(count, fn)` runs fn(i) for 0 <= i < count, in any order, and returns when all
// are done. Returns false when memory is missing.
template <typename Run>
static bool RunProduct(const Product& p, int64_t threads, Run run) {
  const IeeeFloats floats;
  const Input& input = p.input;
  const int64_t rows = input.batch * input.tokens;
  if (rows == 0) return true;
  Plan plan;
  if (!MakePlan(p, Max(threads, 1), &plan)) return false;
  constexpr int64_t kElementsPerTask = 32 << 10;
  const int64_t per_task = Max(kElementsPerTask / Max(plan.padded, 1), 1);
  const int64_t tasks = CeilDiv(rows, per_task);
  const bool made = input.gate != kNoGate || input.norm != nullptr;
  const Buffer<float> scratch = Allocate<float>(made ? tasks * input.in : 0);
  if (!scratch) return false;
  run(tasks, [&](int64_t i) {
    for (int64_t row = i * per_task; row < Min((i + 1) * per_task, rows); ++row)
      PrepareToken(plan, row, scratch.get() + (made ? i * input.in : 0));
  });
  run(UnitCount(plan), [&](int64_t i) { RunUnit(plan, i); });
  return true;
}

}  // namespace bitnet

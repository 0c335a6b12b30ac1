// The library's entries: XLA FFI handlers and plain C functions, for the self-test and for
// Python. Everything they do stands in product.h, on the threads of pool.h.

#include <cstdint>
#include <initializer_list>

#include "attention.h"
#include "pool.h"
#include "product.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Everything else is hidden (-fvisibility=hidden): the library's own copies of templates must
// not be taken for those of another library in the process, nor they for its own.
#if defined(_WIN32)
#define BITNET_EXPORT extern "C" __declspec(dllexport)
#else
#define BITNET_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#ifndef BITNET_SOURCE_KEY
#define BITNET_SOURCE_KEY "unknown"
#endif

namespace {

using bitnet::Attention;
using bitnet::Kernel;
using bitnet::Part;
using bitnet::Product;

// Below this many products a second thread costs more than it brings.
constexpr int64_t kWorthThreads = 1 << 18;

bool RunOnPool(const Product& p, int64_t threads) {
  return bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

bool RunOnPool(const Product& p) {
  int64_t out = 0;
  for (int64_t i = 0; i < p.parts; ++i) out += p.part[i].out;
  const bool small = p.input.batch * p.input.tokens * out * p.input.in < kWorthThreads;
  return RunOnPool(p, small ? 1 : bitnet::Pool::Get().threads());
}

ffi::Error Fail(const char* what) { return ffi::Error::InvalidArgument(what); }

ffi::Error Ended(bool enough_memory) {
  if (enough_memory) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
}

constexpr const char* kNoIsa = "bitnet: this processor lacks the instruction set";

// Asked once: in a virtual machine each cpuid takes a microsecond and more.
const Kernel* Find(int64_t isa) {
  struct Usable {
    bool is[bitnet::kKernelCount];
  };
  static const Usable usable = [] {
    Usable found;
    for (int64_t i = 0; i < bitnet::kKernelCount; ++i)
      found.is[i] = bitnet::kKernels[i]->usable();
    return found;
  }();
  if (isa < 0 || isa >= bitnet::kKernelCount) return nullptr;
  return usable.is[isa] ? bitnet::kKernels[isa] : nullptr;
}

using Shape = ffi::Span<const int64_t>;

bool Is(Shape shape, std::initializer_list<int64_t> sizes) {
  if (shape.size() != sizes.size()) return false;
  size_t i = 0;
  for (const int64_t size : sizes)
    if (shape[i++] != size) return false;
  return true;
}

// Fills the input's sizes from x [B,M,K].
bool SetInput(Shape x, Product* p) {
  if (x.size() != 3) return false;
  p->input.batch = x[0], p->input.tokens = x[1], p->input.in = x[2];
  return true;
}

// Appends a part with codes [B,OB,IB,64], scales and y [B,M,N]; nullptr if they agree.
const char* AddPart(Shape codes, int64_t scales, Shape y, int64_t scale_kind, int64_t group,
                    Product* p) {
  const bitnet::Input& input = p->input;
  if (p->parts == bitnet::kMaxParts) return "bitnet: too many weights in one call";
  if (y.size() != 3) return "bitnet: wrong ranks";
  Part& part = p->part[p->parts++];
  part.out = y[2], part.scale_kind = scale_kind;
  if (y[0] != input.batch || y[1] != input.tokens ||
      !Is(codes, {input.batch, bitnet::CeilDiv(part.out, bitnet::kRows),
                  bitnet::CeilDiv(input.in, bitnet::kCols), bitnet::kLineBytes}))
    return "bitnet: shapes of x, codes and y disagree";
  int64_t wanted = input.batch;
  switch (scale_kind) {
    case bitnet::kAccumulate: return nullptr;
    case bitnet::kTensor: break;
    case bitnet::kRow: wanted *= part.out; break;
    case bitnet::kGroup:
      if (group <= 0 || group % bitnet::kCols || input.in % group)
        return "bitnet: a group must be a multiple of 16 that divides the inputs";
      wanted *= part.out * (input.in / group);
      p->group = group;
      break;
    default: return "bitnet: unknown kind of scale";
  }
  return scales == wanted ? nullptr : "bitnet: wrong number of scales";
}

bool IsFloat(ffi::DataType t) { return t == ffi::F32 || t == ffi::BF16; }

ffi::Error MatmulImpl(ffi::AnyBuffer x, ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> scale,
                      ffi::Result<ffi::AnyBuffer> y, int64_t isa, int64_t scale_kind,
                      int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetInput(x.dimensions(), &p)) return Fail("bitnet: wrong ranks");
  if (!IsFloat(x.element_type()) || !IsFloat(y->element_type()))
    return Fail("bitnet: x and y must be float32 or bfloat16");
  if (const char* wrong = AddPart(codes.dimensions(), scale.element_count(), y->dimensions(),
                                  scale_kind, group, &p))
    return Fail(wrong);
  p.input.x = x.untyped_data(), p.input.bf16 = x.element_type() == ffi::BF16;
  Part& part = p.part[0];
  part.y = y->untyped_data(), part.bf16 = y->element_type() == ffi::BF16;
  part.codes = codes.typed_data(), part.scale = scale.typed_data();
  return Ended(RunOnPool(p));
}

ffi::Error AccumulateImpl(ffi::Buffer<ffi::S8> q, ffi::Buffer<ffi::U8> codes,
                          ffi::ResultBuffer<ffi::S32> y, int64_t isa) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetInput(q.dimensions(), &p)) return Fail("bitnet: wrong ranks");
  if (const char* wrong = AddPart(codes.dimensions(), 0, y->dimensions(), bitnet::kAccumulate,
                                  0, &p))
    return Fail(wrong);
  p.input.x = q.typed_data();
  p.part[0].codes = codes.typed_data(), p.part[0].y = y->typed_data();
  return Ended(RunOnPool(p));
}

using F32 = ffi::Buffer<ffi::F32>;

// Operands: x; up, if gated; the norm's weight, if normed; what is added, if so; then codes
// and scale of each weight. Results: a y for each weight.
ffi::Error LinearsImpl(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t isa,
                       int64_t gate, bool normed, float eps, bool added, int64_t scale_kind,
                       int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  const size_t before = 1 + (gate != bitnet::kNoGate) + normed + added;
  if (args.size() != before + 2 * rets.size() || rets.size() == 0 ||
      (added && rets.size() != 1) || gate < 0 || gate > bitnet::kRelu2)
    return Fail("bitnet: wrong number of operands");
  size_t next = 0;
  const auto x = args.get<F32>(next++);
  if (!x.has_value()) return x.error();
  if (!SetInput(x->dimensions(), &p)) return Fail("bitnet: wrong ranks");
  bitnet::Input& input = p.input;
  input.x = x->typed_data(), input.gate = gate, input.eps = eps;
  if (gate != bitnet::kNoGate) {
    const auto up = args.get<F32>(next++);
    if (!up.has_value()) return up.error();
    if (!Is(up->dimensions(), {input.batch, input.tokens, input.in}))
      return Fail("bitnet: gate and up differ in shape");
    input.up = up->typed_data();
  }
  if (normed) {
    const auto weight = args.get<F32>(next++);
    if (!weight.has_value()) return weight.error();
    if (!Is(weight->dimensions(), {input.in}))
      return Fail("bitnet: a norm's weight has one value for each input");
    input.norm = weight->typed_data();
  }
  const float* add = nullptr;
  if (added) {
    const auto base = args.get<F32>(next++);
    if (!base.has_value()) return base.error();
    auto y = rets.get<F32>(0);
    if (!y.has_value()) return y.error();
    if (base->element_count() != (*y)->element_count())
      return Fail("bitnet: what is added has another size than the result");
    add = base->typed_data();
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    const auto codes = args.get<ffi::Buffer<ffi::U8>>(next++);
    if (!codes.has_value()) return codes.error();
    const auto scale = args.get<F32>(next++);
    if (!scale.has_value()) return scale.error();
    auto y = rets.get<F32>(i);
    if (!y.has_value()) return y.error();
    if (const char* wrong = AddPart(codes->dimensions(), scale->element_count(),
                                    (*y)->dimensions(), scale_kind, group, &p))
      return Fail(wrong);
    Part& part = p.part[i];
    part.codes = codes->typed_data(), part.scale = scale->typed_data();
    part.y = (*y)->typed_data(), part.add = add;
  }
  return Ended(RunOnPool(p));
}

bool RunOnPool(const Attention& p, int64_t threads) {
  return bitnet::RunAttention(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

// Fills the sizes from q [B,M,H,D] and the keys [B,S,KV,D]; false if they disagree.
bool SetAttention(Shape q, Shape keys, Shape positions, Attention* p) {
  if (q.size() != 4 || keys.size() != 4) return false;
  p->batch = q[0], p->tokens = q[1], p->heads = q[2], p->width = q[3];
  p->capacity = keys[1], p->kv_heads = keys[2];
  return keys[0] == p->batch && keys[3] == p->width && p->kv_heads > 0 && p->capacity > 0 &&
         p->heads % p->kv_heads == 0 && p->width % 16 == 0 &&
         Is(positions, {p->batch, p->tokens});
}

constexpr const char* kAttentionShapes = "bitnet: shapes of queries, keys and positions disagree";

ffi::Error AttentionImpl(F32 q, F32 keys, F32 values, ffi::Buffer<ffi::S32> positions,
                         ffi::ResultBuffer<ffi::F32> y, int64_t isa) {
  Attention p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetAttention(q.dimensions(), keys.dimensions(), positions.dimensions(), &p) ||
      values.element_count() != keys.element_count())
    return Fail(kAttentionShapes);
  p.q = q.typed_data(), p.positions = positions.typed_data(), p.y = y->typed_data();
  // Only read: without k and v nothing is written into them.
  p.keys = keys.typed_data(), p.values = values.typed_data();
  return Ended(RunOnPool(p, bitnet::Pool::Get().threads()));
}

// The results `new_keys` and `new_values` are the operands' own buffers: they are aliased.
ffi::Error CachedAttentionImpl(F32 q, F32 k, F32 v, F32 cos, F32 sin,
                               ffi::Buffer<ffi::S32> positions, F32 keys, F32 values,
                               ffi::ResultBuffer<ffi::F32> y, ffi::ResultBuffer<ffi::F32> new_keys,
                               ffi::ResultBuffer<ffi::F32> new_values, int64_t isa) {
  Attention p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetAttention(q.dimensions(), keys.dimensions(), positions.dimensions(), &p) ||
      !Is(k.dimensions(), {p.batch, p.tokens, p.kv_heads, p.width}) ||
      !Is(v.dimensions(), {p.batch, p.tokens, p.kv_heads, p.width}) ||
      !Is(cos.dimensions(), {p.batch, p.tokens, p.width / 2}) ||
      !Is(sin.dimensions(), {p.batch, p.tokens, p.width / 2}) || p.tokens > p.capacity ||
      values.element_count() != keys.element_count())
    return Fail(kAttentionShapes);
  if (new_keys->typed_data() != keys.typed_data() ||
      new_values->typed_data() != values.typed_data())
    return Fail("bitnet: the caches must be written in place");
  p.q = q.typed_data(), p.k = k.typed_data(), p.v = v.typed_data();
  p.cos = cos.typed_data(), p.sin = sin.typed_data();
  p.positions = positions.typed_data(), p.y = y->typed_data();
  p.keys = keys.typed_data(), p.values = values.typed_data();
  return Ended(RunOnPool(p, bitnet::Pool::Get().threads()));
}

ffi::Error NormImpl(F32 x, F32 weight, ffi::ResultBuffer<ffi::F32> y, int64_t isa, float eps) {
  const Kernel* kernel = Find(isa);
  if (kernel == nullptr) return Fail(kNoIsa);
  const Shape shape = x.dimensions();
  if (shape.size() == 0 || !Is(weight.dimensions(), {shape[shape.size() - 1]}))
    return Fail("bitnet: a norm's weight has one value for each input");
  const int64_t n = shape[shape.size() - 1], rows = n ? x.element_count() / n : 0;
  bitnet::Pool& pool = bitnet::Pool::Get();
  pool.Run(rows, rows * n < kWorthThreads / 16 ? 1 : pool.threads(), [&](int64_t row) {
    kernel->floats->norm(x.typed_data() + row * n, weight.typed_data(), eps, n,
                         y->typed_data() + row * n);
  });
  return ffi::Error::Success();
}

}  // namespace

// XLA's own macro for such a symbol has no room for the export.
#define BITNET_HANDLER(name, impl, binding)                     \
  BITNET_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) { \
    XLA_FFI_DEFINE_HANDLER(handler, impl, binding);             \
    return (*handler)(frame);                                   \
  }

BITNET_HANDLER(bitnet_ternary_matmul, MatmulImpl,
               ffi::Ffi::Bind()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::Buffer<ffi::U8>>()
                   .Arg<F32>()
                   .Ret<ffi::AnyBuffer>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("scale_kind")
                   .Attr<int64_t>("group_size"))

BITNET_HANDLER(bitnet_ternary_accumulate, AccumulateImpl,
               ffi::Ffi::Bind()
                   .Arg<ffi::Buffer<ffi::S8>>()
                   .Arg<ffi::Buffer<ffi::U8>>()
                   .Ret<ffi::Buffer<ffi::S32>>()
                   .Attr<int64_t>("isa"))

BITNET_HANDLER(bitnet_fused_linears, LinearsImpl,
               ffi::Ffi::Bind()
                   .RemainingArgs()
                   .RemainingRets()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("gate")
                   .Attr<bool>("normed")
                   .Attr<float>("eps")
                   .Attr<bool>("added")
                   .Attr<int64_t>("scale_kind")
                   .Attr<int64_t>("group_size"))

BITNET_HANDLER(bitnet_attention, AttentionImpl,
               ffi::Ffi::Bind()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<ffi::Buffer<ffi::S32>>()
                   .Ret<F32>()
                   .Attr<int64_t>("isa"))

BITNET_HANDLER(bitnet_cached_attention, CachedAttentionImpl,
               ffi::Ffi::Bind()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<ffi::Buffer<ffi::S32>>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Ret<F32>()
                   .Ret<F32>()
                   .Ret<F32>()
                   .Attr<int64_t>("isa"))

BITNET_HANDLER(bitnet_rms_norm, NormImpl,
               ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Ret<F32>().Attr<int64_t>("isa").Attr<float>(
                   "eps"))

BITNET_EXPORT const char* bitnet_source_key() { return BITNET_SOURCE_KEY; }

BITNET_EXPORT int64_t bitnet_isa_count() { return bitnet::kKernelCount; }

BITNET_EXPORT const char* bitnet_isa_name(int64_t isa) {
  return isa >= 0 && isa < bitnet::kKernelCount ? bitnet::kKernels[isa]->name : nullptr;
}

BITNET_EXPORT int bitnet_isa_usable(int64_t isa) { return Find(isa) != nullptr; }

// As the FFI entries, on `threads` threads. sizes: batch, tokens, out, in,
// scale_kind (3: accumulate int8 codes into int32), group, x is bf16, y is bf16.
// Returns 0, 1 (instruction set missing) or 2 (no memory).
BITNET_EXPORT int bitnet_run(int64_t isa, int64_t threads, const int64_t* sizes, const void* x,
               const uint8_t* codes, const float* scale, void* y) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return 1;
  p.input.batch = sizes[0], p.input.tokens = sizes[1], p.input.in = sizes[3];
  p.input.x = x, p.input.bf16 = sizes[6] != 0;
  p.parts = 1, p.group = sizes[4] == bitnet::kGroup ? sizes[5] : 0;
  p.part[0] = {sizes[2], codes, scale, sizes[4], nullptr, y, sizes[7] != 0};
  return RunOnPool(p, threads) ? 0 : 2;
}

// Threads of a call from now on, the caller's included; 0: one for each processor.
BITNET_EXPORT void bitnet_set_threads(int64_t count) { bitnet::Pool::Get().SetThreads(count); }

BITNET_EXPORT int64_t bitnet_threads() { return bitnet::Pool::Get().threads(); }

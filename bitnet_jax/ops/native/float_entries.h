// FFI entries of attention and the norm.
#pragma once

#include "attention.h"
#include "entry.h"

namespace {

using bitnet::Attention;

bool RunOnPool(const Attention& p, int64_t threads) {
  return bitnet::RunAttention(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

// Fills the sizes from q [B,M,H,D] and the keys [B,S,KV,row], and the caches; false if they disagree.
bool SetAttention(Shape q, ffi::AnyBuffer keys, ffi::AnyBuffer values, Shape positions,
                  Attention* p) {
  const Shape k = keys.dimensions();
  if (q.size() != 4 || k.size() != 4) return false;
  p->batch = q[0], p->tokens = q[1], p->heads = q[2], p->width = q[3];
  p->capacity = k[1], p->kv_heads = k[2];
  p->keys = keys.untyped_data(), p->values = values.untyped_data();
  p->narrow = keys.element_type() == ffi::S8;
  if (!p->narrow && keys.element_type() != ffi::F32) return false;
  const int64_t row = p->narrow ? p->width + bitnet::kScaleBytes : p->width;
  return k[0] == p->batch && k[3] == row && p->kv_heads > 0 && p->capacity > 0 &&
         values.element_type() == keys.element_type() &&
         values.element_count() == keys.element_count() && p->heads % p->kv_heads == 0 &&
         p->width % 16 == 0 && Is(positions, {p->batch, p->tokens});
}

constexpr const char* kAttentionShapes = "bitnet: shapes of queries, keys and positions disagree";

ffi::Error AttentionImpl(F32 q, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                         ffi::Buffer<ffi::S32> positions, ffi::ResultBuffer<ffi::F32> y, int64_t isa,
                         int64_t window) {
  Attention p = {};
  p.window = window;
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  // The caches are only read: without k and v nothing is written into them.
  if (!SetAttention(q.dimensions(), keys, values, positions.dimensions(), &p))
    return Fail(kAttentionShapes);
  p.q = q.typed_data(), p.positions = positions.typed_data(), p.y = y->typed_data();
  return Ended(RunOnPool(p, bitnet::Pool::Get().threads()));
}

// The results `new_keys` and `new_values` are the operands' own buffers: they are aliased.
ffi::Error CachedAttentionImpl(F32 q, F32 k, F32 v, F32 cos, F32 sin,
                               ffi::Buffer<ffi::S32> positions, ffi::AnyBuffer keys,
                               ffi::AnyBuffer values, ffi::ResultBuffer<ffi::F32> y,
                               ffi::Result<ffi::AnyBuffer> new_keys,
                               ffi::Result<ffi::AnyBuffer> new_values, int64_t isa,
                               int64_t window) {
  Attention p = {};
  p.window = window;
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetAttention(q.dimensions(), keys, values, positions.dimensions(), &p) ||
      !Is(k.dimensions(), {p.batch, p.tokens, p.kv_heads, p.width}) ||
      !Is(v.dimensions(), {p.batch, p.tokens, p.kv_heads, p.width}) ||
      !Is(cos.dimensions(), {p.batch, p.tokens, p.width / 2}) ||
      !Is(sin.dimensions(), {p.batch, p.tokens, p.width / 2}) || p.tokens > p.capacity)
    return Fail(kAttentionShapes);
  if (new_keys->untyped_data() != p.keys || new_values->untyped_data() != p.values)
    return Fail("bitnet: the caches must be written in place");
  p.q = q.typed_data(), p.k = k.typed_data(), p.v = v.typed_data();
  p.cos = cos.typed_data(), p.sin = sin.typed_data();
  p.positions = positions.typed_data(), p.y = y->typed_data();
  return Ended(RunOnPool(p, bitnet::Pool::Get().threads()));
}

ffi::Error NormImpl(F32 x, F32 weight, ffi::ResultBuffer<ffi::F32> y, int64_t isa, float eps) {
  const Kernel* kernel = Find(isa);
  if (kernel == nullptr) return Fail(kNoIsa);
  const Shape shape = x.dimensions();
  if (shape.size() == 0 || !Is(weight.dimensions(), {shape[shape.size() - 1]}))
    return Fail("bitnet: a norm's weight has one value for each input");
  const int64_t n = shape[shape.size() - 1], rows = n ? x.element_count() / n : 0;
  const bitnet::IeeeFloats floats;
  bitnet::Pool& pool = bitnet::Pool::Get();
  pool.Run(rows, rows * n < kWorthThreads / 16 ? 1 : pool.threads(), [&](int64_t row) {
    kernel->floats->norm(x.typed_data() + row * n, weight.typed_data(), eps, n,
                         y->typed_data() + row * n);
  });
  return ffi::Error::Success();
}

}  // namespace

BITNET_HANDLER(bitnet_attention, AttentionImpl,
               ffi::Ffi::Bind()
                   .Arg<F32>()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::Buffer<ffi::S32>>()
                   .Ret<F32>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("window"))

BITNET_HANDLER(bitnet_cached_attention, CachedAttentionImpl,
               ffi::Ffi::Bind()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<F32>()
                   .Arg<ffi::Buffer<ffi::S32>>()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::AnyBuffer>()
                   .Ret<F32>()
                   .Ret<ffi::AnyBuffer>()
                   .Ret<ffi::AnyBuffer>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("window"))

BITNET_HANDLER(bitnet_rms_norm, NormImpl,
               ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Ret<F32>().Attr<int64_t>("isa").Attr<float>(
                   "eps"))

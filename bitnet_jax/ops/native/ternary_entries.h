// FFI entries of the ternary products, alone and fused.
#pragma once

#include "entry.h"

namespace {

using bitnet::Part;
using bitnet::Product;

bool RunOnPool(const Product& p, int64_t threads) {
  return bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

bool RunOnPool(const Product& p) {
  int64_t out = 0;
  for (int64_t i = 0; i < p.parts; ++i) out += p.part[i].out;
  return RunOnPool(p, WorthThreads(p.input.batch * p.input.tokens * out * p.input.in));
}

// Fills the input's sizes from x [B,M,K], and how the codes lie.
bool SetInput(Shape x, int64_t layout, Product* p) {
  if (x.size() != 3 || layout < 0 || layout >= bitnet::kLayoutCount) return false;
  p->layout = layout;
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
                  bitnet::CeilDiv(input.in, bitnet::kLayouts[p->layout].cols), bitnet::kLineBytes}))
    return "bitnet: shapes of x, codes and y disagree";
  if (scale_kind == bitnet::kAccumulate) return nullptr;
  const char* wrong;
  const int64_t wanted = Scales(input.batch, part.out, input.in, scale_kind, group, &wrong, bitnet::kLayouts[p->layout].step);
  if (wrong != nullptr) return wrong;
  if (scale_kind == bitnet::kGroup) p->group = group;
  return scales == wanted ? nullptr : "bitnet: wrong number of scales";
}

ffi::Error MatmulImpl(ffi::AnyBuffer x, ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> scale,
                      ffi::Result<ffi::AnyBuffer> y, int64_t isa, int64_t layout,
                      int64_t scale_kind, int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetInput(x.dimensions(), layout, &p)) return Fail("bitnet: wrong ranks or layout");
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
                          ffi::ResultBuffer<ffi::S32> y, int64_t isa, int64_t layout) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  if (!SetInput(q.dimensions(), layout, &p)) return Fail("bitnet: wrong ranks or layout");
  if (const char* wrong = AddPart(codes.dimensions(), 0, y->dimensions(), bitnet::kAccumulate,
                                  0, &p))
    return Fail(wrong);
  p.input.x = q.typed_data();
  p.part[0].codes = codes.typed_data(), p.part[0].y = y->typed_data();
  return Ended(RunOnPool(p));
}

// Operands: x; up, if gated; the norm's weight, if normed; what is added, if so; then codes
// and scale of each weight. Results: a y for each weight.
ffi::Error LinearsImpl(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t isa,
                       int64_t gate, bool normed, float eps, bool added, int64_t layout,
                       int64_t scale_kind, int64_t group) {
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
  if (!SetInput(x->dimensions(), layout, &p)) return Fail("bitnet: wrong ranks or layout");
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

}  // namespace

BITNET_HANDLER(bitnet_ternary_matmul, MatmulImpl,
               ffi::Ffi::Bind()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::Buffer<ffi::U8>>()
                   .Arg<F32>()
                   .Ret<ffi::AnyBuffer>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("layout")
                   .Attr<int64_t>("scale_kind")
                   .Attr<int64_t>("group_size"))

BITNET_HANDLER(bitnet_ternary_accumulate, AccumulateImpl,
               ffi::Ffi::Bind()
                   .Arg<ffi::Buffer<ffi::S8>>()
                   .Arg<ffi::Buffer<ffi::U8>>()
                   .Ret<ffi::Buffer<ffi::S32>>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("layout"))

BITNET_HANDLER(bitnet_fused_linears, LinearsImpl,
               ffi::Ffi::Bind()
                   .RemainingArgs()
                   .RemainingRets()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("gate")
                   .Attr<bool>("normed")
                   .Attr<float>("eps")
                   .Attr<bool>("added")
                   .Attr<int64_t>("layout")
                   .Attr<int64_t>("scale_kind")
                   .Attr<int64_t>("group_size"))

// FFI entry of the products with weights that lie in rows.
#pragma once

#include "entry.h"
#include "rows_product.h"

namespace {

using bitnet::RowsProduct;

bool RunOnPool(const RowsProduct& p, int64_t threads) {
  return bitnet::RunRowsProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

ffi::Error RowsImpl(ffi::AnyBuffer x, ffi::AnyBuffer codes, F32 scale,
                    ffi::Result<ffi::AnyBuffer> y, int64_t isa, int64_t layout,
                    int64_t scale_kind, int64_t group) {
  RowsProduct p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail(kNoIsa);
  p.rows = bitnet::kRowsKernels[isa];
  if (layout < 0 || layout >= bitnet::kRowsLayouts) return Fail("bitnet: no such layout");
  const auto xs = x.dimensions(), cs = codes.dimensions(), ys = y->dimensions();
  if (xs.size() != 3 || cs.size() != 3 || ys.size() != 3) return Fail("bitnet: wrong ranks");
  p.layout = layout;
  p.batch = xs[0], p.tokens = xs[1], p.in = xs[2], p.out = ys[2];
  if (ys[0] != p.batch || ys[1] != p.tokens || cs[0] != p.batch || cs[1] != p.out ||
      cs[2] != bitnet::RowBytes(layout, p.in) || ffi::ByteWidth(codes.element_type()) != 1)
    return Fail("bitnet: shapes of x, codes and y disagree");
  const char* wrong;
  const int64_t scales = Scales(p.batch, p.out, p.in, scale_kind, group, &wrong);
  if (wrong != nullptr) return Fail(wrong);
  if (static_cast<int64_t>(scale.element_count()) != scales)
    return Fail("bitnet: wrong number of scales");
  p.scale_kind = scale_kind, p.group = group;
  if (!IsFloat(x.element_type()) || !IsFloat(y->element_type()))
    return Fail("bitnet: x and y must be float32 or bfloat16");
  p.x = x.untyped_data(), p.x_bf16 = x.element_type() == ffi::BF16;
  p.y = y->untyped_data(), p.y_bf16 = y->element_type() == ffi::BF16;
  p.codes = static_cast<const uint8_t*>(codes.untyped_data()), p.scale = scale.typed_data();
  return Ended(RunOnPool(p, WorthThreads(p.batch * p.tokens * p.out * p.in)));
}

}  // namespace

BITNET_HANDLER(bitnet_rows_matmul, RowsImpl,
               ffi::Ffi::Bind()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<ffi::AnyBuffer>()
                   .Arg<F32>()
                   .Ret<ffi::AnyBuffer>()
                   .Attr<int64_t>("isa")
                   .Attr<int64_t>("layout")
                   .Attr<int64_t>("scale_kind")
                   .Attr<int64_t>("group_size"))

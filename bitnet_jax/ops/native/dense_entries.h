// FFI entry of the products with float weights.
#pragma once

#include "dense_product.h"
#include "entry.h"

namespace {

using bitnet::DenseProduct;

void RunOnPool(const DenseProduct& p, int64_t threads) {
  bitnet::RunDenseProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

ffi::Error DenseImpl(F32 x, ffi::AnyBuffer w, ffi::ResultBuffer<ffi::F32> y,
                     int64_t isa) {
  DenseProduct p = {};
  if (Find(isa) == nullptr) return Fail(kNoIsa);
  p.kernel = bitnet::kDenseKernels[isa];
  const auto xs = x.dimensions(), ws = w.dimensions(), ys = y->dimensions();
  if (xs.size() != 2 || ws.size() != 2 || ys.size() != 2) return Fail("bitnet: wrong ranks");
  p.tokens = xs[0], p.in = xs[1], p.out = ws[0];
  if (ws[1] != p.in || ys[0] != p.tokens || ys[1] != p.out)
    return Fail("bitnet: shapes of x, w and y disagree");
  if (!IsFloat(w.element_type())) return Fail("bitnet: w must be float32 or bfloat16");
  p.x = x.typed_data(), p.w = w.untyped_data(), p.y = y->typed_data();
  p.w_bf16 = w.element_type() == ffi::BF16;
  RunOnPool(p, WorthThreads(p.tokens * p.out * p.in));
  return ffi::Error::Success();
}

}  // namespace

BITNET_HANDLER(bitnet_dense_matmul, DenseImpl,
               ffi::Ffi::Bind().Arg<F32>().Arg<ffi::AnyBuffer>().Ret<F32>().Attr<int64_t>("isa"))

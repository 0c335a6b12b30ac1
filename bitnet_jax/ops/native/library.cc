// The library's entries: XLA FFI handlers and plain C functions, for the self-test and for
// Python. Everything they do stands in product.h, on the threads of pool.h.

#include <cstdint>

#include "dense_product.h"
#include "pool.h"
#include "product.h"
#include "rows_product.h"
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

using bitnet::Kernel;
using bitnet::Product;

// Below this many products a second thread costs more than it brings.
constexpr int64_t kWorthThreads = 1 << 18;

bool RunOnPool(const Product& p, int64_t threads) {
  return bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

int64_t WorthThreads(int64_t products) {
  return products < kWorthThreads ? 1 : bitnet::Pool::Get().threads();
}

bool RunOnPool(const Product& p) {
  return RunOnPool(p, WorthThreads(p.batch * p.tokens * p.out * p.in));
}

ffi::Error Fail(const char* what) { return ffi::Error::InvalidArgument(what); }

ffi::Error Done(bool had_memory) {
  return had_memory ? ffi::Error::Success()
                    : ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
}

bool IsFloat(ffi::DataType type) { return type == ffi::F32 || type == ffi::BF16; }

// Fills how `count` scales belong to the weights; nullptr if they do.
template <typename P>
const char* SetScale(size_t count, int64_t kind, int64_t group, P* p) {
  p->scale_kind = kind, p->group = group;
  int64_t scales = p->batch;
  if (kind == bitnet::kRow) scales *= p->out;
  if (kind == bitnet::kGroup) {
    if (group <= 0 || group % bitnet::kCols || p->in % group)
      return "bitnet: a group must be a multiple of 16 that divides the inputs";
    scales *= p->out * (p->in / group);
  }
  const bool fits = kind >= 0 && kind <= bitnet::kGroup && static_cast<int64_t>(count) == scales;
  return fits ? nullptr : "bitnet: wrong number of scales";
}

const Kernel* Find(int64_t isa) {
  if (isa < 0 || isa >= bitnet::kKernelCount) return nullptr;
  return bitnet::kKernels[isa]->usable() ? bitnet::kKernels[isa] : nullptr;
}

// Fills the sizes from x [B,M,K], codes [B,OB,IB,64], y [B,M,N]; nullptr if they agree.
const char* SetShapes(ffi::Span<const int64_t> x, ffi::Span<const int64_t> codes,
                      ffi::Span<const int64_t> y, Product* p) {
  if (x.size() != 3 || codes.size() != 4 || y.size() != 3) return "bitnet: wrong ranks";
  p->batch = x[0], p->tokens = x[1], p->in = x[2], p->out = y[2];
  const bool fits = y[0] == p->batch && y[1] == p->tokens && codes[0] == p->batch &&
                    codes[1] == bitnet::CeilDiv(p->out, bitnet::kRows) &&
                    codes[2] == bitnet::CeilDiv(p->in, bitnet::kCols) &&
                    codes[3] == bitnet::kLineBytes;
  return fits ? nullptr : "bitnet: shapes of x, codes and y disagree";
}

ffi::Error MatmulImpl(ffi::AnyBuffer x, ffi::Buffer<ffi::U8> codes,
                      ffi::Buffer<ffi::F32> scale, ffi::Result<ffi::AnyBuffer> y,
                      int64_t isa, int64_t scale_kind, int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(x.dimensions(), codes.dimensions(), y->dimensions(), &p))
    return Fail(wrong);
  if (const char* wrong = SetScale(scale.element_count(), scale_kind, group, &p))
    return Fail(wrong);
  if (!IsFloat(x.element_type()) || !IsFloat(y->element_type()))
    return Fail("bitnet: x and y must be float32 or bfloat16");
  p.x = x.untyped_data(), p.x_bf16 = x.element_type() == ffi::BF16;
  p.y = y->untyped_data(), p.y_bf16 = y->element_type() == ffi::BF16;
  p.codes = codes.typed_data(), p.scale = scale.typed_data();
  return Done(RunOnPool(p));
}

ffi::Error AccumulateImpl(ffi::Buffer<ffi::S8> q,
                          ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::S32> y,
                          int64_t isa) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(q.dimensions(), codes.dimensions(), y->dimensions(), &p))
    return Fail(wrong);
  p.scale_kind = bitnet::kAccumulate;
  p.x = q.typed_data(), p.codes = codes.typed_data(), p.y = y->typed_data();
  return Done(RunOnPool(p));
}

using bitnet::RowsProduct;

bool RunOnPool(const RowsProduct& p, int64_t threads) {
  return bitnet::RunRowsProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

ffi::Error RowsImpl(ffi::AnyBuffer x, ffi::AnyBuffer codes, ffi::Buffer<ffi::F32> scale,
                    ffi::Result<ffi::AnyBuffer> y, int64_t isa, int64_t layout,
                    int64_t scale_kind, int64_t group) {
  RowsProduct p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  p.rows = bitnet::kRowsKernels[isa];
  if (layout < 0 || layout >= bitnet::kRowsLayouts) return Fail("bitnet: no such layout");
  const auto xs = x.dimensions(), cs = codes.dimensions(), ys = y->dimensions();
  if (xs.size() != 3 || cs.size() != 3 || ys.size() != 3) return Fail("bitnet: wrong ranks");
  p.layout = layout;
  p.batch = xs[0], p.tokens = xs[1], p.in = xs[2], p.out = ys[2];
  if (ys[0] != p.batch || ys[1] != p.tokens || cs[0] != p.batch || cs[1] != p.out ||
      cs[2] != bitnet::RowBytes(layout, p.in) || ffi::ByteWidth(codes.element_type()) != 1)
    return Fail("bitnet: shapes of x, codes and y disagree");
  if (const char* wrong = SetScale(scale.element_count(), scale_kind, group, &p))
    return Fail(wrong);
  if (!IsFloat(x.element_type()) || !IsFloat(y->element_type()))
    return Fail("bitnet: x and y must be float32 or bfloat16");
  p.x = x.untyped_data(), p.x_bf16 = x.element_type() == ffi::BF16;
  p.y = y->untyped_data(), p.y_bf16 = y->element_type() == ffi::BF16;
  p.codes = static_cast<const uint8_t*>(codes.untyped_data()), p.scale = scale.typed_data();
  return Done(RunOnPool(p, WorthThreads(p.batch * p.tokens * p.out * p.in)));
}

using bitnet::DenseProduct;

void RunOnPool(const DenseProduct& p, int64_t threads) {
  bitnet::RunDenseProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

ffi::Error DenseImpl(ffi::Buffer<ffi::F32> x, ffi::AnyBuffer w, ffi::ResultBuffer<ffi::F32> y,
                     int64_t isa) {
  DenseProduct p = {};
  if (Find(isa) == nullptr) return Fail("bitnet: this processor lacks the instruction set");
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

// XLA's own macro for such a symbol has no room for the export.
BITNET_EXPORT XLA_FFI_Error* bitnet_ternary_matmul(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DEFINE_HANDLER(handler, MatmulImpl,
                         ffi::Ffi::Bind()
                             .Arg<ffi::AnyBuffer>()
                             .Arg<ffi::Buffer<ffi::U8>>()
                             .Arg<ffi::Buffer<ffi::F32>>()
                             .Ret<ffi::AnyBuffer>()
                             .Attr<int64_t>("isa")
                             .Attr<int64_t>("scale_kind")
                             .Attr<int64_t>("group_size"));
  return (*handler)(frame);
}

BITNET_EXPORT XLA_FFI_Error* bitnet_ternary_accumulate(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DEFINE_HANDLER(handler, AccumulateImpl,
                         ffi::Ffi::Bind()
                             .Arg<ffi::Buffer<ffi::S8>>()
                             .Arg<ffi::Buffer<ffi::U8>>()
                             .Ret<ffi::Buffer<ffi::S32>>()
                             .Attr<int64_t>("isa"));
  return (*handler)(frame);
}

BITNET_EXPORT XLA_FFI_Error* bitnet_rows_matmul(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DEFINE_HANDLER(handler, RowsImpl,
                         ffi::Ffi::Bind()
                             .Arg<ffi::AnyBuffer>()
                             .Arg<ffi::AnyBuffer>()
                             .Arg<ffi::Buffer<ffi::F32>>()
                             .Ret<ffi::AnyBuffer>()
                             .Attr<int64_t>("isa")
                             .Attr<int64_t>("layout")
                             .Attr<int64_t>("scale_kind")
                             .Attr<int64_t>("group_size"));
  return (*handler)(frame);
}

BITNET_EXPORT XLA_FFI_Error* bitnet_dense_matmul(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DEFINE_HANDLER(handler, DenseImpl,
                         ffi::Ffi::Bind()
                             .Arg<ffi::Buffer<ffi::F32>>()
                             .Arg<ffi::AnyBuffer>()
                             .Ret<ffi::Buffer<ffi::F32>>()
                             .Attr<int64_t>("isa"));
  return (*handler)(frame);
}

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
  p.batch = sizes[0], p.tokens = sizes[1], p.out = sizes[2], p.in = sizes[3];
  p.scale_kind = sizes[4], p.group = sizes[5];
  p.x_bf16 = sizes[6] != 0, p.y_bf16 = sizes[7] != 0;
  p.x = x, p.codes = codes, p.scale = scale, p.y = y;
  return RunOnPool(p, threads) ? 0 : 2;
}

// As `bitnet_run`, of weights in rows. sizes: batch, tokens, out, in, scale_kind, group, x is
// bf16, y is bf16, layout.
BITNET_EXPORT int bitnet_rows_run(int64_t isa, int64_t threads, const int64_t* sizes,
                                  const void* x, const uint8_t* codes, const float* scale,
                                  void* y) {
  RowsProduct p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return 1;
  p.rows = bitnet::kRowsKernels[isa];
  p.batch = sizes[0], p.tokens = sizes[1], p.out = sizes[2], p.in = sizes[3];
  p.scale_kind = sizes[4], p.group = sizes[5];
  p.x_bf16 = sizes[6] != 0, p.y_bf16 = sizes[7] != 0, p.layout = sizes[8];
  p.x = x, p.codes = codes, p.scale = scale, p.y = y;
  return RunOnPool(p, threads) ? 0 : 2;
}

// As `bitnet_run`, of float weights (`codes`) and without scales. sizes: tokens, out, in, w is
// bf16.
BITNET_EXPORT int bitnet_dense_run(int64_t isa, int64_t threads, const int64_t* sizes,
                                   const void* x, const void* codes, const void*, void* y) {
  DenseProduct p = {};
  if (Find(isa) == nullptr) return 1;
  p.kernel = bitnet::kDenseKernels[isa];
  p.tokens = sizes[0], p.out = sizes[1], p.in = sizes[2], p.w_bf16 = sizes[3] != 0;
  p.x = static_cast<const float*>(x), p.w = codes, p.y = static_cast<float*>(y);
  RunOnPool(p, threads);
  return 0;
}

// Threads of a call from now on, the caller's included; 0: one for each processor.
BITNET_EXPORT void bitnet_set_threads(int64_t count) { bitnet::Pool::Get().SetThreads(count); }

BITNET_EXPORT int64_t bitnet_threads() { return bitnet::Pool::Get().threads(); }

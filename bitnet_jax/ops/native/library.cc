// The library's entries: XLA FFI handlers and plain C functions, for the self-test and for
// Python. Everything they do stands in product.h, on the threads of pool.h.

#include <cstdint>

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

using bitnet::Kernel;
using bitnet::Product;

// Below this many products a second thread costs more than it brings.
constexpr int64_t kWorthThreads = 1 << 18;

bool RunOnPool(const Product& p, int64_t threads) {
  return bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    bitnet::Pool::Get().Run(count, threads, fn);
  });
}

bool RunOnPool(const Product& p) {
  const bool small = p.batch * p.tokens * p.out * p.in < kWorthThreads;
  return RunOnPool(p, small ? 1 : bitnet::Pool::Get().threads());
}

ffi::Error Fail(const char* what) { return ffi::Error::InvalidArgument(what); }

// Asked once: cpuid leaves a virtual machine for its host, and a kernel asks several times,
// which took 25 microseconds of every call.
struct Usable {
  bool kernel[bitnet::kKernelCount];
  Usable() {
    for (int64_t i = 0; i < bitnet::kKernelCount; ++i) kernel[i] = bitnet::kKernels[i]->usable();
  }
};

const Kernel* Find(int64_t isa) {
  static const Usable usable;
  if (isa < 0 || isa >= bitnet::kKernelCount) return nullptr;
  return usable.kernel[isa] ? bitnet::kKernels[isa] : nullptr;
}

// Fills the sizes from x [B,M,K], codes [B,OB,IB,64], y [B,M,N]; nullptr if they agree.
const char* SetShapes(ffi::Span<const int64_t> x, ffi::Span<const int64_t> codes,
                      ffi::Span<const int64_t> y, int64_t layout, Product* p) {
  if (layout < 0 || layout >= bitnet::kLayoutCount) return "bitnet: unknown layout";
  p->layout = layout;
  if (x.size() != 3 || codes.size() != 4 || y.size() != 3) return "bitnet: wrong ranks";
  p->batch = x[0], p->tokens = x[1], p->in = x[2], p->out = y[2];
  const bool fits = y[0] == p->batch && y[1] == p->tokens && codes[0] == p->batch &&
                    codes[1] == bitnet::CeilDiv(p->out, bitnet::kRows) &&
                    codes[2] == bitnet::CeilDiv(p->in, bitnet::kLayouts[layout].cols) &&
                    codes[3] == bitnet::kLineBytes;
  return fits ? nullptr : "bitnet: shapes of x, codes and y disagree";
}

ffi::Error MatmulImpl(ffi::AnyBuffer x, ffi::Buffer<ffi::U8> codes,
                      ffi::Buffer<ffi::F32> scale, ffi::Result<ffi::AnyBuffer> y,
                      int64_t isa, int64_t layout, int64_t scale_kind, int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(x.dimensions(), codes.dimensions(), y->dimensions(), layout, &p))
    return Fail(wrong);
  p.scale_kind = scale_kind, p.group = group;
  int64_t scales = p.batch;
  if (scale_kind == bitnet::kRow) scales *= p.out;
  if (scale_kind == bitnet::kGroup) {
    if (group <= 0 || group % bitnet::kLayouts[layout].step || p.in % group)
      return Fail("bitnet: a group must be a multiple of 16 (t1.16x20: of 80) that divides the inputs");
    scales *= p.out * (p.in / group);
  }
  if (scale_kind < 0 || scale_kind > bitnet::kGroup ||
      static_cast<int64_t>(scale.element_count()) != scales)
    return Fail("bitnet: wrong number of scales");
  const auto is_float = [](ffi::DataType t) { return t == ffi::F32 || t == ffi::BF16; };
  if (!is_float(x.element_type()) || !is_float(y->element_type()))
    return Fail("bitnet: x and y must be float32 or bfloat16");
  p.x = x.untyped_data(), p.x_bf16 = x.element_type() == ffi::BF16;
  p.y = y->untyped_data(), p.y_bf16 = y->element_type() == ffi::BF16;
  p.codes = codes.typed_data(), p.scale = scale.typed_data();
  if (!RunOnPool(p)) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
  return ffi::Error::Success();
}

ffi::Error AccumulateImpl(ffi::Buffer<ffi::S8> q,
                          ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::S32> y,
                          int64_t isa, int64_t layout) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(q.dimensions(), codes.dimensions(), y->dimensions(), layout, &p))
    return Fail(wrong);
  p.scale_kind = bitnet::kAccumulate;
  p.x = q.typed_data(), p.codes = codes.typed_data(), p.y = y->typed_data();
  if (!RunOnPool(p)) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
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
                             .Attr<int64_t>("layout")
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
                             .Attr<int64_t>("isa")
                             .Attr<int64_t>("layout"));
  return (*handler)(frame);
}

BITNET_EXPORT const char* bitnet_source_key() { return BITNET_SOURCE_KEY; }

BITNET_EXPORT int64_t bitnet_isa_count() { return bitnet::kKernelCount; }

BITNET_EXPORT const char* bitnet_isa_name(int64_t isa) {
  return isa >= 0 && isa < bitnet::kKernelCount ? bitnet::kKernels[isa]->name : nullptr;
}

BITNET_EXPORT int bitnet_isa_usable(int64_t isa) { return Find(isa) != nullptr; }

// As the FFI entries, on `threads` threads. sizes: batch, tokens, out, in,
// scale_kind (3: accumulate int8 codes into int32), group, x is bf16, y is bf16, layout.
// Returns 0, 1 (instruction set missing) or 2 (no memory).
BITNET_EXPORT int bitnet_run(int64_t isa, int64_t threads, const int64_t* sizes, const void* x,
               const uint8_t* codes, const float* scale, void* y) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return 1;
  p.batch = sizes[0], p.tokens = sizes[1], p.out = sizes[2], p.in = sizes[3];
  p.scale_kind = sizes[4], p.group = sizes[5];
  p.x_bf16 = sizes[6] != 0, p.y_bf16 = sizes[7] != 0, p.layout = sizes[8];
  p.x = x, p.codes = codes, p.scale = scale, p.y = y;
  return RunOnPool(p, threads) ? 0 : 2;
}

// Turns `blocks` row blocks of `in` columns from t2.16x16 to t1.16x20, or back. Returns 0, or 1
// where a code is no trit.
BITNET_EXPORT int bitnet_repack(int64_t to_dense, int64_t blocks, int64_t in,
                                const uint8_t* from, uint8_t* to) {
  const int64_t threads = bitnet::Pool::Get().threads();
  const bool legal = bitnet::Repack(
      to_dense != 0, blocks, in, from, to,
      [&](int64_t count, const auto& fn) { bitnet::Pool::Get().Run(count, threads, fn); });
  return legal ? 0 : 1;
}

// Threads of a call from now on, the caller's included; 0: one for each processor.
BITNET_EXPORT void bitnet_set_threads(int64_t count) { bitnet::Pool::Get().SetThreads(count); }

BITNET_EXPORT int64_t bitnet_threads() { return bitnet::Pool::Get().threads(); }

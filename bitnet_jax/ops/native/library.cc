// The library's entries: XLA FFI handlers (run on XLA's own thread pool) and plain C
// functions for the self-test. Everything they do stands in product.h.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

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

#include "probe_entry.h"  // needs BITNET_EXPORT

#ifndef BITNET_SOURCE_KEY
#define BITNET_SOURCE_KEY "unknown"
#endif

namespace {

using bitnet::Kernel;
using bitnet::Product;

static inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Units are claimed from one counter by the caller and by whichever pool threads
// come. The caller works too and waits only for units that a running thread has
// claimed, so a pool whose threads are all busy (or in here) cannot deadlock. A task
// that comes late finds no unit left and touches nothing but this block, which it
// keeps alive.
struct Claims {
  explicit Claims(int64_t total) : total(total) {}
  const int64_t total;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int64_t> done{0};
};

template <typename Fn>
void Work(Claims& claims, const Fn* fn) {
  for (;;) {
    const int64_t i = claims.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= claims.total) return;
    (*fn)(i);
    claims.done.fetch_add(1, std::memory_order_release);
  }
}

template <typename Fn, typename Schedule>
void ParallelFor(int64_t count, int64_t threads, const Fn& fn, Schedule schedule) {
  const int64_t helpers = bitnet::Min(threads, count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) fn(i);
    return;
  }
  auto claims = std::make_shared<Claims>(count);
  const Fn* shared = &fn;
  for (int64_t i = 0; i < helpers; ++i) schedule([claims, shared] { Work(*claims, shared); });
  Work(*claims, shared);
  for (int spins = 0; claims->done.load(std::memory_order_acquire) < count; ++spins) {
    if (spins < 4096) {
      Pause();
    } else {
      std::this_thread::yield();  // the helper may have lost its processor
    }
  }
}

bool RunOnPool(const Product& p, ffi::ThreadPool& pool) {
  // Below this many products a second thread costs more than it brings.
  const bool small = p.batch * p.tokens * p.out * p.in < (1 << 18);
  const int64_t threads = small ? 1 : bitnet::Max(pool.num_threads(), 1);
  return bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    ParallelFor(count, threads, fn, [&](auto task) { pool.Schedule(std::move(task)); });
  });
}

bool RunOnThreads(const Product& p, int64_t threads) {
  std::vector<std::thread> started;
  const bool ok = bitnet::RunProduct(p, threads, [&](int64_t count, const auto& fn) {
    ParallelFor(count, threads, fn, [&](auto task) { started.emplace_back(task); });
  });
  for (auto& thread : started) thread.join();
  return ok;
}

ffi::Error Fail(const char* what) { return ffi::Error::InvalidArgument(what); }

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

ffi::Error MatmulImpl(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::Buffer<ffi::U8> codes,
                      ffi::Buffer<ffi::F32> scale, ffi::Result<ffi::AnyBuffer> y,
                      int64_t isa, int64_t scale_kind, int64_t group) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(x.dimensions(), codes.dimensions(), y->dimensions(), &p))
    return Fail(wrong);
  p.scale_kind = scale_kind, p.group = group;
  int64_t scales = p.batch;
  if (scale_kind == bitnet::kRow) scales *= p.out;
  if (scale_kind == bitnet::kGroup) {
    if (group <= 0 || group % bitnet::kCols || p.in % group)
      return Fail("bitnet: a group must be a multiple of 16 that divides the inputs");
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
  if (!RunOnPool(p, pool)) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
  return ffi::Error::Success();
}

ffi::Error AccumulateImpl(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> q,
                          ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::S32> y,
                          int64_t isa) {
  Product p = {};
  p.kernel = Find(isa);
  if (p.kernel == nullptr) return Fail("bitnet: this processor lacks the instruction set");
  if (const char* wrong = SetShapes(q.dimensions(), codes.dimensions(), y->dimensions(), &p))
    return Fail(wrong);
  p.scale_kind = bitnet::kAccumulate;
  p.x = q.typed_data(), p.codes = codes.typed_data(), p.y = y->typed_data();
  if (!RunOnPool(p, pool)) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
  return ffi::Error::Success();
}

}  // namespace

// XLA's own macro for such a symbol has no room for the export.
BITNET_EXPORT XLA_FFI_Error* bitnet_ternary_matmul(XLA_FFI_CallFrame* frame) {
  XLA_FFI_DEFINE_HANDLER(handler, MatmulImpl,
                         ffi::Ffi::Bind()
                             .Ctx<ffi::ThreadPool>()
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
                             .Ctx<ffi::ThreadPool>()
                             .Arg<ffi::Buffer<ffi::S8>>()
                             .Arg<ffi::Buffer<ffi::U8>>()
                             .Ret<ffi::Buffer<ffi::S32>>()
                             .Attr<int64_t>("isa"));
  return (*handler)(frame);
}

BITNET_EXPORT const char* bitnet_source_key() { return BITNET_SOURCE_KEY; }

BITNET_EXPORT int64_t bitnet_isa_count() { return bitnet::kKernelCount; }

BITNET_EXPORT const char* bitnet_isa_name(int64_t isa) {
  return isa >= 0 && isa < bitnet::kKernelCount ? bitnet::kKernels[isa]->name : nullptr;
}

BITNET_EXPORT int bitnet_isa_usable(int64_t isa) { return Find(isa) != nullptr; }

// As the FFI entries, on `threads` threads of its own. sizes: batch, tokens, out, in,
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
  return RunOnThreads(p, threads) ? 0 : 2;
}

// What the FFI entries share: how they are declared, how they fail, which kernels there are.
#pragma once

#include <cstdint>
#include <initializer_list>

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

// XLA's own macro for such a symbol has no room for the export.
#define BITNET_HANDLER(name, impl, binding)                     \
  BITNET_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) { \
    XLA_FFI_DEFINE_HANDLER(handler, impl, binding);             \
    return (*handler)(frame);                                   \
  }

namespace {

using bitnet::Kernel;

// Below this many products a second thread costs more than it brings.
constexpr int64_t kWorthThreads = 1 << 18;

int64_t WorthThreads(int64_t products) {
  return products < kWorthThreads ? 1 : bitnet::Pool::Get().threads();
}

ffi::Error Fail(const char* what) { return ffi::Error::InvalidArgument(what); }

ffi::Error Ended(bool enough_memory) {
  if (enough_memory) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "bitnet: no memory");
}

constexpr const char* kNoIsa = "bitnet: this processor lacks the instruction set";

const Kernel* Find(int64_t isa) {
  if (isa < 0 || isa >= bitnet::kKernelCount) return nullptr;
  return bitnet::kKernels[isa]->usable() ? bitnet::kKernels[isa] : nullptr;
}

using Shape = ffi::Span<const int64_t>;

bool Is(Shape shape, std::initializer_list<int64_t> sizes) {
  if (shape.size() != sizes.size()) return false;
  size_t i = 0;
  for (const int64_t size : sizes)
    if (shape[i++] != size) return false;
  return true;
}

bool IsFloat(ffi::DataType t) { return t == ffi::F32 || t == ffi::BF16; }

using F32 = ffi::Buffer<ffi::F32>;

// How many scales a weight [batch, out, in] has; nullptr in `wrong` if it may have them.
// A group is a multiple of `step` columns.
int64_t Scales(int64_t batch, int64_t out, int64_t in, int64_t kind, int64_t group,
               const char** wrong, int64_t step = bitnet::kCols) {
  *wrong = nullptr;
  switch (kind) {
    case bitnet::kTensor: return batch;
    case bitnet::kRow: return batch * out;
    case bitnet::kGroup:
      if (group > 0 && group % step == 0 && in % group == 0)
        return batch * out * (in / group);
      *wrong = "bitnet: a group must be a multiple of the layout's columns that divides the inputs";
      return 0;
    default: *wrong = "bitnet: unknown kind of scale"; return 0;
  }
}

}  // namespace

// From a tensor's dtype to an element type, and from the instruction set in use to a kernel table.
#pragma once

#include "common/checks.h"
#include "common/cpu_features.h"
#include "common/element.h"

namespace fastgan {

// Calls body.template operator()<T>() is C++20; a tag value does the same: body(T{}).
template <class Body>
auto dispatch_dtype(const char* op, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Double: return body(double{});
    case ScalarType::Float: return body(float{});
    case ScalarType::BFloat16: return body(BFloat16{});
    case ScalarType::Half: return body(Half{});
    default: fail(op, "argument 'input' has ", dtype_name(dtype), "; float64, float32, float16 and bfloat16 are supported.");
  }
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// A contiguous copy of a small tensor (a per-channel parameter) as A, or `fallback` n times where there is none.
template <class A>
std::vector<A> values(const OptionalTensor& tensor, int64_t n, A fallback) {
  if (!tensor) return std::vector<A>(n, fallback);
  const auto dtype = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor converted = as_contiguous(to_dtype(*tensor, dtype));
  const A* from = data<A>(converted);
  return {from, from + n};
}

// Picks the table that *_kernels.cpp exports for the instruction set in use: name_<isa>.
#if FASTGAN_X86
#define FASTGAN_DECLARE_KERNELS(Table, name) \
  extern const Table name##_scalar, name##_avx2, name##_avx512, name##_avx512_bf16;
#define FASTGAN_KERNELS_IN_USE(name)                                                        \
  (cpu_isa() >= Isa::avx512  ? (cpu_features().avx512_bf16 ? name##_avx512_bf16 : name##_avx512) \
       : cpu_isa() == Isa::avx2 ? name##_avx2                                               \
                                : name##_scalar)
#else
#define FASTGAN_DECLARE_KERNELS(Table, name) extern const Table name##_scalar;
#define FASTGAN_KERNELS_IN_USE(name) name##_scalar
#endif

// The name of the kernel set in use, for the counters.
inline const char* kernel_isa_name() {
#if FASTGAN_X86
  if (cpu_isa() >= Isa::avx512 && cpu_features().avx512_bf16) return "avx512_bf16";
  return cpu_isa() >= Isa::avx512 ? "avx512" : cpu_isa() == Isa::avx2 ? "avx2" : "scalar";
#else
  return "scalar";
#endif
}

}  // namespace fastgan

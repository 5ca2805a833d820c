// What every CUDA kernel file needs: element types, vector access, reductions, and the launch sequence (device guard,
// current stream, launch, check).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "common/checks.h"

namespace fastgan {

__device__ inline float tanh_of(float x) { return tanhf(x); }
__device__ inline double tanh_of(double x) { return tanh(x); }
// From exp of a negative number only, so that nothing overflows.
__device__ inline float sigmoid_of(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}
__device__ inline double sigmoid_of(double x) {
  const double e = exp(-fabs(x));
  return (x < 0 ? e : 1.0) / (1.0 + e);
}

}  // namespace fastgan

#include "common/activate.h"

namespace fastgan::cuda {

// ---- elements ---------------------------------------------------------------------------------------------------------

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

__device__ inline float to_compute(float value) { return value; }
__device__ inline double to_compute(double value) { return value; }
__device__ inline float to_compute(__half value) { return __half2float(value); }
__device__ inline float to_compute(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ inline T from_compute(Compute<T> value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// `width` neighbouring elements, read and written in one access.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T values[width];
};

template <class T>
inline constexpr int kPackWidth = 16 / sizeof(T);

template <class Body>
auto dispatch_dtype(const char* op, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Double: return body(double{});
    case ScalarType::Float: return body(float{});
    case ScalarType::BFloat16: return body(__nv_bfloat16{});
    case ScalarType::Half: return body(__half{});
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

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// ---- launching ----------------------------------------------------------------------------------------------------------

// Makes the tensor's device current while it lives, and knows that device's current stream.
class Launch {
 public:
  explicit Launch(const Tensor& on) : guard_(on.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline constexpr int kThreads = 256;
inline constexpr int64_t kMostBlocks = 8192;  // a grid-stride loop takes the rest

inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + per_block - 1) / per_block, 1, kMostBlocks));
}

// ---- sums over a block ----------------------------------------------------------------------------------------------------

// Both sums over the threads of a one-dimensional block of kThreads, in thread 0; always added in the same order.
template <class A>
__device__ inline void sum_over_block(A& first, A& second) {
  __shared__ A firsts[kThreads], seconds[kThreads];
  firsts[threadIdx.x] = first;
  seconds[threadIdx.x] = second;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      firsts[threadIdx.x] += firsts[threadIdx.x + half];
      seconds[threadIdx.x] += seconds[threadIdx.x + half];
    }
  }
  __syncthreads();
  first = firsts[0];
  second = seconds[0];
  __syncthreads();  // the arrays are used again by the next call
}

}  // namespace fastgan::cuda

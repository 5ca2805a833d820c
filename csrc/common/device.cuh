// What every kernel needs: element types, functions, vector access, reductions.
// Compiled by nvcc, and for tests by g++ with an emulation of the device in front of it (tests/cuda/emulator.h).
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "common/element.h"
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

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

// Where the activation is known only when the kernel runs.
template <class A>
__device__ inline A activate(Activation kind, A z, A slope) {
  switch (kind) {
    case Activation::relu: return fastgan::activate<Activation::relu>(z, slope);
    case Activation::leaky_relu: return fastgan::activate<Activation::leaky_relu>(z, slope);
    case Activation::tanh: return fastgan::activate<Activation::tanh>(z, slope);
    case Activation::sigmoid: return fastgan::activate<Activation::sigmoid>(z, slope);
    default: return z;
  }
}

template <class A>
__device__ inline A activate_grad(Activation kind, A grad, A z, A slope) {
  switch (kind) {
    case Activation::relu: return fastgan::activate_grad<Activation::relu>(grad, z, slope);
    case Activation::leaky_relu: return fastgan::activate_grad<Activation::leaky_relu>(grad, z, slope);
    case Activation::tanh: return fastgan::activate_grad<Activation::tanh>(grad, z, slope);
    case Activation::sigmoid: return fastgan::activate_grad<Activation::sigmoid>(grad, z, slope);
    default: return grad;
  }
}

// ---- elements ---------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
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

#endif

// `width` neighbouring elements, read and written in one access.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T values[width];
};

template <class T>
inline constexpr int kPackWidth = 16 / sizeof(T);

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

inline constexpr int kThreads = 256;
inline constexpr int64_t kMostBlocks = 8192;  // a grid-stride loop takes the rest

inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + per_block - 1) / per_block, 1, kMostBlocks));
}

// ---- kernels that follow each other ---------------------------------------------------------------------------------------

// The first statement of every kernel: from here on the next one on the stream may be brought to the multiprocessors that are free, and
// this one waits until the one before it has ended and written all. Launched without FASTGAN_OVERLAP=1 nothing is brought early, and
// nothing is waited for. PTX ISA, griddepcontrol.
constexpr int kFirstToFollow = 90;
__device__ inline void follow() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- shared memory ------------------------------------------------------------------------------------------------------

#if defined(FASTGAN_EMULATED_DEVICE)

using emulator::dynamic_shared;
using emulator::kSharedAlignment;
using emulator::shared_address;

#else

__device__ inline unsigned shared_address(const void* shared) { return static_cast<unsigned>(__cvta_generic_to_shared(shared)); }

// What a launch asked for (common/cuda.cuh), from a multiple of 1024 bytes on.
constexpr unsigned kSharedAlignment = 1024;
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ unsigned char fastgan_shared[];
  return fastgan_shared + (kSharedAlignment - shared_address(fastgan_shared) % kSharedAlignment) % kSharedAlignment;
}

#endif

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

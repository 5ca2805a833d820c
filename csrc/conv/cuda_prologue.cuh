// What the block before left to be done, normalise + activate (csrc/batch_norm_act/batch_norm_act.h has the formula), applied
// to an operand of a convolution once it lies in shared memory: the activation is never written.
//
// It is rounded as the written activation would be. What is not there, the padding among it, stays 0: the padding is of the
// activation.
#pragma once

#include "conv/cuda_index.cuh"

namespace fastgan::conv {
namespace {

// The parameters as the kernels read them: mean, scale and shift, each [groups, padded channels] of the compute type.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_prologue(const Compute<T>* mean, const Compute<T>* invstd,
                                                          const Compute<T>* weight, const Compute<T>* bias, int channels,
                                                          int64_t total, Compute<T>* to) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < total; i += stride) {
    const int channel = static_cast<int>(i % padded<T>(channels));
    const int64_t from = i / padded<T>(channels) * channels + channel;
    const bool inside = channel < channels;
    to[i] = inside ? mean[from] : 0;
    to[total + i] = inside ? (weight ? weight[channel] * invstd[from] : invstd[from]) : 0;
    to[2 * total + i] = inside && bias ? bias[channel] : 0;
  }
}

template <class T>
class PrologueOfChunk {
 public:
  using A = Compute<T>;

  // index: of the chunk's group and first channel in the table.
  __device__ void read(const Prologue<T>& prologue, int index) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const auto* const from = reinterpret_cast<const Pack<A, kWidth>*>(prologue.table + index) + i;
      mean_[i] = from[0];
      scale_[i] = from[prologue.total / kWidth];
      shift_[i] = from[2 * prologue.total / kWidth];
    }
  }

  // The first `count` elements of a chunk.
  template <Activation kind>
  __device__ void apply(T* chunk, int count, A negative_slope) const {
    auto pack = *reinterpret_cast<const Pack<T, kPackWidth<T>>*>(chunk);
#pragma unroll
    for (int lane = 0; lane < kPackWidth<T>; ++lane) {
      const int i = lane / kWidth, of = lane % kWidth;
      const A z = (to_compute(pack.values[lane]) - mean_[i].values[of]) * scale_[i].values[of] + shift_[i].values[of];
      if (lane < count) pack.values[lane] = from_compute<T>(activate<kind>(z, negative_slope));
    }
    *reinterpret_cast<Pack<T, kPackWidth<T>>*>(chunk) = pack;
  }

 private:
  static constexpr int kWidth = kPackWidth<A>, kPacks = kPackWidth<T> / kWidth;
  Pack<A, kWidth> mean_[kPacks], scale_[kPacks], shift_[kPacks];
};

}  // namespace
}  // namespace fastgan::conv

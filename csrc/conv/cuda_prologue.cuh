// What the block before left to be done, normalise + activate (csrc/batch_norm_act/batch_norm_act.h has the formula), applied
// to an operand of a convolution once it lies in shared memory: the activation is never written.
//
// It is rounded as the written activation would be. What is not there, the padding around an image among it, stays 0: the padding is
// of the activation. The channels that a chunk is padded with become activations of 0; they meet zeros of the weight, or sums that are
// not stored.
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

// For kWidth neighbouring channels, which are a chunk or, in 16 bits, half of one: as many as 16 bytes of the compute type.
template <class T>
class PrologueOfChannels {
 public:
  using A = Compute<T>;
  static constexpr int kWidth = kPackWidth<A>;

  // index: of the first channel, of the group's, in the table.
  __device__ PrologueOfChannels(const Prologue<T>& prologue, int index) {
    const auto* const from = reinterpret_cast<const Pack<A, kWidth>*>(prologue.table + index);
    mean_ = from[0];
    scale_ = from[prologue.total / kWidth];
    shift_ = from[2 * prologue.total / kWidth];
  }

  template <Activation kind>
  __device__ void apply(T* values, A negative_slope) const {
    auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(values);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const A z = (to_compute(pack.values[i]) - mean_.values[i]) * scale_.values[i] + shift_.values[i];
      pack.values[i] = from_compute<T>(activate<kind>(z, negative_slope));
    }
    *reinterpret_cast<Pack<T, kWidth>*>(values) = pack;
  }

 private:
  Pack<A, kWidth> mean_, scale_, shift_;
};

}  // namespace
}  // namespace fastgan::conv

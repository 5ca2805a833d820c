// What the block before left to be done, normalise + activate (csrc/batch_norm_act/batch_norm_act.h has the formula), applied
// to an operand of a convolution once it lies in shared memory: the activation is never written.
//
// It is rounded as the written activation would be. What is not there, the padding around an image among it, stays 0: the padding is
// of the activation. The channels are whole chunks, and the parameters begin at multiples of 16 bytes.
#pragma once

#include "conv/cuda_index.cuh"

namespace fastgan::conv {
namespace {

// For kWidth neighbouring channels, which are a chunk or, in 16 bits, half of one: as many as 16 bytes of the compute type.
template <class T>
class PrologueOfChannels {
 public:
  using A = Compute<T>;
  static constexpr int kWidth = kPackWidth<A>;

  __device__ PrologueOfChannels(const Prologue<T>& prologue, PrologueIndex first) {
    const int index = first.group * prologue.channels + first.channel;
    const auto pack = [](const A* from) { return *reinterpret_cast<const Pack<A, kWidth>*>(from); };
    mean_ = pack(prologue.mean + index);
    scale_ = pack(prologue.invstd + index);
    if (prologue.weight) {
      const auto weight = pack(prologue.weight + first.channel);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) scale_.values[i] *= weight.values[i];
    }
    shift_ = prologue.bias ? pack(prologue.bias + first.channel) : Pack<A, kWidth>{};
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

// What a CPU's kernels sum up of some rows of channels, for whoever has them in cache (csrc/conv/reduction.h).
#pragma once

#include <vector>

#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/kernels.h"

namespace fastgan::batch_norm_act {

// A chunk's, of one channel: what a CPU's kernels hand to `statistics` as moments, in float64.
struct ChannelMoments {
  double count, mean, square;
  void add(const ChannelMoments& other) {
    const double total = count + other.count, d = other.mean - mean;
    mean += d * other.count / total;
    square += other.square + d * d * count * other.count / total;
    count = total;
  }
};

// Those of `count` rows of `channels` that lie together.
template <class T>
void add_row_moments(const T* rows, int64_t count, int64_t channels, ChannelMoments* result);

// A part's, of one channel: what a CPU's kernels hand to `backward_sums`, in float64.
struct ChannelSums {
  double gradient, product;  // sum g, sum g (x - mean)
};

// Adds up those of rows of `channels` that lie together.
template <class T>
class RowSums {
 public:
  RowSums(const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation,
          double negative_slope);
  // Of `count` rows of a group: the batch-norm's input, and the gradient of what the activation after it gives.
  void add(const T* grad, const T* rows, int64_t count, int64_t group, ChannelSums* result) const;

 private:
  using A = Compute<T>;
  int64_t channels_, period_;
  A negative_slope_;
  std::vector<A> values_;  // [groups][mean, scale, shift][period]
  void (*kernel_)(const T*, const T*, int64_t, int64_t, const Parameters<A>&, A*, A*);
};

}  // namespace fastgan::batch_norm_act

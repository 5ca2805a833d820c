// What the block before leaves to be done: its normalise + activate.
#pragma once

#include "batch_norm_act/batch_norm_act.h"

namespace fastgan::conv {

// A tensor on which something is still to be done, or nothing: normalise + activate, where `mean` is there, or, where `output` is
// there, their gradient, which makes of the gradient of an activation that of the convolution's output before it.
struct Pending {
  Tensor input;                               // [N, C, H, W]
  OptionalTensor mean, invstd, weight, bias;  // [batch_groups, C] twice; [C] or [N, C] twice
  int64_t activation;
  double negative_slope;
  OptionalTensor output = {};        // what the batch-norm was of; without one, what the activation gave
  OptionalTensor coefficients = {};  // of the gradient of a batch-norm (batch_norm_act::BackwardSums)

  void check(const char* op) const {
    if (!mean) return;
    FASTGAN_CHECK(op, invstd.has_value(), "a pending input has a mean but no invstd.");
    batch_norm_act::check_statistics(op, input, *mean, *invstd);
    batch_norm_act::check_affine(op, weight, bias, geometry(op), input);
    batch_norm_act::activation_of(op, activation);
  }
  // For its groups, samples and channels; they are the same in either format.
  batch_norm_act::Geometry geometry(const char* op) const {
    return batch_norm_act::geometry_of(op, input, MemoryFormat::ChannelsLast, mean->size(0));
  }

  Tensor materialise() const {
    using namespace batch_norm_act;
    if (output && mean) {
      return backward_input(input, *output, *mean, *invstd, weight, bias, activation, negative_slope, *coefficients);
    }
    if (output) return activation_backward(input, *output, activation, negative_slope);
    return mean ? batch_norm_act::forward(input, *mean, *invstd, weight, bias, activation, negative_slope) : input;
  }
  // Something of the shape, dtype and memory format that materialise gives.
  Tensor like() const { return mean ? dense(input).tensor : input; }
  static Pending nothing_on(const Tensor& tensor) { return {tensor, {}, {}, {}, {}, 0, 0.0}; }
  Pending materialised() const { return nothing_on(materialise()); }
};

}  // namespace fastgan::conv

// What the block before leaves to be done: its normalise + activate.
#pragma once

#include "batch_norm_act/batch_norm_act.h"

namespace fastgan::conv {

// A tensor with normalise + activate still to be applied where `mean` is there; otherwise as it is.
struct Pending {
  Tensor input;                               // [N, C, H, W]
  OptionalTensor mean, invstd, weight, bias;  // [batch_groups, C] twice; [C] or [N, C] twice
  int64_t activation;
  double negative_slope;

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
    if (!mean) return input;
    return batch_norm_act::forward(input, *mean, *invstd, weight, bias, activation, negative_slope);
  }
  // Something of the shape, dtype and memory format that materialise gives.
  Tensor like() const { return mean ? dense(input).tensor : input; }
  static Pending nothing_on(const Tensor& tensor) { return {tensor, {}, {}, {}, {}, 0, 0.0}; }
  Pending materialised() const { return nothing_on(materialise()); }
};

// The gradient of a block's output, with its activation's still to be taken where `output` is there; otherwise of what is before it.
struct PendingGradient {
  Tensor grad;
  OptionalTensor output;
  int64_t activation;
  double negative_slope;

  Tensor materialise() const {
    return output ? batch_norm_act::activation_backward(grad, *output, activation, negative_slope) : grad;
  }
  static PendingGradient nothing_on(const Tensor& tensor) { return {tensor, {}, 0, 0.0}; }
};

}  // namespace fastgan::conv

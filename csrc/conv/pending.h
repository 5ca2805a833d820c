// What the block before leaves to be done: its normalise + activate.
#pragma once

#include "batch_norm_act/batch_norm_act.h"

namespace fastgan::conv {

// A tensor with normalise + activate still to be applied where `mean` is there; otherwise as it is.
struct Pending {
  Tensor input;                               // [N, C, H, W]
  OptionalTensor mean, invstd, weight, bias;  // [batch_groups, C] twice, [C] twice
  int64_t activation;
  double negative_slope;

  Tensor materialise() const {
    if (!mean) return input;
    FASTGAN_CHECK("conv", invstd.has_value(), "a pending input has a mean but no invstd.");
    return batch_norm_act::forward(input, *mean, *invstd, weight, bias, activation, negative_slope);
  }
  // Something of the shape, dtype and memory format that materialise gives.
  Tensor like() const { return mean ? dense(input).tensor : input; }
  // The same with nothing left to be done.
  Pending materialised() const { return {materialise(), {}, {}, {}, {}, 0, 0.0}; }
};

}  // namespace fastgan::conv

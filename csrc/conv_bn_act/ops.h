// The two operators over csrc/conv/block.h, for the library this is included into.
#pragma once

#include "conv/block.h"

namespace fastgan::conv_bn_act {

using conv::Convolution;
using conv::Pending;

inline std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& input, const OptionalTensor& in_mean, const OptionalTensor& in_invstd,
    const OptionalTensor& in_weight, const OptionalTensor& in_bias, int64_t in_activation, double in_negative_slope,
    const Tensor& weight, const OptionalTensor& bias, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups, bool batch_norm,
    const OptionalTensor& running_mean, const OptionalTensor& running_var, bool training, double momentum, double eps,
    int64_t batch_groups, int64_t activation, double negative_slope, bool allow_tf32) {
  const Pending pending{input, in_mean, in_invstd, in_weight, in_bias, in_activation, in_negative_slope};
  const Convolution conv{false, stride, padding, dilation, {0, 0}, groups, allow_tf32};
  auto result = conv::forward("conv_bn_act", pending, weight, bias, conv, batch_norm, running_mean, running_var,
                              training, momentum, eps, batch_groups, activation, negative_slope);
  return {result.output, result.mean, result.invstd};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_output, const Tensor& output, const OptionalTensor& mean, const OptionalTensor& invstd,
    const OptionalTensor& bn_weight, const OptionalTensor& bn_bias, bool training, int64_t activation,
    double negative_slope, const Tensor& input, const OptionalTensor& in_mean, const OptionalTensor& in_invstd,
    const OptionalTensor& in_weight, const OptionalTensor& in_bias, int64_t in_activation, double in_negative_slope,
    const Tensor& weight, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation, int64_t groups, int64_t output_mask,
    const OptionalTensor& sums, bool allow_tf32) {
  const Pending pending{input, in_mean, in_invstd, in_weight, in_bias, in_activation, in_negative_slope};
  const Convolution conv{false, stride, padding, dilation, {0, 0}, groups, allow_tf32};
  auto gradients = conv::backward("conv_bn_act", grad_output, output, mean, invstd, bn_weight, bn_bias,
                                  training, activation, negative_slope, pending, weight, conv,
                                  {(output_mask & 1) != 0, (output_mask & 2) != 0, (output_mask & 4) != 0, (output_mask & 8) != 0}, sums);
  return {gradients.input,     gradients.weight,  gradients.bias,
          gradients.bn_weight, gradients.bn_bias, gradients.sums_below};
}

}  // namespace fastgan::conv_bn_act

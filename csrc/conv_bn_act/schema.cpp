#include "common/tensor.h"

// in_*: what is pending on the input (csrc/conv/block.h). output_mask: 1 input, 2 weight, 4 bias,
// 8 sums_below. sums: what the block above took of grad_output, its sums_below. allow_tf32: whether products of float32 may
// be made of operands rounded to 10 bits, which a GPU's tensor cores take.
STABLE_TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "_conv_bn_act(Tensor input, Tensor? in_mean, Tensor? in_invstd, Tensor? in_weight, Tensor? in_bias, "
      "int in_activation, float in_negative_slope, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
      "int[] dilation, int groups, bool batch_norm, Tensor(a!)? running_mean, Tensor(b!)? running_var, bool training, "
      "float momentum, float eps, int batch_groups, int activation, float negative_slope, bool allow_tf32=False) "
      "-> (Tensor output, Tensor mean, Tensor invstd)");
  m.def(
      "_conv_bn_act_backward(Tensor grad_output, Tensor output, Tensor? mean, Tensor? invstd, Tensor? bn_weight, "
      "Tensor? bn_bias, bool training, int activation, float negative_slope, Tensor input, Tensor? in_mean, "
      "Tensor? in_invstd, Tensor? in_weight, Tensor? in_bias, int in_activation, float in_negative_slope, "
      "Tensor weight, int[] stride, int[] padding, int[] dilation, int groups, int output_mask, Tensor? sums=None, bool allow_tf32=False) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias, Tensor grad_bn_weight, Tensor grad_bn_bias, "
      "Tensor sums_below)");
}

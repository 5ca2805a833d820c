#include "common/tensor.h"

STABLE_TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "_batch_norm_stats(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, bool training, "
      "float momentum, float eps, int batch_groups) -> (Tensor mean, Tensor invstd)");
  m.def(
      "_batch_norm_act(Tensor input, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, int activation, "
      "float negative_slope) -> Tensor");
  m.def(
      "_batch_norm_act_backward(Tensor grad_output, Tensor input, Tensor mean, Tensor invstd, Tensor? weight, "
      "Tensor? bias, int activation, float negative_slope, bool training) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

#include "common/tensor.h"

// reduction: 0 none, 1 mean, 2 sum, as torch numbers them.
STABLE_TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "_bce(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, bool from_logits, int reduction) "
      "-> Tensor");
  m.def(
      "_bce_backward(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, "
      "bool from_logits, int reduction) -> Tensor");
  m.def(
      "_adversarial_bce(Tensor input, float[] targets, float[] weights, bool from_logits) "
      "-> (Tensor losses, Tensor probability, Tensor grad_input)");
}

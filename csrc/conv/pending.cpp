// The engines of the CPU take tensors as they are, and leave statistics to a pass of their own.
#include "conv/engine.h"

namespace fastgan::conv {

bool is_fused(Engine) { return false; }

OptionalTensor gather(Engine engine, const Pending& input, const Tensor& weight, const Convolution& conv,
                      const Epilogue& epilogue, int64_t, const Tensor& output) {
  gather(engine, input.input, weight, conv, false, epilogue, output);
  return std::nullopt;
}

void wgrad(Engine engine, const Pending& input, const Tensor& grad_output, const Convolution& conv,
           const Tensor& grad_weight) {
  wgrad(engine, input.input, grad_output, conv, grad_weight);
}

}  // namespace fastgan::conv

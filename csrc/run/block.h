// One block of a run: [convolution] -> [batch-norm] -> [activation], with a convolution or a batch-norm at least.
//
// With batch-norm a block hands on its convolution's output and the statistics, and leaves normalise + activate pending: the next
// block applies them while it takes in its input, and the activation never has to be kept. Without batch-norm the activation is
// applied at once, and the output is what backward needs.
#pragma once

#include "conv/convolution.h"

namespace fastgan::run {

using conv::Convolution;
using conv::Pending;

struct Norm {
  bool training;  // whether the batch's own statistics are used
  double momentum, eps;
  OptionalTensor weight, bias;
  batch_norm_act::Running running;
};

struct Block {
  std::optional<Convolution> conv;
  OptionalTensor weight, bias;  // of the convolution
  std::optional<Norm> norm;
  int64_t activation;
  double negative_slope;
  bool keeps_input;  // whether its activation, without batch-norm, keeps its input for backward, and is pending too
};

// What is pending on `tensor`, as a batch-norm with these statistics leaves it.
inline Pending pending_on(const Tensor& tensor, const Tensor& mean, const Tensor& invstd, const Block& block) {
  return {tensor, mean, invstd, block.norm->weight, block.norm->bias, block.activation, block.negative_slope};
}

// What the block hands on. planned: of its convolution. groups: of so many parts of the batch statistics are taken apart.
inline Pending forward(const Block& block, const conv::Planned& planned, const Pending& input, int64_t groups) {
  const bool is_pending = block.norm || block.keeps_input;
  conv::Convolved made{input.input, std::nullopt};
  if (block.conv) {
    const conv::Epilogue epilogue{block.bias, is_pending ? 0 : block.activation, block.negative_slope};
    made = conv::forward(planned, input, epilogue, block.norm && block.norm->training ? groups : 0);
  } else {
    made.output = input.materialise();
  }
  const Tensor& tensor = made.output;
  if (block.norm) {
    const Norm& norm = *block.norm;
    const auto found =
        batch_norm_act::statistics(tensor, norm.running, norm.training, norm.momentum, norm.eps, groups, made.moments);
    return pending_on(tensor, found.mean, found.invstd, block);
  }
  if (!is_pending) return Pending::nothing_on(tensor);
  // Statistics that change nothing.
  const auto filled = [&](double value) {
    const Tensor result = empty({1, tensor.size(1)}, accumulate_type(tensor.scalar_type()), tensor);
    torch::stable::fill_(result, value);
    return OptionalTensor(result);
  };
  return {tensor, filled(0), filled(1), {}, {}, block.activation, block.negative_slope};
}

// What forward kept of a block: the convolution's output and its statistics, or, without batch-norm, what tells the sign of the
// activation's input: that, or the block's output.
struct Kept {
  OptionalTensor tensor, mean, invstd;
};

struct Wanted {
  bool input, weight, bias, bn_weight, bn_bias, below;  // below: what the block below can make use of
  bool of_norm() const { return bn_weight || bn_bias; }
  bool any() const { return input || weight || bias || of_norm(); }
};

struct Gradients {
  Tensor input, weight, bias, bn_weight, bn_bias;
  OptionalTensor sums;  // of `input` for the block below, and whether it has been turned: of conv::Gradients
  bool is_turned = false;
};

// grad: of what the block's activation gives, or, where the block above has turned it, of what that took; sums: of it, from the block
// above. A batch-norm's gradients are there whether they are wanted or not.
inline Gradients backward(const Block& block, const conv::Planned& planned, const Kept& kept, const Tensor& grad,
                          const OptionalTensor& sums, bool is_turned, const Pending& input, const Wanted& wanted) {
  const Tensor& output = kept.tensor ? *kept.tensor : grad;
  if (!block.conv) {
    const auto found = batch_norm_act::backward(grad, output, *kept.mean, *kept.invstd, block.norm->weight, block.norm->bias,
                                                block.activation, block.negative_slope, block.norm->training);
    return {found.input, {}, {}, found.weight, found.bias, std::nullopt, false};
  }
  const char* const op = name_of(*block.conv);
  input.check(op);
  check_same(op, "grad_output", grad, output);
  Gradients gradients;
  Pending pending = Pending::nothing_on(grad);
  if (block.norm) {
    const auto found = batch_norm_act::backward_sums(grad, output, *kept.mean, *kept.invstd, block.norm->weight, block.norm->bias,
                                                     block.activation, block.negative_slope, block.norm->training, sums);
    pending = pending_on(grad, *kept.mean, *kept.invstd, block);
    pending.output = output;
    pending.coefficients = found.coefficients;
    gradients.bn_weight = found.weight;
    gradients.bn_bias = found.bias;
    if (wanted.bias && found.input.defined()) gradients.bias = to_dtype(found.input, output.scalar_type());
  } else if (block.activation != 0 && !is_turned) {
    pending.output = output;
    pending.activation = block.activation;
    pending.negative_slope = block.negative_slope;
  }
  const bool needs_bias = wanted.bias && !gradients.bias.defined();
  const auto found = conv::backward(planned, pending, input, {wanted.input, wanted.weight, needs_bias, wanted.below});
  gradients.input = found.input;
  gradients.weight = found.weight;
  if (needs_bias) gradients.bias = found.bias;
  gradients.sums = found.sums;
  gradients.is_turned = found.is_turned;
  return gradients;
}

}  // namespace fastgan::run

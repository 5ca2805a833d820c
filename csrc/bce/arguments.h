// The cross-entropies' arguments, checked; shared by the CPU and CUDA kernels.
#pragma once

#include "common/checks.h"

namespace fastgan::bce {

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

struct Arguments {
  Tensor input, target;  // contiguous, of one shape and dtype
  OptionalTensor weight, pos_weight;
  bool from_logits;
};

inline Arguments checked(const char* op, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                         const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  check_dtype(op, "input", input);
  check_same(op, "target", target, input);
  if (weight) check_same(op, "weight", *weight, input);
  if (pos_weight) check_same(op, "pos_weight", *pos_weight, input);
  FASTGAN_CHECK(op, from_logits || !pos_weight, "argument 'pos_weight' is for logits; leave it out for probabilities.");
  FASTGAN_CHECK(op, reduction >= kNone && reduction <= kSum, "reduction number ", reduction,
                " is unknown; 0 (none), 1 (mean) and 2 (sum) exist.");
  const auto flat = [](const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(as_contiguous(*tensor)) : std::nullopt;
  };
  return {as_contiguous(input), as_contiguous(target), flat(weight), flat(pos_weight),
          from_logits};
}

inline void check_grad_output(const char* op, const Tensor& grad_output, const Tensor& input, int64_t reduction) {
  FASTGAN_CHECK(op, grad_output.scalar_type() == input.scalar_type() && grad_output.device() == input.device() &&
                    grad_output.numel() == (reduction == kNone ? input.numel() : 1),
                "argument 'grad_output' has shape ", shape_text(grad_output), " and dtype ",
                dtype_name(grad_output.scalar_type()), "; it must match the loss of 'input' ", shape_text(input), ", ",
                dtype_name(input.scalar_type()), ".");
}

inline void check_parts(const char* op, const Tensor& input, const std::vector<double>& targets,
                        const std::vector<double>& weights) {
  check_dtype(op, "input", input);
  const auto parts = static_cast<int64_t>(targets.size());
  FASTGAN_CHECK(op, parts >= 1 && weights.size() == targets.size(), "there are ", targets.size(), " targets and ",
                weights.size(), " weights; give one of each for every part of the batch.");
  FASTGAN_CHECK(op, input.dim() >= 1 && input.numel() > 0 && input.size(0) % parts == 0, "argument 'input' has shape ",
                shape_text(input), ", which cannot be divided into ", parts, " equal parts along its first dimension.");
}

inline double divisor_of(int64_t reduction, int64_t n) { return reduction == kMean ? static_cast<double>(n) : 1.0; }

}  // namespace fastgan::bce

// One block of a run: convolution (or transposed convolution), then batch-norm and activation, or activation alone.
//
// With batch-norm a block returns its convolution's output and the statistics, and leaves normalise + activate pending: the
// next block applies them while it takes in its input, and the activation never has to be kept. Without batch-norm the
// activation is applied at once and the output is what backward needs.
//
// The convolution itself is the engine's or aten's (engine.h); what surrounds it comes from batch_norm_act of the library
// this is compiled into (CPU or CUDA).
#pragma once

#include "batch_norm_act/batch_norm_act.h"
#include "common/checks.h"
#include "common/counters.h"
#include "common/tensor.h"
#include "conv/engine.h"

namespace fastgan::conv {

struct Gradients {
  Tensor input, weight, bias, bn_weight, bn_bias;
  Tensor sums_below;  // parts of the sums that the backward of what is pending on the input begins with, or nothing
};

inline int64_t output_size(const Convolution& conv, int64_t input, int64_t kernel, size_t dim) {
  const int64_t reach = conv.dilation[dim] * (kernel - 1);
  if (conv.transposed) {
    return (input - 1) * conv.stride[dim] - 2 * conv.padding[dim] + reach + conv.output_padding[dim] + 1;
  }
  const int64_t span = input + 2 * conv.padding[dim] - reach - 1;
  return span < 0 ? 0 : span / conv.stride[dim] + 1;
}

inline int64_t output_channels(const Convolution& conv, const Tensor& weight) {
  return conv.transposed ? weight.size(1) * conv.groups : weight.size(0);
}

inline void check(const char* op, const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                  const Convolution& conv) {
  check_dtype(op, "input", input);
  FASTGAN_CHECK(op, input.dim() == 4, "argument 'input' has shape ", shape_text(input), "; it must be [N, C, H, W].");
  FASTGAN_CHECK(op, weight.dim() == 4, "argument 'weight' has shape ", shape_text(weight), "; it must have four ",
                conv.transposed ? "dimensions, [in, out / groups, kH, kW]." : "dimensions, [out, in / groups, kH, kW].");
  check_like(op, "weight", weight, input);
  const bool is_wider = weight.scalar_type() == ScalarType::Float && input.scalar_type() == ScalarType::BFloat16;
  FASTGAN_CHECK(op, is_wider || weight.scalar_type() == input.scalar_type(), "argument 'weight' has dtype ",
                dtype_name(weight.scalar_type()), " but 'input' has ", dtype_name(input.scalar_type()),
                "; give both the same dtype, or use autocast.");
  for (const auto& [name, values, least] :
       {std::tuple{"stride", &conv.stride, 1}, std::tuple{"padding", &conv.padding, 0},
        std::tuple{"dilation", &conv.dilation, 1}, std::tuple{"output_padding", &conv.output_padding, 0}}) {
    FASTGAN_CHECK(op, values->size() == 2 && (*values)[0] >= least && (*values)[1] >= least, "argument '", name,
                  "' needs two values, each at least ", least, ".");
  }
  FASTGAN_CHECK(op, conv.groups >= 1 && weight.size(0) % conv.groups == 0, "groups=", conv.groups,
                " does not divide the weight's first dimension, ", weight.size(0), ".");
  const int64_t channels = conv.transposed ? weight.size(0) : weight.size(1) * conv.groups;
  FASTGAN_CHECK(op, input.size(1) == channels, "argument 'input' has ", input.size(1), " channels, shape ",
                shape_text(input), ", but the weight ", shape_text(weight), " with groups=", conv.groups, " takes ",
                channels, ".");
  for (int dim = 0; dim < 2; ++dim) {
    FASTGAN_CHECK(op, weight.size(2 + dim) >= 1, "argument 'weight' has shape ", shape_text(weight),
                  "; the kernel must not be empty.");
    FASTGAN_CHECK(op, output_size(conv, input.size(2 + dim), weight.size(2 + dim), dim) >= 1,
                  "the output would be empty: input ", shape_text(input), ", weight ", shape_text(weight),
                  "; the padded input must be at least as large as the kernel.");
    FASTGAN_CHECK(op, conv.output_padding[dim] == 0 ||
                      conv.output_padding[dim] < std::max(conv.stride[dim], conv.dilation[dim]),
                  "argument 'output_padding' must be smaller than stride or dilation.");
  }
  if (bias) {
    check_channels(op, "bias", bias, output_channels(conv, weight), input);
    FASTGAN_CHECK(op, bias->scalar_type() == input.scalar_type(), "argument 'bias' has dtype ",
                  dtype_name(bias->scalar_type()), " but 'input' has ", dtype_name(input.scalar_type()),
                  "; give both the same dtype, or use autocast.");
  }
}

inline Tensor convolve(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Convolution& conv) {
  using torch::stable::detail::from;
  std::array<StableIValue, 9> stack{from(input),         from(weight),          from(bias),
                                    from(conv.stride),   from(conv.padding),    from(conv.dilation),
                                    from(conv.transposed), from(conv.output_padding), from(conv.groups)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Gradients of input and weight; where `wanted` says no, an undefined tensor.
inline std::array<Tensor, 2> convolve_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                               const Convolution& conv, const std::array<bool, 2>& wanted) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  const std::optional<std::vector<int64_t>> bias_sizes;
  const std::array<bool, 3> mask{wanted[0], wanted[1], false};
  std::array<StableIValue, 11> stack{
      from(grad_output),     from(input),
      from(weight),          from(bias_sizes),
      from(conv.stride),     from(conv.padding),
      from(conv.dilation),   from(conv.transposed),
      from(conv.output_padding), from(conv.groups),
      from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask.data(), mask.size()))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

struct Result {
  Tensor output, mean, invstd;
};

// torch's rule for the output and the input's gradient: channels-last where the input or the weight suggests it.
inline MemoryFormat format_of(const Tensor& input, const Tensor& weight) {
  const bool channels_last = suggests_channels_last(input) || suggests_channels_last(weight);
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline std::vector<int64_t> output_sizes(const Tensor& input, const Tensor& weight, const Convolution& conv) {
  return {input.size(0), output_channels(conv, weight), output_size(conv, input.size(2), weight.size(2), 0),
          output_size(conv, input.size(3), weight.size(3), 1)};
}

inline Result forward(const char* op, const Pending& input, const Tensor& weight, const OptionalTensor& bias,
                      const Convolution& conv, bool batch_norm, const OptionalTensor& running_mean,
                      const OptionalTensor& running_var, bool training, double momentum, double eps,
                      int64_t batch_groups, int64_t activation, double negative_slope) {
  check(op, input.input, weight, bias, conv);
  input.check(op);
  batch_norm_act::activation_of(op, activation);
  const Tensor like = input.like();
  const Engine engine = engine_for(Pass::forward, like, weight, conv);
  const Pending taken = is_fused(engine, Pass::forward, like, weight, conv) ? input : input.materialised();
  Tensor output;
  OptionalTensor moments;
  {
    const Counted counted(op, engine_name("forward", engine, like));
    if (engine != Engine::aten) {
      output = empty(output_sizes(like, weight, conv), like.scalar_type(), like, format_of(like, weight));
      moments = gather(engine, taken, weight_for(engine, weight, like), conv, false,
                       {bias, batch_norm ? 0 : activation, negative_slope}, {batch_norm && training ? batch_groups : 0}, output);
    } else {
      output = convolve(taken.input, weight_for(engine, weight, like), bias, conv);
    }
  }
  if (batch_norm) {
    auto [mean, invstd] =
        batch_norm_act::statistics(output, running_mean, running_var, training, momentum, eps, batch_groups, moments);
    return {output, mean, invstd};
  }
  const auto dtype = accumulate_type(output.scalar_type());
  if (engine == Engine::aten || engine == Engine::matmul) batch_norm_act::activate_(output, activation, negative_slope);
  return {output, nothing(output, dtype), nothing(output, dtype)};
}

// Gradients of input, weight and bias from that of the convolution's output, and Gradients::sums_below where that can be taken in passing;
// an undefined tensor where `wanted` says no.
// aten is called for each of input and weight by itself, as it works inside anyway, so that each is counted and timed under its own name.
inline std::array<Tensor, 4> convolution_backward(const char* op, const Pending& given, const Pending& input,
                                                  const Tensor& weight, const Convolution& conv,
                                                  std::array<bool, 4> wanted) {
  const Tensor like = input.like();
  const Engine wgrad_engine = engine_for(Pass::wgrad, like, weight, conv);
  // Only the weight's gradient reads the activation.
  const Pending taken = wanted[1] && !is_fused(wgrad_engine, Pass::wgrad, like, weight, conv) ? input.materialised() : input;
  const Engine dgrad_engine = engine_for(Pass::dgrad, like, weight, conv);
  const bool reads_pending = !wanted[2] && (!wanted[0] || is_gradient_fused(dgrad_engine, given)) &&
                             (!wanted[1] || is_gradient_fused(wgrad_engine, given));
  const Pending pending = reads_pending ? given : given.materialised();
  const Tensor& grad = pending.input;
  std::array<Tensor, 4> gradients;
  if (wanted[0]) {
    const Counted counted(op, engine_name("backward_dgrad", dgrad_engine, like));
    if (dgrad_engine != Engine::aten) {
      gradients[0] = empty(sizes_of(like), like.scalar_type(), like, format_of(like, weight));
      const auto sums = gather(dgrad_engine, pending, weight_for(dgrad_engine, weight, like), conv, true, {std::nullopt, 0, 0.0},
                               {0, wanted[3] && input.mean ? &input : nullptr}, gradients[0]);
      if (sums) gradients[3] = *sums;
    } else {
      const auto found = convolve_backward(grad, like, weight_for(dgrad_engine, weight, like), conv, {true, false});
      gradients[0] = as_format(found[0], format_of(like, weight));
    }
  }
  if (wanted[1] && wgrad_engine != Engine::aten) {
    const Counted counted(op, engine_name("backward_wgrad", wgrad_engine, like));
    const auto dtype = takes_float32_weight(wgrad_engine) ? weight.scalar_type() : like.scalar_type();
    gradients[1] = empty(sizes_of(weight), dtype, weight, format_of(weight, weight));
    wgrad(wgrad_engine, taken, pending, conv, gradients[1]);
    gradients[1] = to_dtype(gradients[1], weight.scalar_type());
    wanted[1] = false;
  }
  if (wanted[1]) {
    const Counted counted(op, "backward_wgrad_aten");
    const auto found = convolve_backward(grad, taken.input, to_dtype(weight, like.scalar_type()), conv, {false, true});
    gradients[1] = to_dtype(as_format(found[1], format_of(weight, weight)), weight.scalar_type());
  }
  if (wanted[2]) gradients[2] = to_dtype(batch_norm_act::channel_sums(grad), like.scalar_type());
  return gradients;
}

// `output`, `mean` and `invstd` are forward's; grad_output is with respect to what the block's activation gives, and sums_above what the
// block above found of it: its Gradients::sums_below.
inline Gradients backward(const char* op, const Tensor& grad_output, const Tensor& output, const OptionalTensor& mean,
                          const OptionalTensor& invstd, const OptionalTensor& bn_weight, const OptionalTensor& bn_bias,
                          bool training, int64_t activation, double negative_slope, const Pending& input,
                          const Tensor& weight, const Convolution& conv, const std::array<bool, 4>& wanted,
                          const OptionalTensor& sums_above) {
  check(op, input.input, weight, std::nullopt, conv);
  input.check(op);
  check_same(op, "grad_output", grad_output, output);
  FASTGAN_CHECK(op, output.scalar_type() == input.input.scalar_type(), "argument 'output' has dtype ", dtype_name(output.scalar_type()),
                " but 'input' has ", dtype_name(input.input.scalar_type()), "; give what the forward returned.");
  FASTGAN_CHECK(op, sizes_of(output) == output_sizes(input.input, weight, conv), "argument 'output' has shape ",
                shape_text(output), ", but input ", shape_text(input.input), " and weight ", shape_text(weight),
                " do not make such a one; give what the forward returned.");
  Tensor grad_bn_weight, grad_bn_bias, bias_sum;
  Pending grad = Pending::nothing_on(grad_output);
  if (mean) {
    FASTGAN_CHECK(op, invstd.has_value(), "'mean' is given without 'invstd'.");
    const auto sums = batch_norm_act::backward_sums(grad_output, output, *mean, *invstd, bn_weight, bn_bias, activation,
                                                    negative_slope, training, sums_above);
    grad = {grad_output, mean, invstd, bn_weight, bn_bias, activation, negative_slope, output, sums.coefficients};
    grad_bn_weight = sums.weight;
    grad_bn_bias = sums.bias;
    bias_sum = sums.input;
  } else {
    batch_norm_act::activation_of(op, activation);
    FASTGAN_CHECK(op, !sums_above || sums_above->numel() == 0, "sums are given to a block without batch-norm; give none.");
    if (activation != 0) grad = {grad_output, {}, {}, {}, {}, activation, negative_slope, output};
    grad_bn_weight = nothing(output, accumulate_type(output.scalar_type()));
    grad_bn_bias = nothing(output, accumulate_type(output.scalar_type()));
  }
  const bool has_bias_sum = bias_sum.defined();
  auto gradients = convolution_backward(op, grad, input, weight, conv, {wanted[0], wanted[1], wanted[2] && !has_bias_sum, wanted[3]});
  if (wanted[2] && has_bias_sum) gradients[2] = to_dtype(bias_sum, output.scalar_type());
  for (auto& gradient : gradients) {
    if (!gradient.defined()) gradient = nothing(output, output.scalar_type());
  }
  return {gradients[0], gradients[1], gradients[2], grad_bn_weight, grad_bn_bias, gradients[3]};
}

}  // namespace fastgan::conv

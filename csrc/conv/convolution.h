// A convolution on whichever engine it goes to, ours or aten's (engine.h), with what is pending on its input and what is taken of its
// output in passing. What surrounds it comes from batch_norm_act of the library that this is compiled into (CPU or CUDA).
#pragma once

#include "batch_norm_act/batch_norm_act.h"
#include "common/checks.h"
#include "common/counters.h"
#include "common/tensor.h"
#include "conv/engine.h"

namespace fastgan::conv {

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

// What errors and counters call it by: the public operator on one block.
inline const char* name_of(const Convolution& conv) { return conv.transposed ? "conv_transpose_bn_act" : "conv_bn_act"; }

inline void check(const Outline& input, const Tensor& weight, const OptionalTensor& bias, const Convolution& conv) {
  const char* const op = name_of(conv);
  check_dtype(op, "input", input.like());
  FASTGAN_CHECK(op, input.dim() == 4, "argument 'input' has shape ", shape_text(input), "; it must be [N, C, H, W].");
  FASTGAN_CHECK(op, weight.dim() == 4, "argument 'weight' has shape ", shape_text(weight), "; it must have four ",
                conv.transposed ? "dimensions, [in, out / groups, kH, kW]." : "dimensions, [out, in / groups, kH, kW].");
  check_like(op, "weight", weight, input.like());
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
    check_channels(op, "bias", bias, output_channels(conv, weight), input.like());
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

// Gradients of input, weight and bias; where `wanted` says no, an undefined tensor.
inline std::array<Tensor, 3> convolve_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                               const Convolution& conv, const std::array<bool, 3>& wanted) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::optional<std::vector<int64_t>> bias_sizes;
  if (wanted[2]) bias_sizes = std::vector<int64_t>{output_channels(conv, weight)};
  std::array<StableIValue, 11> stack{
      from(grad_output),     from(input),
      from(weight),          from(bias_sizes),
      from(conv.stride),     from(conv.padding),
      from(conv.dilation),   from(conv.transposed),
      from(conv.output_padding), from(conv.groups),
      from(torch::headeronly::HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

// torch's rule for the output and the input's gradient: channels-last where the input or the weight suggests it.
inline MemoryFormat format_of(const Tensor& input, const Tensor& weight) {
  const bool channels_last = suggests_channels_last(input) || suggests_channels_last(weight);
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline std::vector<int64_t> output_sizes(const Outline& input, const Tensor& weight, const Convolution& conv) {
  return {input.size(0), output_channels(conv, weight), output_size(conv, input.size(2), weight.size(2), 0),
          output_size(conv, input.size(3), weight.size(3), 1)};
}

// Of a convolution's forward: every pixel of the smaller image meets every weight.
inline int64_t multiplications(const Planned& planned) {
  return smaller_pixels(planned.input, planned.weight, *planned.conv) * planned.weight.numel();
}

struct Convolved {
  Tensor output;
  OptionalTensor moments;  // of so many groups of the batch as were asked for, where the engine takes them
};

// Of arguments that have been checked. epilogue: activate(convolution + bias).
inline Convolved forward(const Planned& planned, const Pending& input, const Epilogue& epilogue, int64_t moment_groups) {
  const Convolution& conv = *planned.conv;
  const Tensor& weight = planned.weight;
  const Engine engine = planned.engine;
  const char* const op = name_of(conv);
  input.check(op);
  batch_norm_act::activation_of(op, epilogue.activation);
  const Tensor like = input.like();
  const Pending taken = is_fused(engine, Pass::forward, planned.input, weight, conv) ? input : input.materialised();
  Convolved result;
  {
    const Counted counted(op, engine_name("forward", engine, like.scalar_type()));
    if (engine != Engine::aten) {
      result.output = empty(planned.output.sizes(), like.scalar_type(), like, format_of(like, weight));
      result.moments = gather(planned, taken, weight_for(engine, weight, like), epilogue, {moment_groups}, result.output);
    } else {
      const Tensor output = convolve(taken.input, weight_for(engine, weight, like), epilogue.bias, conv);
      result.output = as_format(output, format_of(like, weight));
    }
  }
  const bool is_activated = engine != Engine::aten && engine != Engine::matmul;
  if (!is_activated) batch_norm_act::activate_(result.output, epilogue.activation, epilogue.negative_slope);
  return result;
}

struct Gradients {
  Tensor input, weight, bias;
  OptionalTensor sums;     // parts of the sums that the backward of what is pending on the input begins with
  bool is_turned = false;  // whether `input` is before the activation that made the convolution's input
};

// Which gradients are wanted; the others stay undefined. below: whether Gradients::sums or is_turned are of use, where they cost little.
struct Wanted {
  bool input, weight, bias, below;
};

// From the gradient of the convolution's output, of arguments that have been checked. The input says which activation made it, if one
// is to be turned. aten is called for each of input and weight by itself, as it works inside anyway, so that each is counted and timed
// under its own name.
inline Gradients backward(const Planned& planned, const Pending& given, const Pending& input, const Wanted& wanted) {
  const Convolution& conv = *planned.conv;
  const Tensor& weight = planned.weight;
  const Engine dgrad_engine = planned.engine;
  const char* const op = name_of(conv);
  const Tensor like = input.like();
  const Engine wgrad_engine = engine_for(Pass::wgrad, planned.input, weight, conv);
  // Only the weight's gradient reads the activation.
  const Pending taken = wanted.weight && !is_fused(wgrad_engine, Pass::wgrad, planned.input, weight, conv) ? input.materialised() : input;
  const bool reads_pending = !wanted.bias && (!wanted.input || is_gradient_fused(dgrad_engine, given)) &&
                             (!wanted.weight || is_gradient_fused(wgrad_engine, given));
  const Pending pending = reads_pending ? given : given.materialised();
  const Tensor& grad = pending.input;
  Gradients gradients;
  if (wanted.input) {
    const Counted counted(op, engine_name("backward_dgrad", dgrad_engine, like.scalar_type()));
    if (dgrad_engine != Engine::aten) {
      gradients.input = empty(sizes_of(like), like.scalar_type(), like, format_of(like, weight));
      const bool may_turn = wanted.below && !input.mean && is_channels_last(gradients.input);
      gradients.is_turned = may_turn && is_turned(dgrad_engine, input.input, input.activation);
      const Epilogue none{std::nullopt, 0, 0.0}, turning{std::nullopt, input.activation, input.negative_slope, input.input};
      gradients.sums = gather(planned, pending, weight_for(dgrad_engine, weight, like), gradients.is_turned ? turning : none,
                              {0, wanted.below && input.mean ? &input : nullptr}, gradients.input);
    } else {
      const auto found = convolve_backward(grad, like, weight_for(dgrad_engine, weight, like), conv, {true, false, false});
      gradients.input = as_format(found[0], format_of(like, weight));
    }
  }
  if (wanted.weight && wgrad_engine != Engine::aten) {
    const Counted counted(op, engine_name("backward_wgrad", wgrad_engine, like.scalar_type()));
    const auto dtype = takes_float32_weight(wgrad_engine) ? weight.scalar_type() : like.scalar_type();
    gradients.weight = empty(sizes_of(weight), dtype, weight, format_of(weight, weight));
    wgrad(wgrad_engine, taken, pending, conv, gradients.weight);
  } else if (wanted.weight) {
    const Counted counted(op, "backward_wgrad_aten");
    // The bias's comes with it for next to nothing.
    const auto found = convolve_backward(grad, taken.input, to_dtype(weight, like.scalar_type()), conv, {false, true, wanted.bias});
    gradients.weight = as_format(found[1], format_of(weight, weight));
    if (wanted.bias) gradients.bias = found[2];
  }
  if (wanted.weight) gradients.weight = to_dtype(gradients.weight, weight.scalar_type());
  if (wanted.bias && !gradients.bias.defined()) gradients.bias = to_dtype(batch_norm_act::channel_sums(grad), like.scalar_type());
  return gradients;
}

}  // namespace fastgan::conv

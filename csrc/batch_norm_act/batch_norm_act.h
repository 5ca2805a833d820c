// Batch normalisation followed by an activation, as its kernels see it.
//
//   z = (x - mean) * scale + shift     scale = weight * invstd, shift = bias; one set of each per group and channel
//   y = activation(z)                  (or per sample and channel, where weight and bias are: conditional batch-norm)
//
// Backward, with g = grad_y * activation'(z) and M elements a channel:
//   grad_bias = sum g      grad_weight = invstd * sum g (x - mean)
//   grad_x = scale * g - (sum scale g + (x - mean) * invstd^2 * sum scale g (x - mean)) / M   (training)
//   grad_x = scale * g                                                                        (statistics given)
// Ioffe and Szegedy, "Batch Normalization", 2015. Subtracting the mean first costs nothing and, unlike a folded shift,
// does not cancel where the mean is large.
#pragma once

#include <algorithm>

#include "common/activation.h"
#include "common/checks.h"
#include "common/tensor.h"

namespace fastgan::batch_norm_act {

// The input as [groups, outer, channels, inner]: `outer` samples a group, `inner` pixels.
// Channels-last memory is groups * outer * inner rows of `channels`; contiguous memory is planes of `inner`.
struct Geometry {
  int64_t groups, outer, channels, inner;
  bool channels_last;
  int64_t count() const { return outer * inner; }  // elements that one statistic is taken over
  int64_t numel() const { return groups * outer * channels * inner; }
  // Where element e of a group's channel stands.
  int64_t offset(int64_t group, int64_t channel, int64_t e) const {
    if (channels_last) return (group * count() + e) * channels + channel;
    return ((group * outer + e / inner) * channels + channel) * inner + e % inner;
  }
};

inline Geometry geometry_of(const char* op, const Tensor& input, MemoryFormat format, int64_t groups) {
  check_dtype(op, "input", input);
  FASTGAN_CHECK(op, input.dim() >= 2, "argument 'input' has shape ", shape_text(input),
                "; it needs at least two dimensions, [N, C, ...].");
  // An empty batch is divisible by anything, but there is one statistic a group to keep.
  const int64_t most = std::max<int64_t>(1, input.size(0));
  FASTGAN_CHECK(op, groups >= 1 && groups <= most && input.size(0) % groups == 0, "a batch of ", input.size(0),
                " cannot be divided into batch_groups=", groups, " equal parts; choose a divisor of the batch.");
  int64_t inner = 1;
  for (int64_t dim = 2; dim < input.dim(); ++dim) inner *= input.size(dim);
  return {groups, input.size(0) / groups, input.size(1), inner,
          // One pixel: both formats are the same memory, and rows are the better walk.
          format == MemoryFormat::ChannelsLast || inner == 1};
}

// Whether weight and bias are given for each sample, [N, C] instead of [C].
inline bool is_per_sample(const OptionalTensor& weight, const OptionalTensor& bias) {
  return (weight && weight->dim() == 2) || (bias && bias->dim() == 2);
}

// The geometry whose groups have parameters of their own: a sample each, where weight and bias are given for each.
inline Geometry parameter_geometry(const Geometry& g, bool per_sample) {
  return per_sample ? Geometry{g.groups * g.outer, 1, g.channels, g.inner, g.channels_last} : g;
}

inline void check_affine(const char* op, const OptionalTensor& weight, const OptionalTensor& bias, const Geometry& g,
                         const Tensor& input) {
  if (!is_per_sample(weight, bias)) {
    check_channels(op, "weight", weight, g.channels, input);
    check_channels(op, "bias", bias, g.channels, input);
    return;
  }
  for (const auto& [name, tensor] : {std::pair{"weight", weight}, std::pair{"bias", bias}}) {
    FASTGAN_CHECK(op, tensor.has_value(), "argument '", name, "' is missing; give both for each sample, or neither.");
    check_dtype(op, name, *tensor);
    check_like(op, name, *tensor, input);
    FASTGAN_CHECK(op, tensor->dim() == 2 && tensor->size(0) == input.size(0) && tensor->size(1) == g.channels,
                  "argument '", name, "' has shape ", shape_text(*tensor), "; for each sample it must be [",
                  input.size(0), ", ", g.channels, "].");
  }
}

inline Activation activation_of(const char* op, int64_t number) {
  FASTGAN_CHECK(op, number >= 0 && number < kActivations, "activation number ", number, " is unknown; 0 to ",
                kActivations - 1, " exist.");
  return static_cast<Activation>(number);
}

inline void check_statistics(const char* op, const Tensor& input, const Tensor& mean, const Tensor& invstd) {
  FASTGAN_CHECK(op, input.dim() >= 2, "argument 'input' has shape ", shape_text(input),
                "; it needs at least two dimensions, [N, C, ...].");
  for (const auto& [name, tensor] : {std::pair{"mean", mean}, std::pair{"invstd", invstd}}) {
    check_like(op, name, tensor, input);
    FASTGAN_CHECK(op, tensor.scalar_type() == accumulate_type(input.scalar_type()), "argument '", name, "' has dtype ",
                  dtype_name(tensor.scalar_type()), "; statistics of ", dtype_name(input.scalar_type()), " are ",
                  dtype_name(accumulate_type(input.scalar_type())), ".");
    FASTGAN_CHECK(op, tensor.dim() == 2 && tensor.size(1) == input.size(1) && tensor.size(0) == mean.size(0),
                  "argument '", name, "' has shape ", shape_text(tensor), "; it must be [batch_groups, ",
                  input.size(1), "].");
  }
}

// Running statistics, which training updates and otherwise stand for the batch's own.
struct Running {
  OptionalTensor mean, var;  // [channels]
  OptionalTensor batches;    // int64 []: how many batches they have seen
};

inline void check_statistics_arguments(const char* op, const Tensor& input, const Geometry& g, const Running& running, bool training) {
  check_channels(op, "running_mean", running.mean, g.channels, input);
  check_channels(op, "running_var", running.var, g.channels, input);
  FASTGAN_CHECK(op, running.mean.has_value() == running.var.has_value(),
                "arguments 'running_mean' and 'running_var' must be given together.");
  if (running.batches) check_like(op, "num_batches_tracked", *running.batches, input);
  FASTGAN_CHECK(op, !running.batches || (running.batches->scalar_type() == ScalarType::Long && running.batches->numel() == 1),
                "argument 'num_batches_tracked' must be one int64 number.");
  FASTGAN_CHECK(op, training || running.mean.has_value(),
                "training is False and there are no running statistics; give 'running_mean' and 'running_var', or use "
                "training=True.");
  FASTGAN_CHECK(op, !training || g.numel() == 0 || g.count() > 1,
                "Expected more than 1 value per channel when training, got input size ", shape_text(input), " in ",
                g.groups, " batch_groups; use a larger batch.");
}

// ---- what runs (csrc/run/) are built on: cpu.cpp, statistics.cpp, backward.cpp, cuda.cu --------------------------------------------------

struct Statistics {
  Tensor mean;    // [groups, channels], float32 (float64 for float64 input)
  Tensor invstd;  // the same
};

struct Gradients {
  Tensor input, weight, bias;  // weight, bias: [channels] or [samples, channels], the statistics' dtype
};

// moments: of the input, where what made it took them: [groups, chunks, channels, 3], count, mean and squared deviations; on a
// CPU in float64.
Statistics statistics(const Tensor& input, const Running& running, bool training, double momentum, double eps, int64_t batch_groups,
                      const OptionalTensor& moments);

Tensor forward(const Tensor& input, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
               const OptionalTensor& bias, int64_t activation, double negative_slope);

// What both passes of backward start from, checked.
struct BackwardOf {
  Tensor x, dy;
  MemoryFormat format;
  Geometry of_statistics, g;
  Activation activation;

  BackwardOf(const char* op, const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
             const OptionalTensor& weight, const OptionalTensor& bias, int64_t number) {
    check_statistics(op, input, mean, invstd);
    check_same(op, "grad_output", grad_output, input);
    const Dense found = dense(input);
    x = found.tensor, format = found.format;
    dy = as_format(grad_output, format);
    of_statistics = geometry_of(op, x, format, mean.size(0));
    check_affine(op, weight, bias, of_statistics, input);
    g = parameter_geometry(of_statistics, is_per_sample(weight, bias));
    activation = activation_of(op, number);
  }
};

// Parts of the sums that a backward begins with.
inline void check_parts(const char* op, const Tensor& parts, const Geometry& g, ScalarType dtype) {
  FASTGAN_CHECK(op, parts.scalar_type() == dtype && parts.is_contiguous() && parts.dim() == 4 && parts.size(0) == g.groups &&
                    parts.size(2) == g.channels && parts.size(3) == 2,
                "the sums that are given have dtype ", dtype_name(parts.scalar_type()), " and shape ", shape_text(parts),
                "; they must be dense ", dtype_name(dtype), ", [", g.groups, ", parts, ", g.channels, ", 2].");
}

// Backward's two passes: sums over the whole batch, then element by element.
struct BackwardSums {
  Tensor weight, bias;  // the parameters' gradients
  Tensor coefficients;  // [2, sets of parameters, channels], the statistics' dtype: what the input's gradient loses is
                        // coefficients[0] + coefficients[1] * (x - mean)
  Tensor input;         // of the input's gradient, each channel's sum; undefined from a GPU's kernels
};
// parts: of the sums, where what made grad_output took them: [groups, parts, channels, 2], sum g and sum g (x - mean), on a CPU in
// float64, on a GPU in the statistics' dtype. An empty tensor is none.
BackwardSums backward_sums(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                           const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                           bool training, const OptionalTensor& parts = std::nullopt);
// Each channel's sum, in the statistics' dtype.
inline Tensor channel_sums(const Tensor& tensor) {
  const auto dtype = accumulate_type(tensor.scalar_type());
  const Tensor zero = zeros({1, tensor.size(1)}, dtype, tensor);
  return backward_sums(tensor, tensor, zero, zero, std::nullopt, std::nullopt, static_cast<int64_t>(Activation::none), 0.0, false).bias;
}

Tensor backward_input(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                      const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                      const Tensor& coefficients);

inline Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                          const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                          bool training) {
  const auto sums = backward_sums(grad_output, input, mean, invstd, weight, bias, activation, negative_slope, training);
  return {backward_input(grad_output, input, mean, invstd, weight, bias, activation, negative_slope, sums.coefficients), sums.weight,
          sums.bias};
}

// The activation without batch-norm: in place, and its gradient from the output (which is all that is kept of it).
void activate_(const Tensor& tensor, int64_t activation, double negative_slope);
Tensor activation_backward(const Tensor& grad_output, const Tensor& output, int64_t activation, double negative_slope);

}  // namespace fastgan::batch_norm_act

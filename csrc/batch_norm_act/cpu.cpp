#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/cpu.h"
#include "batch_norm_act/runs.h"
#include "common/counters.h"
#include "common/dispatch.h"

namespace fastgan::batch_norm_act {

FASTGAN_DECLARE_KERNELS(Kernels<float>, kernels_float)
FASTGAN_DECLARE_KERNELS(Kernels<double>, kernels_double)
FASTGAN_DECLARE_KERNELS(Kernels<BFloat16>, kernels_BFloat16)
FASTGAN_DECLARE_KERNELS(Kernels<Half>, kernels_Half)

template <>
const Kernels<float>& kernels<float>() { return FASTGAN_KERNELS_IN_USE(kernels_float); }
template <>
const Kernels<double>& kernels<double>() { return FASTGAN_KERNELS_IN_USE(kernels_double); }
template <>
const Kernels<BFloat16>& kernels<BFloat16>() { return FASTGAN_KERNELS_IN_USE(kernels_BFloat16); }
template <>
const Kernels<Half>& kernels<Half>() { return FASTGAN_KERNELS_IN_USE(kernels_Half); }

Tensor forward(const Tensor& input, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
               const OptionalTensor& bias, int64_t activation, double negative_slope) {
  constexpr const char* op = "batch_norm_act";
  check_statistics(op, input, mean, invstd);
  const auto [x, format] = dense(input);
  const Geometry of_statistics = geometry_of(op, x, format, mean.size(0));
  check_affine(op, weight, bias, of_statistics, input);
  const Geometry g = parameter_geometry(of_statistics, is_per_sample(weight, bias));
  const auto kind = static_cast<int>(activation_of(op, activation));
  const Tensor output = empty(sizes_of(x), x.scalar_type(), x, format);
  if (g.numel() == 0) return output;

  const Counted counted = counted_kernel("forward", g, input.scalar_type());
  dispatch_dtype(op, x.scalar_type(), [&, &x = x](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Runs runs(g);
    const Affine<A> affine(g, mean, invstd, weight, bias);
    const T* from = data<T>(x);
    T* to = mutable_data<T>(output);
    const auto kernel = kernels<T>().forward[kind];
    torch::stable::parallel_for(0, runs.size(), runs.grain(), [&](int64_t begin, int64_t end) {
      TiledAffine<A> parameters(runs, g, affine, negative_slope, 0);
      for (int64_t run = end; run-- > begin;) {  // backwards: the statistics' pass left the last runs in the cache
        parameters.select(run);
        const int64_t offset = runs.offset(run);
        kernel(from + offset, to + offset, runs.length(run) * runs.channels(), runs.period(), parameters.at);
      }
    });
  });
  return output;
}

void activate_(const Tensor& tensor, int64_t activation, double negative_slope) {
  const auto kind = activation_of("activation", activation);
  if (kind == Activation::none || tensor.numel() == 0) return;
  FASTGAN_CHECK("activation", tensor.is_contiguous() || is_channels_last(tensor), "only dense tensors are supported.");
  const Counted counted("activation", std::string("forward_") + dtype_name(tensor.scalar_type()) + "_" + kernel_isa_name());
  dispatch_dtype("activation", tensor.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    T* y = mutable_data<T>(tensor);
    const auto kernel = kernels<T>().activate[static_cast<int>(kind)];
    for_each_run(tensor.numel(), [&](int64_t begin, int64_t n) {
      kernel(y + begin, n, static_cast<Compute<T>>(negative_slope));
    });
  });
}

Tensor activation_backward(const Tensor& grad_output, const Tensor& output, int64_t activation,
                           double negative_slope) {
  const auto kind = activation_of("activation_backward", activation);
  check_same("activation_backward", "grad_output", grad_output, output);
  if (kind == Activation::none || output.numel() == 0) return grad_output;
  const auto [y, format] = dense(output);
  const Tensor dy = as_format(grad_output, format);
  const Tensor result = empty(sizes_of(y), y.scalar_type(), y, format);
  const Counted counted("activation", std::string("backward_") + dtype_name(output.scalar_type()) + "_" + kernel_isa_name());
  dispatch_dtype("activation_backward", output.scalar_type(), [&, &y = y](auto tag) {
    using T = decltype(tag);
    const auto kernel = kernels<T>().activation_backward[static_cast<int>(kind)];
    for_each_run(y.numel(), [&](int64_t begin, int64_t n) {
      kernel(data<T>(dy) + begin, data<T>(y) + begin, mutable_data<T>(result) + begin, n,
             static_cast<Compute<T>>(negative_slope));
    });
  });
  return result;
}

}  // namespace fastgan::batch_norm_act

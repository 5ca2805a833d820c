#include <algorithm>
#include <cmath>

#include "batch_norm_act/batch_norm_act.h"
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

namespace {

struct Moments {
  std::vector<double> mean, variance;  // [groups, channels]; the variance is biased
};

// Mean and sum of squared deviations of each of a run's channels: from those of the kernel's lanes, of `rows` elements
// each, and from the elements behind the whole rows.
template <class T, class A = Compute<T>>
void fold_moments(const Runs& runs, int64_t length, const T* x, const A* origin, const A* lane_mean, const A* lane_square,
                  double* mean, double* square) {
  const int64_t channels = runs.channels(), n = length * channels, period = runs.period(), rows = n / period;
  const int64_t lanes = rows > 0 ? period : 0, rest = n - rows * period;
  const T* tail = x + rows * period;
  const auto count = static_cast<double>(rows);
  const auto mean_of = [=](int64_t p) { return static_cast<double>(origin[p]) + static_cast<double>(lane_mean[p]); };
  const auto value_of = [=](int64_t p) { return static_cast<double>(to_compute(tail[p])); };
  std::fill_n(mean, channels, 0.0);
  add_lanes(runs, lanes, mean, [=](int64_t, int64_t p) { return count * mean_of(p); });
  add_lanes(runs, rest, mean, [=](int64_t, int64_t p) { return value_of(p); });
  for (int64_t c = 0; c < channels; ++c) mean[c] /= static_cast<double>(length);
  std::fill_n(square, channels, 0.0);
  add_lanes(runs, lanes, square, [=](int64_t c, int64_t p) {
    const double d = mean_of(p) - mean[c];
    return static_cast<double>(lane_square[p]) + count * d * d;
  });
  add_lanes(runs, rest, square, [=](int64_t c, int64_t p) {
    const double d = value_of(p) - mean[c];
    return d * d;
  });
}

// From those of chunks, in order.
Moments moments_of(const Tensor& chunks, const Geometry& g) {
  const int64_t count = chunks.size(1), channels = g.channels;
  Moments result{std::vector<double>(g.groups * channels), std::vector<double>(g.groups * channels)};
  for (int64_t group = 0; group < g.groups; ++group) {
    const auto* const all = static_cast<const ChannelMoments*>(chunks.const_data_ptr()) + group * count * channels;
    double *const mean = result.mean.data() + group * channels, *const variance = result.variance.data() + group * channels;
    for (int64_t at = 0; at < count * channels; ++at) mean[at % channels] += all[at].count * all[at].mean;
    const auto total = static_cast<double>(g.count());
    for (int64_t c = 0; c < channels; ++c) mean[c] /= total;
    for (int64_t at = 0; at < count * channels; ++at) {
      const double d = all[at].mean - mean[at % channels];
      variance[at % channels] += all[at].square + all[at].count * d * d;
    }
    for (int64_t c = 0; c < channels; ++c) variance[c] /= total;
  }
  return result;
}

template <class T>
Moments moments(const Tensor& input, const Geometry& g) {
  using A = Compute<T>;
  const Runs runs(g);
  const int64_t channels = runs.channels(), period = runs.period();
  std::vector<double> means(runs.size() * channels), squares(runs.size() * channels);
  const T* x = data<T>(input);
  const auto& kernel = kernels<T>();
  torch::stable::parallel_for(0, runs.size(), runs.grain(), [&](int64_t begin, int64_t end) {
    std::vector<A> lanes(3 * period);
    A *origin = lanes.data(), *mean = origin + period, *square = mean + period;
    for (int64_t run = begin; run < end; ++run) {
      const T* from = x + runs.offset(run);
      const int64_t length = runs.length(run), at = run * channels;
      kernel.moments(from, length * channels, period, origin, mean, square);
      fold_moments(runs, length, from, origin, mean, square, means.data() + at, squares.data() + at);
    }
  });

  Moments result{std::vector<double>(g.groups * g.channels), std::vector<double>(g.groups * g.channels)};
  torch::stable::parallel_for(0, g.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t group = 0; group < g.groups; ++group) {
      double* mean = result.mean.data() + group * g.channels;
      double* variance = result.variance.data() + group * g.channels;
      const auto count = static_cast<double>(g.count());
      for_each_partial(runs, g, group, [&](int64_t at, int64_t length) {
        for (int64_t c = begin; c < end; ++c) mean[c] += static_cast<double>(length) * means[at + c];
      });
      for (int64_t c = begin; c < end; ++c) mean[c] /= count;
      for_each_partial(runs, g, group, [&](int64_t at, int64_t length) {
        for (int64_t c = begin; c < end; ++c) {
          const double d = means[at + c] - mean[c];
          variance[c] += squares[at + c] + static_cast<double>(length) * d * d;
        }
      });
      for (int64_t c = begin; c < end; ++c) variance[c] /= count;
    }
  });
  return result;
}

// Running statistics as the groups' forwards one after another would leave them; the variance they keep is unbiased.
void update_running(const char* op, const Tensor& running, const std::vector<double>& batch, int64_t groups,
                    double momentum, double correction) {
  const int64_t channels = running.size(0);
  dispatch_dtype(op, running.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    T* values = mutable_data<T>(running);
    const int64_t stride = running.stride(0);
    for (int64_t c = 0; c < channels; ++c) {
      double value = to_compute(values[c * stride]);
      for (int64_t group = 0; group < groups; ++group) {
        value += momentum * (batch[group * channels + c] * correction - value);
        values[c * stride] = from_compute<T>(static_cast<Compute<T>>(value));
        value = to_compute(values[c * stride]);
      }
    }
  });
}

template <class A>
void write(const Tensor& tensor, const std::vector<double>& values) {
  std::transform(values.begin(), values.end(), mutable_data<A>(tensor), [](double v) { return static_cast<A>(v); });
}

// Of each set of parameters: sum g and sum g (x - mean).
struct Totals {
  std::vector<double> sum, product;  // [sets, channels]
  explicit Totals(const Geometry& g) : sum(g.groups * g.channels), product(g.groups * g.channels) {}
};

void check_parts(const char* op, const Tensor& parts, const Geometry& g) {
  FASTGAN_CHECK(op, parts.scalar_type() == ScalarType::Double && parts.is_contiguous() && parts.dim() == 4 &&
                    parts.size(0) == g.groups && parts.size(2) == g.channels && parts.size(3) == 2,
                "the sums that are given have dtype ", dtype_name(parts.scalar_type()), " and shape ", shape_text(parts),
                "; they must be dense float64, [", g.groups, ", parts, ", g.channels, ", 2].");
}

// From those of parts, in order.
Totals totals_of(const Tensor& parts, const Geometry& g) {
  Totals totals(g);
  const auto* at = static_cast<const ChannelSums*>(parts.const_data_ptr());
  for (int64_t set = 0; set < g.groups; ++set) {
    for (int64_t part = 0; part < parts.size(1); ++part, at += g.channels) {
      for (int64_t c = 0; c < g.channels; ++c) {
        totals.sum[set * g.channels + c] += at[c].gradient;
        totals.product[set * g.channels + c] += at[c].product;
      }
    }
  }
  return totals;
}

template <class T, class A = Compute<T>>
Totals totals(const BackwardOf& of, const Affine<A>& affine, double negative_slope) {
  const Geometry& g = of.g;
  const Runs runs(g);
  const T *const grad = data<T>(of.dy), *const from = data<T>(of.x);
  const int64_t channels = runs.channels(), period = runs.period();
  std::vector<double> sums(runs.size() * channels), products(runs.size() * channels);
  torch::stable::parallel_for(0, runs.size(), runs.grain(), [&](int64_t begin, int64_t end) {
    TiledAffine<A> parameters(runs, g, affine, negative_slope, 2);
    const auto kernel = kernels<T>().backward_sums[static_cast<int>(of.activation)];
    for (int64_t run = begin; run < end; ++run) {
      parameters.select(run);
      A *const sum = parameters.tiled.raw(3), *const product = parameters.tiled.raw(4);
      const int64_t offset = runs.offset(run);
      kernel(grad + offset, from + offset, runs.length(run) * channels, period, parameters.at, sum, product);
      fold(runs, sum, sums.data() + run * channels);
      fold(runs, product, products.data() + run * channels);
    }
  });
  Totals totals(g);
  for (int64_t set = 0; set < g.groups; ++set) {
    for_each_partial(runs, g, set, [&](int64_t at, int64_t) {
      for (int64_t c = 0; c < g.channels; ++c) {
        totals.sum[set * g.channels + c] += sums[at + c];
        totals.product[set * g.channels + c] += products[at + c];
      }
    });
  }
  return totals;
}

// What the gradient loses where the statistics are the batch's own, offset + slope * (x - mean): from the two sums of
// each set of parameters, one value for all sets that share statistics.
template <class A>
void mean_terms(const Affine<A>& affine, const Geometry& g, const Geometry& of_statistics, const std::vector<double>& sum,
                const std::vector<double>& product, std::vector<A>& offsets, std::vector<A>& slopes) {
  const int64_t sets = g.groups / of_statistics.groups, channels = g.channels;
  const auto count = static_cast<double>(of_statistics.count());
  for (int64_t group = 0; group < of_statistics.groups; ++group) {
    const int64_t begin = group * sets * channels, end = begin + sets * channels;
    std::vector<double> offset(channels), slope(channels);
    for (int64_t set = begin; set < end; set += channels) {
      for (int64_t c = 0; c < channels; ++c) {
        const double share = static_cast<double>(affine.scale[set + c]) / count;
        const auto inverse = static_cast<double>(affine.invstd[set + c]);
        offset[c] += share * sum[set + c];
        slope[c] += share * product[set + c] * inverse * inverse;
      }
    }
    for (int64_t set = begin; set < end; set += channels) {
      for (int64_t c = 0; c < channels; ++c) {
        offsets[set + c] = static_cast<A>(offset[c]);
        slopes[set + c] = static_cast<A>(slope[c]);
      }
    }
  }
}

std::string kernel_name(const char* pass, const Geometry& g, ScalarType dtype) {
  return std::string(pass) + (g.channels_last ? "_channels_last_" : "_contiguous_") + dtype_name(dtype) + "_" +
         kernel_isa_name();
}

Counted counted_kernel(const char* pass, const Geometry& g, ScalarType dtype) {
  return {"batch_norm_act", kernel_name(pass, g, dtype)};
}

}  // namespace

template <class T>
void add_row_moments(const T* rows, int64_t count, int64_t channels, ChannelMoments* result) {
  using A = Compute<T>;
  const Runs runs(Geometry{1, 1, channels, count, true});
  std::vector<A> lanes(3 * runs.period());
  std::vector<double> means(channels), squares(channels);
  A *const origin = lanes.data(), *const mean = origin + runs.period(), *const square = mean + runs.period();
  for (int64_t run = 0; run < runs.size(); ++run) {
    const T* const from = rows + runs.offset(run);
    const int64_t length = runs.length(run);
    kernels<T>().moments(from, length * channels, runs.period(), origin, mean, square);
    fold_moments(runs, length, from, origin, mean, square, means.data(), squares.data());
    for (int64_t c = 0; c < channels; ++c) result[c].add({static_cast<double>(length), means[c], squares[c]});
  }
}
template void add_row_moments<float>(const float*, int64_t, int64_t, ChannelMoments*);
template void add_row_moments<double>(const double*, int64_t, int64_t, ChannelMoments*);
template void add_row_moments<BFloat16>(const BFloat16*, int64_t, int64_t, ChannelMoments*);
template void add_row_moments<Half>(const Half*, int64_t, int64_t, ChannelMoments*);

template <class T>
RowSums<T>::RowSums(const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight, const OptionalTensor& bias,
                    int64_t activation, double negative_slope)
    : channels_(mean.size(1)),
      affine_(Geometry{mean.size(0), 1, mean.size(1), 1, true}, mean, invstd, weight, bias),
      negative_slope_(static_cast<A>(negative_slope)),
      kernel_(kernels<T>().backward_sums[activation]) {}

template <class T>
void RowSums<T>::add(const T* grad, const T* rows, int64_t count, int64_t group, ChannelSums* result) const {
  const Runs runs(Geometry{1, 1, channels_, count, true});
  Tiled<A> tiled(runs, 5);
  const int64_t at = group * channels_;
  const Parameters<A> parameters{tiled.fill(0, affine_.mean.data() + at), tiled.fill(1, affine_.scale.data() + at),
                                 tiled.fill(2, affine_.shift.data() + at), negative_slope_};
  A *const sum = tiled.raw(3), *const product = tiled.raw(4);
  std::vector<double> sums(channels_), products(channels_);
  for (int64_t run = 0; run < runs.size(); ++run) {
    const int64_t offset = runs.offset(run);
    kernel_(grad + offset, rows + offset, runs.length(run) * channels_, runs.period(), parameters, sum, product);
    fold(runs, sum, sums.data());
    fold(runs, product, products.data());
    for (int64_t c = 0; c < channels_; ++c) result[c].gradient += sums[c], result[c].product += products[c];
  }
}
template class RowSums<float>;
template class RowSums<double>;
template class RowSums<BFloat16>;
template class RowSums<Half>;

Statistics statistics(const Tensor& input, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                      bool training, double momentum, double eps, int64_t batch_groups, const OptionalTensor& chunks) {
  constexpr const char* op = "batch_norm_act";
  const auto [x, format] = dense(input);
  const Geometry g = geometry_of(op, x, format, batch_groups);
  check_statistics_arguments(op, input, g, running_mean, running_var, training);
  const auto dtype = accumulate_type(input.scalar_type());
  Statistics result{empty({g.groups, g.channels}, dtype, input), empty({g.groups, g.channels}, dtype, input)};

  Moments batch;
  if (training) {
    if (g.numel() == 0) {  // an empty batch: nothing to take statistics of, and nothing that will use them
      batch = {std::vector<double>(g.groups * g.channels, 0.0), std::vector<double>(g.groups * g.channels, 1.0)};
    } else {
      const Counted counted = counted_kernel("statistics", g, input.scalar_type());
      batch = chunks ? moments_of(*chunks, g)
                     : dispatch_dtype(op, input.scalar_type(), [&, &x = x](auto tag) { return moments<decltype(tag)>(x, g); });
      if (running_mean) {
        const auto n = static_cast<double>(g.count());
        update_running(op, *running_mean, batch.mean, g.groups, momentum, 1.0);
        update_running(op, *running_var, batch.variance, g.groups, momentum, n / (n - 1));
      }
    }
  } else {
    const auto mean = values<double>(running_mean, g.channels, 0.0);
    const auto variance = values<double>(running_var, g.channels, 1.0);
    for (int64_t group = 0; group < g.groups; ++group) {
      batch.mean.insert(batch.mean.end(), mean.begin(), mean.end());
      batch.variance.insert(batch.variance.end(), variance.begin(), variance.end());
    }
  }
  for (double& v : batch.variance) v = 1.0 / std::sqrt(v + eps);
  dispatch_dtype(op, dtype, [&](auto tag) {
    using A = Compute<decltype(tag)>;
    write<A>(result.mean, batch.mean);
    write<A>(result.invstd, batch.variance);
  });
  return result;
}

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

BackwardSums backward_sums(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                           const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                           bool training, const OptionalTensor& given) {
  constexpr const char* op = "batch_norm_act_backward";
  const BackwardOf of(op, grad_output, input, mean, invstd, weight, bias, activation);
  const Geometry& g = of.g;
  const OptionalTensor parts = given && given->numel() > 0 ? given : std::nullopt;
  if (parts) check_parts(op, *parts, g);
  const bool per_sample = is_per_sample(weight, bias);
  const auto dtype = accumulate_type(input.scalar_type());
  const auto sizes = per_sample ? std::vector{g.groups, g.channels} : std::vector{g.channels};
  const std::vector<int64_t> of_each{2, g.groups, g.channels};
  if (g.numel() == 0) return {zeros(sizes, dtype, input), zeros(sizes, dtype, input), zeros(of_each, dtype, input)};

  const BackwardSums result{empty(sizes, dtype, input), empty(sizes, dtype, input), empty(of_each, dtype, input)};
  const Counted counted = counted_kernel("backward_sums", g, input.scalar_type());
  dispatch_dtype(op, of.x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Affine<A> affine(g, mean, invstd, weight, bias);
    // Totals for each set of parameters, and of those the parameters' gradients.
    const auto [sum, product] = parts ? totals_of(*parts, g) : totals<T>(of, affine, negative_slope);
    std::vector<double> weight_sum(result.weight.numel()), bias_sum(result.bias.numel());
    for (int64_t set = 0; set < g.groups; ++set) {
      const int64_t row = set * g.channels, parameters = per_sample ? row : 0;
      for (int64_t c = 0; c < g.channels; ++c) {
        weight_sum[parameters + c] += product[row + c] * static_cast<double>(affine.invstd[row + c]);
        bias_sum[parameters + c] += sum[row + c];
      }
    }
    write<A>(result.weight, weight_sum);
    write<A>(result.bias, bias_sum);

    std::vector<A> offsets(g.groups * g.channels), slopes(g.groups * g.channels);
    if (training) mean_terms(affine, g, of.of_statistics, sum, product, offsets, slopes);
    A* const to = mutable_data<A>(result.coefficients);
    std::copy(slopes.begin(), slopes.end(), std::copy(offsets.begin(), offsets.end(), to));
  });
  return result;
}

Tensor backward_input(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                      const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                      const Tensor& coefficients) {
  constexpr const char* op = "batch_norm_act_backward";
  const BackwardOf of(op, grad_output, input, mean, invstd, weight, bias, activation);
  const Geometry& g = of.g;
  const Tensor result = empty(sizes_of(of.x), of.x.scalar_type(), of.x, of.format);
  if (g.numel() == 0) return result;
  const Counted counted = counted_kernel("backward", g, input.scalar_type());
  dispatch_dtype(op, of.x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Runs runs(g);
    const Affine<A> affine(g, mean, invstd, weight, bias);
    const T *const grad = data<T>(of.dy), *const from = data<T>(of.x);
    T* const to = mutable_data<T>(result);
    const A *const offsets = data<A>(coefficients), *const slopes = offsets + g.groups * g.channels;
    torch::stable::parallel_for(0, runs.size(), runs.grain(), [&](int64_t begin, int64_t end) {
      TiledAffine<A> parameters(runs, g, affine, negative_slope, 2);
      const auto kernel = kernels<T>().backward[static_cast<int>(of.activation)];
      const A *offset_of = nullptr, *slope_of = nullptr;
      for (int64_t run = end; run-- > begin;) {  // backwards: the sums' pass left the last runs in the cache
        if (parameters.select(run)) {
          const int64_t index = runs.group(run) * g.channels + runs.first_channel(run);
          offset_of = parameters.tiled.fill(3, offsets + index);
          slope_of = parameters.tiled.fill(4, slopes + index);
        }
        const int64_t offset = runs.offset(run);
        kernel(grad + offset, from + offset, to + offset, runs.length(run) * runs.channels(), runs.period(), parameters.at, offset_of,
               slope_of);
      }
    });
  });
  return result;
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

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("_batch_norm_stats", TORCH_BOX(&statistics_op));
  m.impl("_batch_norm_act", TORCH_BOX(&forward));
  m.impl("_batch_norm_act_backward", TORCH_BOX(&backward_op));
}

}  // namespace fastgan::batch_norm_act

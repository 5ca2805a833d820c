// Backward's two passes, by the CPU.
#include <algorithm>

#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/channel_sums.h"
#include "batch_norm_act/cpu.h"
#include "batch_norm_act/runs.h"
#include "common/dispatch.h"

namespace fastgan::batch_norm_act {
namespace {

// Of each set of parameters: sum g and sum g (x - mean).
struct Totals {
  std::vector<double> sum, product;  // [sets, channels]
  explicit Totals(const Geometry& g) : sum(g.groups * g.channels), product(g.groups * g.channels) {}
};

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

}  // namespace

template <class T>
RowSums<T>::RowSums(const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight, const OptionalTensor& bias,
                    int64_t activation, double negative_slope)
    : channels_(mean.size(1)), negative_slope_(static_cast<A>(negative_slope)), kernel_(kernels<T>().backward_sums[activation]) {
  const Geometry g{mean.size(0), 1, channels_, 1, true};
  const Affine<A> affine(g, mean, invstd, weight, bias);
  period_ = Runs(g).period();
  for (int64_t group = 0; group < g.groups; ++group) {
    for (const auto* values : {&affine.mean, &affine.scale, &affine.shift}) {
      for (int64_t p = 0; p < period_; ++p) values_.push_back((*values)[group * channels_ + p % channels_]);
    }
  }
}

template <class T>
void RowSums<T>::add(const T* grad, const T* rows, int64_t count, int64_t group, ChannelSums* result) const {
  const Runs runs(Geometry{1, 1, channels_, count, true});
  const A* const at = values_.data() + group * 3 * period_;
  const Parameters<A> parameters{at, at + period_, at + 2 * period_, negative_slope_};
  std::vector<A> lanes(2 * period_);
  std::vector<double> sums(2 * channels_);
  A *const sum = lanes.data(), *const product = sum + period_;
  for (int64_t run = 0; run < runs.size(); ++run) {
    const int64_t offset = runs.offset(run);
    kernel_(grad + offset, rows + offset, runs.length(run) * channels_, period_, parameters, sum, product);
    fold(runs, sum, sums.data());
    fold(runs, product, sums.data() + channels_);
    for (int64_t c = 0; c < channels_; ++c) result[c].gradient += sums[c], result[c].product += sums[channels_ + c];
  }
}
template class RowSums<float>;
template class RowSums<double>;
template class RowSums<BFloat16>;
template class RowSums<Half>;

BackwardSums backward_sums(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                           const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                           bool training, const OptionalTensor& given) {
  constexpr const char* op = "batch_norm_act_backward";
  const BackwardOf of(op, grad_output, input, mean, invstd, weight, bias, activation);
  const Geometry& g = of.g;
  const OptionalTensor parts = given && given->numel() > 0 ? given : std::nullopt;
  if (parts) check_parts(op, *parts, g, ScalarType::Double);
  const bool per_sample = is_per_sample(weight, bias);
  const auto dtype = accumulate_type(input.scalar_type());
  const auto sizes = per_sample ? std::vector{g.groups, g.channels} : std::vector{g.channels};
  const std::vector<int64_t> of_each{2, g.groups, g.channels};
  if (g.numel() == 0) {
    return {zeros(sizes, dtype, input), zeros(sizes, dtype, input), zeros(of_each, dtype, input), zeros({g.channels}, dtype, input)};
  }

  const BackwardSums result{empty(sizes, dtype, input), empty(sizes, dtype, input), empty(of_each, dtype, input),
                            empty({g.channels}, dtype, input)};
  const Counted counted = counted_kernel(parts ? "backward_sums_of_parts" : "backward_sums", g, input.scalar_type());
  dispatch_dtype(op, of.x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Affine<A> affine(g, mean, invstd, weight, bias);
    // Totals for each set of parameters, and of those the parameters' gradients.
    const auto [sum, product] = parts ? totals_of(*parts, g) : totals<T>(of, affine, negative_slope);
    std::vector<double> weight_sum(result.weight.numel()), bias_sum(result.bias.numel()), input_sum(g.channels);
    for (int64_t set = 0; set < g.groups; ++set) {
      const int64_t row = set * g.channels, parameters = per_sample ? row : 0;
      for (int64_t c = 0; c < g.channels; ++c) {
        weight_sum[parameters + c] += product[row + c] * static_cast<double>(affine.invstd[row + c]);
        bias_sum[parameters + c] += sum[row + c];
        const double scaled = static_cast<double>(affine.scale[row + c]) * sum[row + c];
        input_sum[c] += training ? scaled - scaled : scaled;  // of the batch's own statistics it is 0, or NaN
      }
    }
    write_values<A>(result.weight, weight_sum);
    write_values<A>(result.bias, bias_sum);
    write_values<A>(result.input, input_sum);

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
      for (int64_t run = end; run-- > begin;) {  // backwards: the sums' pass, where there was one, left the last runs in the cache
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

}  // namespace fastgan::batch_norm_act

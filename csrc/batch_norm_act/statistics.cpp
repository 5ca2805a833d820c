// Mean and variance of each channel, by the CPU.
#include <algorithm>
#include <cmath>

#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/channel_sums.h"
#include "batch_norm_act/cpu.h"
#include "batch_norm_act/runs.h"
#include "common/dispatch.h"

namespace fastgan::batch_norm_act {
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

Statistics statistics(const Tensor& input, const Running& running, bool training, double momentum, double eps, int64_t batch_groups,
                      const OptionalTensor& chunks) {
  constexpr const char* op = "batch_norm_act";
  const auto [x, format] = dense(input);
  const Geometry g = geometry_of(op, x, format, batch_groups);
  check_statistics_arguments(op, input, g, running, training);
  const auto dtype = accumulate_type(input.scalar_type());
  Statistics result{empty({g.groups, g.channels}, dtype, input), empty({g.groups, g.channels}, dtype, input)};

  Moments batch;
  if (training) {
    if (g.numel() == 0) {  // an empty batch: nothing to take statistics of, and nothing that will use them
      batch = {std::vector<double>(g.groups * g.channels, 0.0), std::vector<double>(g.groups * g.channels, 1.0)};
    } else {
      const Counted counted = counted_kernel(chunks ? "statistics_of_moments" : "statistics", g, input.scalar_type());
      batch = chunks ? moments_of(*chunks, g)
                     : dispatch_dtype(op, input.scalar_type(), [&, &x = x](auto tag) { return moments<decltype(tag)>(x, g); });
      if (running.mean) {
        const auto n = static_cast<double>(g.count());
        update_running(op, *running.mean, batch.mean, g.groups, momentum, 1.0);
        update_running(op, *running.var, batch.variance, g.groups, momentum, n / (n - 1));
      }
    }
    if (running.batches) *mutable_data<int64_t>(*running.batches) += g.groups;
  } else {
    const auto mean = values<double>(running.mean, g.channels, 0.0);
    const auto variance = values<double>(running.var, g.channels, 1.0);
    for (int64_t group = 0; group < g.groups; ++group) {
      batch.mean.insert(batch.mean.end(), mean.begin(), mean.end());
      batch.variance.insert(batch.variance.end(), variance.begin(), variance.end());
    }
  }
  for (double& v : batch.variance) v = 1.0 / std::sqrt(v + eps);
  dispatch_dtype(op, dtype, [&](auto tag) {
    using A = Compute<decltype(tag)>;
    write_values<A>(result.mean, batch.mean);
    write_values<A>(result.invstd, batch.variance);
  });
  return result;
}

}  // namespace fastgan::batch_norm_act

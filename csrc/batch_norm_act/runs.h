// How batch_norm_act's CPU code cuts a tensor into contiguous runs, and lays per-channel values out along one.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/kernels.h"
#include "common/dispatch.h"

namespace fastgan::batch_norm_act {

constexpr int64_t kRunElements = 32 * 1024;  // what one kernel call works on: well inside a second-level cache

// The tensor cut into contiguous runs, each inside one group: by shape alone, never by thread count, so that every sum is
// formed in one order. Along a run the channels repeat with a period:
//   rows     channels-last: c0 c1 c2 ... c0 c1 c2 ...
//   samples  contiguous, small planes: c0 c0 c0 c1 c1 c1 ... c0 c0 c0 ...
//   planes   contiguous, large planes: one channel
class Runs {
 public:
  explicit Runs(const Geometry& g) : g_(g) {
    constexpr int64_t kSmallPlane = 256;  // below, a plane's own parameters cost more than its elements
    if (!g.channels_last && g.inner >= kSmallPlane) {
      channels_ = 1;
      per_group_ = g.outer * g.channels;
      period_ = repeat_ = kPeriod;
      return;
    }
    channels_ = g.channels;
    repeat_ = g.channels_last ? 1 : g.inner;
    const int64_t row = width(), rows = g.count() / std::max<int64_t>(repeat_, 1);
    period_ = row / std::gcd(row, int64_t{kPeriod}) * kPeriod;
    const int64_t step = row ? period_ / row : 1;  // whole periods but for a group's last run
    rows_ = std::max(step, kRunElements / std::max<int64_t>(row, 1) / step * step);
    per_group_ = (rows + rows_ - 1) / rows_;
  }

  int64_t size() const { return g_.groups * per_group_; }
  int64_t per_group() const { return per_group_; }
  int64_t period() const { return period_; }
  int64_t group(int64_t run) const { return run / per_group_; }
  int64_t channels() const { return channels_; }  // that a run holds
  int64_t repeat() const { return repeat_; }      // neighbours of one channel
  int64_t width() const { return channels_ * repeat_; }
  int64_t first_channel(int64_t run) const { return is_planes() ? run % g_.channels : 0; }
  int64_t offset(int64_t run) const {
    if (is_planes()) return run * g_.inner;
    return group(run) * g_.count() * g_.channels + run % per_group_ * rows_ * width();
  }
  int64_t length(int64_t run) const {  // elements of one channel
    if (is_planes()) return g_.inner;
    return std::min(rows_ * repeat_, g_.count() - run % per_group_ * rows_ * repeat_);
  }
  int64_t grain() const { return std::max<int64_t>(1, kRunElements / std::max<int64_t>(length(0) * channels_, 1)); }
  // Runs of one key have the same parameters.
  int64_t key(int64_t run) const { return is_planes() ? group(run) * g_.channels + first_channel(run) : group(run); }

 private:
  bool is_planes() const { return rows_ == 0; }

  Geometry g_;
  int64_t channels_ = 0, repeat_ = 1, rows_ = 0, per_group_ = 0, period_ = 0;
};

// Per-channel values laid out along the period of a run; refilled only where a run's parameters are others.
template <class A>
class Tiled {
 public:
  Tiled(const Runs& runs, int64_t arrays) : runs_(runs), buffer_(arrays * runs.period()) {}

  // Array `index` from the values of the run's channels.
  const A* fill(int64_t index, const A* values) {
    A* const to = raw(index);
    A* at = to;
    for (; at < to + runs_.width(); at += runs_.repeat()) std::fill_n(at, runs_.repeat(), *values++);
    for (; at < to + runs_.period(); ++at) *at = at[-runs_.width()];
    return to;
  }
  A* raw(int64_t index) { return buffer_.data() + index * runs_.period(); }

  bool changed(int64_t run) {
    const int64_t key = runs_.key(run);
    return std::exchange(filled_for_, key) != key;
  }

 private:
  const Runs& runs_;
  std::vector<A> buffer_;
  int64_t filled_for_ = -1;
};

// mean, scale and shift of every set of parameters and channel, in the compute type: [sets, channels].
template <class A>
struct Affine {
  std::vector<A> mean, invstd, scale, shift;

  // `g` has a group for each set; the statistics may be shared by neighbouring ones.
  Affine(const Geometry& g, const Tensor& means, const Tensor& invstds, const OptionalTensor& weight,
         const OptionalTensor& bias)
      : mean(repeated(values<A>(means, means.numel(), A(0)), g.channels, g.groups / means.size(0))),
        invstd(repeated(values<A>(invstds, means.numel(), A(1)), g.channels, g.groups / means.size(0))),
        scale(each_set(g, weight, A(1))),
        shift(each_set(g, bias, A(0))) {
    for (size_t i = 0; i < scale.size(); ++i) scale[i] *= invstd[i];
  }

 private:
  // Every row of `channels` values so many times.
  static std::vector<A> repeated(const std::vector<A>& rows, int64_t channels, int64_t times) {
    std::vector<A> result;
    result.reserve(rows.size() * times);
    for (auto row = rows.begin(); row != rows.end(); row += channels) {
      for (int64_t i = 0; i < times; ++i) result.insert(result.end(), row, row + channels);
    }
    return result;
  }
  static std::vector<A> each_set(const Geometry& g, const OptionalTensor& tensor, A fallback) {
    const bool has_each = tensor && tensor->dim() == 2;
    const auto given = values<A>(tensor, has_each ? g.groups * g.channels : g.channels, fallback);
    return has_each ? given : repeated(given, g.channels, g.groups);
  }
};

template <class A>
class TiledAffine {
 public:
  TiledAffine(const Runs& runs, const Geometry& g, const Affine<A>& affine, double negative_slope, int64_t extra)
      : channels_(g.channels), affine_(affine), tiled(runs, 3 + extra), runs_(runs) {
    at.negative_slope = static_cast<A>(negative_slope);
  }
  // True where the caller has to refill its extra arrays.
  bool select(int64_t run) {
    if (!tiled.changed(run)) return false;
    const int64_t index = runs_.group(run) * channels_ + runs_.first_channel(run);
    at.mean = tiled.fill(0, affine_.mean.data() + index);
    at.scale = tiled.fill(1, affine_.scale.data() + index);
    at.shift = tiled.fill(2, affine_.shift.data() + index);
    return true;
  }

 private:
  int64_t channels_;
  const Affine<A>& affine_;

 public:
  Parameters<A> at{};
  Tiled<A> tiled;

 private:
  const Runs& runs_;
};

// Adds term(channel of the run, lane) to the channel's sum, for the first n lanes of a period.
template <class Term>
void add_lanes(const Runs& runs, int64_t n, double* sums, const Term& term) {
  const int64_t channels = runs.channels(), repeat = runs.repeat(), width = runs.width();
  for (int64_t row = 0; row < n; row += width) {
    if (repeat == 1) {
      for (int64_t c = 0; c < channels; ++c) sums[c] += term(c, row + c);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t begin = row + c * repeat, end = std::min(n, begin + repeat);
      double parts[4] = {};  // one would have to wait for each addition
      int64_t p = begin;
      for (; p + 4 <= end; p += 4) {
        for (int i = 0; i < 4; ++i) parts[i] += term(c, p + i);
      }
      for (; p < end; ++p) parts[0] += term(c, p);
      sums[c] += (parts[0] + parts[1]) + (parts[2] + parts[3]);
    }
  }
}

// Adds the lanes of a period up to the channels of the run.
template <class A>
void fold(const Runs& runs, const A* lanes, double* sums) {
  std::fill_n(sums, runs.channels(), 0.0);
  add_lanes(runs, runs.period(), sums, [=](int64_t, int64_t p) { return static_cast<double>(lanes[p]); });
}

// Visits the partial results that a group's are made of, in order: where a row of them, one for each channel, begins, and
// the number of elements in each.
template <class Visit>
void for_each_partial(const Runs& runs, const Geometry& g, int64_t group, const Visit& visit) {
  const int64_t step = g.channels / runs.channels();  // runs a row
  const int64_t first = group * runs.per_group(), end = first + runs.per_group();
  for (int64_t run = first; run < end; run += step) visit(run * runs.channels(), runs.length(run));
}

// body(first element, elements) over n elements that have no channels.
template <class Body>
void for_each_run(int64_t n, const Body& body) {
  torch::stable::parallel_for(0, (n + kRunElements - 1) / kRunElements, 1, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      body(run * kRunElements, std::min(kRunElements, n - run * kRunElements));
    }
  });
}

}  // namespace fastgan::batch_norm_act

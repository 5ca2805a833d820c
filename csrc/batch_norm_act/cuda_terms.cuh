// What the kernels of batch_norm_act.h's formulas read, and how their threads lie: cuda_sums.cuh, cuda_elementwise.cuh.
#pragma once

#include "common/device.cuh"
#include "common/moments.cuh"

namespace fastgan::batch_norm_act {
namespace {

using namespace fastgan::cuda;

// Where an element stands. Channels-last: [groups][count][channels]; contiguous: [groups][outer][channels][inner].
struct Layout {
  int64_t groups, outer, channels, inner;
  bool channels_last;

  FASTGAN_HOST_DEVICE int64_t count() const { return outer * inner; }
  FASTGAN_HOST_DEVICE int64_t numel() const { return groups * outer * channels * inner; }
  // Element e of a group's channel.
  FASTGAN_HOST_DEVICE int64_t offset(int64_t group, int64_t channel, int64_t e) const {
    if (channels_last) return (group * count() + e) * channels + channel;
    return ((group * outer + e / inner) * channels + channel) * inner + e % inner;
  }
  // How many neighbours share one channel's row or run of channels, so that a pack never straddles.
  FASTGAN_HOST_DEVICE int64_t run() const { return channels_last ? channels : inner; }
};

template <class A>
struct Parameters {
  const A* mean;    // [groups, channels]
  const A* invstd;  // [groups, channels]
  const A* weight;  // [channels], or, where each group has its own, [groups, channels]; or null
  const A* bias;    // the same
  bool of_groups;
  A negative_slope;

  __device__ A scale(int64_t index, int64_t channel) const {
    return weight ? weight[of_groups ? index : channel] * invstd[index] : invstd[index];
  }
  __device__ A shift(int64_t index, int64_t channel) const { return bias ? bias[of_groups ? index : channel] : A(0); }
};

// A term reads packs of elements, and has what its elements take of their channel. A kernel's threads stay on their channels, whose
// parameters they read once, and read kAhead packs before they work on the first.

template <class T>
struct Elements {
  using Element = T;
  using A = Compute<T>;
  static constexpr int kAhead = 4;
  const T* x;
  Layout at;

  template <int width>
  using Values = Pack<T, width>;
  template <int width>
  __device__ Values<width> read(int64_t i) const {
    return *reinterpret_cast<const Pack<T, width>*>(x + i);
  }
};

// What takes a large mean away before anything is rounded: of three of a channel's values the middle one, which no single outlier is.
template <class T>
__device__ inline Compute<T> pivot_of(const T* x, const Layout& at, int64_t group, int64_t c) {
  const auto value = [&](int64_t e) { return to_compute(x[at.offset(group, c, e)]); };
  const auto first = value(0), middle = value(at.count() / 2), last = value(at.count() - 1);
  const auto low = first < middle ? first : middle, high = first < middle ? middle : first;
  return last < low ? low : last < high ? last : high;
}

// Moments of x - pivot.
template <class T>
struct MomentsTerm : Elements<T> {
  using A = Compute<T>;
  using State = Moments<A>;

  struct Channel {
    A pivot;
  };
  __device__ Channel channel(int64_t group, int64_t c) const { return {pivot_of(this->x, this->at, group, c)}; }
  template <int width>
  __device__ void add(State& to, const Channel& of, const Pack<T, width>& values, int lane, A share) const {
    to.add(to_compute(values.values[lane]) - of.pivot, share);
  }
};

template <class T, Activation kind>
struct ForwardTerm : Elements<T> {
  using A = Compute<T>;
  T* y;
  Parameters<A> p;

  struct Channel {
    A mean, scale, shift;
  };
  __device__ Channel channel(int64_t group, int64_t c) const {
    const int64_t index = group * this->at.channels + c;
    return {p.mean[index], p.scale(index, c), p.shift(index, c)};
  }
  template <int width>
  __device__ T made(const Channel& of, const Pack<T, width>& values, int lane) const {
    return from_compute<T>(activate<kind>((to_compute(values.values[lane]) - of.mean) * of.scale + of.shift, p.negative_slope));
  }
  __device__ T* output() const { return y; }
};

// What both passes of a backward read: the gradient g before the activation, and d = x - mean.
template <class T, Activation kind>
struct BeforeActivation {
  using Element = T;
  using A = Compute<T>;
  static constexpr int kAhead = 2;
  const T *grad, *x;
  Parameters<A> p;
  Layout at;

  struct Channel {
    A mean, scale, shift;
  };
  template <int width>
  struct Values {
    Pack<T, width> grad, x;
  };
  struct Pair {
    A g, d;
  };
  __device__ Channel channel(int64_t group, int64_t c) const {
    const int64_t index = group * at.channels + c;
    return {p.mean[index], p.scale(index, c), p.shift(index, c)};
  }
  template <int width>
  __device__ Values<width> read(int64_t i) const {
    return {*reinterpret_cast<const Pack<T, width>*>(grad + i), *reinterpret_cast<const Pack<T, width>*>(x + i)};
  }
  template <int width>
  __device__ Pair pair(const Channel& of, const Values<width>& values, int lane) const {
    const A d = to_compute(values.x.values[lane]) - of.mean;
    return {activate_grad<kind>(to_compute(values.grad.values[lane]), d * of.scale + of.shift, p.negative_slope), d};
  }
};

// Sum of g and of g d.
template <class T, Activation kind>
struct BackwardTerm : BeforeActivation<T, kind> {
  using Before = BeforeActivation<T, kind>;
  using A = typename Before::A;
  using State = Sums<A>;

  template <int width>
  __device__ void add(State& to, const typename Before::Channel& of, const typename Before::template Values<width>& values, int lane,
                      A) const {
    const auto [g, d] = this->template pair<width>(of, values, lane);
    to.merge({g, g * d});
  }
};

// The input's gradient.
template <class T, Activation kind>
struct GradientTerm : BeforeActivation<T, kind> {
  using Before = BeforeActivation<T, kind>;
  using A = typename Before::A;
  T* grad_x;
  const A *offsets, *slopes;  // finish_backward's

  struct Channel : Before::Channel {
    A offset, slope;
  };
  __device__ Channel channel(int64_t group, int64_t c) const {
    const int64_t index = group * this->at.channels + c;
    return {Before::channel(group, c), offsets[index], slopes[index]};
  }
  template <int width>
  __device__ T made(const Channel& of, const typename Before::template Values<width>& values, int lane) const {
    const auto [g, d] = this->template pair<width>(of, values, lane);
    return from_compute<T>(of.scale * g - of.offset - of.slope * d);
  }
  __device__ T* output() const { return grad_x; }
};

// How a block's threads lie: `across` on neighbouring packs of a row or a plane, `down` on others. Powers of two.
struct BlockShape {
  unsigned across, down;
  int64_t tiles;  // of a row or a plane

  BlockShape(int64_t packs, unsigned most_across) : across(1) {
    while (across < packs && across < most_across) across *= 2;
    down = kThreads / across;
    tiles = (packs + across - 1) / across;
  }
};

// Channels-last: visit(offset, values) of a group's packs of channels from `first` on, in the rows begin, begin + stride and so on.
template <int width, class Term, class Visit>
__device__ inline void each_row(const Term& term, int64_t group, int64_t first, int64_t begin, int64_t stride, const Visit& visit) {
  constexpr int kAhead = Term::kAhead;
  const int64_t rows = term.at.count(), channels = term.at.channels;
  for (; begin < rows; begin += kAhead * stride) {
    const int64_t from = (group * rows + begin) * channels + first;
    typename Term::template Values<width> values[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i * stride < rows) values[i] = term.template read<width>(from + i * stride * channels);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i * stride < rows) visit(from + i * stride * channels, values[i]);
    }
  }
}

constexpr int64_t kMostGroups = 65535;  // a grid's z

}  // namespace
}  // namespace fastgan::batch_norm_act

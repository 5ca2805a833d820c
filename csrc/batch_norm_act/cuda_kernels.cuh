// The kernels of batch_norm_act.h's formulas.
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
  FASTGAN_HOST_DEVICE int64_t group_of(int64_t i) const { return i / (outer * channels * inner); }
  FASTGAN_HOST_DEVICE int64_t channel_of(int64_t i) const { return channels_last ? i % channels : i / inner % channels; }
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

// ---- terms ---------------------------------------------------------------------------------------------------------------
//
// A term reads packs of elements, and has what its elements take of their channel. A kernel's threads stay on their channels, whose
// parameters they read once, and read kAhead packs before they work on the first.

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
struct MomentsTerm {
  using Element = T;
  using A = Compute<T>;
  using State = Moments<A>;
  static constexpr int kAhead = 4;
  const T* x;
  Layout at;

  struct Channel {
    A pivot;
  };
  template <int width>
  using Values = Pack<T, width>;
  __device__ Channel channel(int64_t group, int64_t c) const { return {pivot_of(x, at, group, c)}; }
  template <int width>
  __device__ Values<width> read(int64_t i) const {
    return *reinterpret_cast<const Pack<T, width>*>(x + i);
  }
  template <int width>
  __device__ void add(State& to, const Channel& of, const Values<width>& values, int lane, A share) const {
    to.add(to_compute(values.values[lane]) - of.pivot, share);
  }
};

template <class T, Activation kind>
struct ForwardTerm {
  using Element = T;
  using A = Compute<T>;
  static constexpr int kAhead = 4;
  const T* x;
  T* y;
  Parameters<A> p;
  Layout at;

  struct Channel {
    A mean, scale, shift;
  };
  template <int width>
  using Values = Pack<T, width>;
  __device__ Channel channel(int64_t group, int64_t c) const {
    const int64_t index = group * at.channels + c;
    return {p.mean[index], p.scale(index, c), p.shift(index, c)};
  }
  template <int width>
  __device__ Values<width> read(int64_t i) const {
    return *reinterpret_cast<const Pack<T, width>*>(x + i);
  }
  template <int width>
  __device__ T made(const Channel& of, const Values<width>& values, int lane) const {
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

// ---- sums: a partial one of each (group, chunk, channel), then a warp a channel adds up the chunks in one order ---------------------
//
// The second number of the kernels' launch bounds, how many blocks a multiprocessor's registers are to be enough for, is there
// because ptxas, left alone, aims higher and spills.

// Each of a block's columns of `across` threads becomes its first one's, over `down` rows.
template <int width, class State>
__device__ inline void merge_down(State (&states)[width], State* shared, unsigned across, unsigned x, unsigned y, unsigned down) {
  for (unsigned half = down / 2;; half /= 2) {
#pragma unroll
    for (int lane = 0; lane < width; ++lane) shared[(y * across + x) * width + lane] = states[lane];
    __syncthreads();
    if (half == 0) return;
    if (y < half) {
#pragma unroll
      for (int lane = 0; lane < width; ++lane) states[lane].merge(shared[((y + half) * across + x) * width + lane]);
    }
    __syncthreads();
  }
}

// Channels-last: neighbouring threads on neighbouring packs of channels. block: (across, down); grid: (tiles, chunks, groups)
template <class Term, int width, class State = typename Term::State>
__global__ void __launch_bounds__(kThreads, 2) partial_sums_rows(Term term, State* partial) {
  constexpr int kAhead = Term::kAhead;
  __shared__ State shared[kThreads * width];
  const Layout& at = term.at;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * width, rows = at.count();
  const int64_t chunk = blockIdx.y, chunks = gridDim.y, group = blockIdx.z, stride = chunks * blockDim.y;
  State states[width] = {};
  if (first < at.channels) {
    typename Term::Channel of[width];
#pragma unroll
    for (int lane = 0; lane < width; ++lane) of[lane] = term.channel(group, first + lane);
    typename Term::A count = 0;
    for (int64_t begin = chunk * blockDim.y + threadIdx.y; begin < rows; begin += kAhead * stride) {
      const int64_t from = (group * rows + begin) * at.channels + first;
      typename Term::template Values<width> values[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i * stride < rows) values[i] = term.template read<width>(from + i * stride * at.channels);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i * stride >= rows) break;
        const auto share = 1 / ++count;
#pragma unroll
        for (int lane = 0; lane < width; ++lane) term.template add<width>(states[lane], of[lane], values[i], lane, share);
      }
    }
  }
  merge_down(states, shared, blockDim.x, threadIdx.x, threadIdx.y, blockDim.y);
  if (threadIdx.y != 0 || first >= at.channels) return;
#pragma unroll
  for (int lane = 0; lane < width; ++lane) partial[(group * chunks + chunk) * at.channels + first + lane] = states[lane];
}

// Contiguous: a block on one channel's planes. grid: (channels, chunks, groups)
template <class Term, int width, class State = typename Term::State>
__global__ void __launch_bounds__(kThreads, 2) partial_sums_planes(Term term, State* partial) {
  __shared__ State shared[kThreads * width];
  const Layout& at = term.at;
  const int64_t channel = blockIdx.x, chunk = blockIdx.y, chunks = gridDim.y, group = blockIdx.z;
  const auto of = term.channel(group, channel);
  State states[width] = {};
  typename Term::A count = 0;
  for (int64_t e = (chunk * kThreads + threadIdx.x) * width; e < at.count(); e += chunks * kThreads * width) {
    const auto values = term.template read<width>(at.offset(group, channel, e));
    const auto share = 1 / ++count;
#pragma unroll
    for (int lane = 0; lane < width; ++lane) term.template add<width>(states[lane], of, values, lane, share);
  }
#pragma unroll
  for (int lane = 1; lane < width; ++lane) states[0].merge(states[lane]);
  State one[1] = {states[0]};
  merge_down(one, shared, 1, 0, threadIdx.x, kThreads);
  if (threadIdx.x == 0) partial[(group * chunks + chunk) * at.channels + channel] = one[0];
}

constexpr int64_t kMostGroups = 65535;  // a grid's z

// How many chunks a channel's elements are cut into: by shape alone, so that sums are always formed in one order.
template <int width>
int64_t chunks_for(const Layout& at) {
  constexpr int64_t kPacksPerThread = 8, kBlocksWanted = 1024;
  const BlockShape shape(at.run() / width, at.channels_last ? 32 : kThreads);
  const int64_t blocks = at.groups * (at.channels_last ? shape.tiles : at.channels);
  const int64_t work = at.count() / ((at.channels_last ? shape.down : kThreads * width) * kPacksPerThread);
  return std::clamp<int64_t>(std::min(work, kBlocksWanted / std::max<int64_t>(blocks, 1)), 1, 256);
}

// partial: [groups][chunks][channels]
template <int width, class Launch, class Term, class State = typename Term::State>
void partial_sums(const Launch& launch, const Term& term, int64_t chunks, State* partial) {
  const Layout& at = term.at;
  const auto z = static_cast<unsigned>(at.groups), y = static_cast<unsigned>(chunks);
  if (at.channels_last) {
    const BlockShape shape(at.run() / width, 32);
    launch(partial_sums_rows<Term, width>, dim3(static_cast<unsigned>(shape.tiles), y, z), dim3(shape.across, shape.down), term, partial);
  } else {
    launch(partial_sums_planes<Term, width>, dim3(static_cast<unsigned>(at.channels), y, z), dim3(kThreads), term, partial);
  }
}

constexpr int kWarps = kThreads / 32;  // channels that a block finishes

// The same in every lane.
__device__ inline double sum_over_warp(double value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// Each part made by add(chunk, &first, &second), and added up by a warp.
template <class Add>
__device__ inline Sums<double> sum_of_chunks(int64_t chunks, const Add& add) {
  Sums<double> sums{0, 0};
#pragma unroll 4
  for (int64_t chunk = threadIdx.x % 32; chunk < chunks; chunk += 32) sums.add(add(chunk));
  return {sum_over_warp(sums.first), sum_over_warp(sums.second)};
}

// A warp a channel: statistics of every group, and running statistics as the groups one after another leave them. The moments are of
// x - pivot, or, where x is null, of x itself. They are merged as sums of what each mean is away from the first one, in double: no
// division waits for another.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) finish_statistics(const T* x, Layout at, const Moments<A>* partial, int64_t chunks,
                                                              double momentum, double eps, A* mean, A* invstd, A* running_mean,
                                                              A* running_var) {
  const int64_t channel = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (channel >= at.channels) return;
  const auto n = static_cast<double>(at.count());
  for (int64_t group = 0; group < at.groups; ++group) {
    const Moments<A>* const of_channel = partial + group * chunks * at.channels + channel;
    const double first = of_channel->mean;
    const auto sums = sum_of_chunks(chunks, [&](int64_t chunk) {
      const Moments<A> m = of_channel[chunk * at.channels];
      const double away = m.mean - first, total = m.count * away;
      return Sums<double>{total, m.squares + total * away};
    });
    if (threadIdx.x % 32 != 0) continue;
    const double pivot = x ? pivot_of(x, at, group, channel) : A(0);
    const double batch_mean = pivot + first + sums.first / n, squares = sums.second - sums.first * sums.first / n;
    const double variance = squares < 0 ? 0 : squares / n;
    mean[group * at.channels + channel] = static_cast<A>(batch_mean);
    invstd[group * at.channels + channel] = static_cast<A>(1.0 / sqrt(variance + eps));
    if (running_mean) {
      const double old_mean = running_mean[channel], old_var = running_var[channel];
      running_mean[channel] = static_cast<A>(old_mean + momentum * (batch_mean - old_mean));
      running_var[channel] = static_cast<A>(old_var + momentum * (variance * n / (n - 1) - old_var));
    }
  }
}

template <class A>
__global__ void given_statistics(int64_t groups, int64_t channels, const A* running_mean, const A* running_var,
                                 double eps, A* mean, A* invstd) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= groups * channels) return;
  mean[i] = running_mean[i % channels];
  invstd[i] = static_cast<A>(1.0 / sqrt(static_cast<double>(running_var[i % channels]) + eps));
}

// A warp a channel: the parameters' gradients, and what the elementwise pass needs (batch_norm_act.h, Backward), the same
// for all of `sets` successive groups that share statistics.
template <class A>
__global__ void __launch_bounds__(kThreads) finish_backward(Layout at, int64_t sets, const Sums<A>* partial, int64_t chunks,
                                                            Parameters<A> p, bool training, A* offsets, A* slopes, A* grad_weight,
                                                            A* grad_bias) {
  const int64_t channel = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (channel >= at.channels) return;
  const bool writes = threadIdx.x % 32 == 0;
  double weight_sum = 0, bias_sum = 0;
  for (int64_t first = 0; first < at.groups; first += sets) {
    double offset = 0, slope = 0;
    for (int64_t group = first; group < first + sets; ++group) {
      const int64_t index = group * at.channels + channel;
      const auto sums = sum_of_chunks(chunks, [&](int64_t chunk) {
        const Sums<A> s = partial[(group * chunks + chunk) * at.channels + channel];
        return Sums<double>{s.first, s.second};
      });
      const double invstd = p.invstd[index];
      const double share = training ? p.scale(index, channel) / static_cast<double>(at.count() * sets) : 0.0;
      offset += share * sums.first;
      slope += share * sums.second * invstd * invstd;
      weight_sum += sums.second * invstd;
      bias_sum += sums.first;
      if (!p.of_groups) continue;
      if (writes) {
        grad_weight[index] = static_cast<A>(weight_sum);
        grad_bias[index] = static_cast<A>(bias_sum);
      }
      weight_sum = bias_sum = 0;
    }
    for (int64_t group = first; writes && group < first + sets; ++group) {
      offsets[group * at.channels + channel] = static_cast<A>(offset);
      slopes[group * at.channels + channel] = static_cast<A>(slope);
    }
  }
  if (p.of_groups || !writes) return;
  grad_weight[channel] = static_cast<A>(weight_sum);
  grad_bias[channel] = static_cast<A>(bias_sum);
}


// ---- elementwise ----------------------------------------------------------------------------------------------------------

// Channels-last: neighbouring threads on neighbouring packs of channels. block: (across, down); grid: (tiles, chunks, groups)
template <class Term, int width>
__global__ void __launch_bounds__(kThreads, 2) apply_rows(Term term) {
  constexpr int kAhead = Term::kAhead;
  const Layout& at = term.at;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * width, rows = at.count();
  const int64_t stride = int64_t{gridDim.y} * blockDim.y;
  if (first >= at.channels) return;
  for (int64_t group = blockIdx.z; group < at.groups; group += gridDim.z) {
    typename Term::Channel of[width];
#pragma unroll
    for (int lane = 0; lane < width; ++lane) of[lane] = term.channel(group, first + lane);
    for (int64_t begin = blockIdx.y * int64_t{blockDim.y} + threadIdx.y; begin < rows; begin += kAhead * stride) {
      const int64_t from = (group * rows + begin) * at.channels + first;
      typename Term::template Values<width> values[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i * stride < rows) values[i] = term.template read<width>(from + i * stride * at.channels);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i * stride >= rows) break;
        Pack<typename Term::Element, width> made;
#pragma unroll
        for (int lane = 0; lane < width; ++lane) made.values[lane] = term.template made<width>(of[lane], values[i], lane);
        *reinterpret_cast<Pack<typename Term::Element, width>*>(term.output() + from + i * stride * at.channels) = made;
      }
    }
  }
}

// Contiguous: a row of threads on a plane. block: (across, down); grid: (blocks of planes, chunks of a plane)
template <class Term, int width>
__global__ void __launch_bounds__(kThreads, 2) apply_planes(Term term) {
  const Layout& at = term.at;
  const int64_t planes = at.groups * at.outer * at.channels, step = int64_t{gridDim.y} * blockDim.x * width;
  for (int64_t plane = blockIdx.x * int64_t{blockDim.y} + threadIdx.y; plane < planes; plane += int64_t{gridDim.x} * blockDim.y) {
    const auto of = term.channel(plane / at.channels / at.outer, plane % at.channels);
    for (int64_t e = (blockIdx.y * int64_t{blockDim.x} + threadIdx.x) * width; e < at.inner; e += step) {
      const auto values = term.template read<width>(plane * at.inner + e);
      Pack<typename Term::Element, width> made;
#pragma unroll
      for (int lane = 0; lane < width; ++lane) made.values[lane] = term.template made<width>(of, values, lane);
      *reinterpret_cast<Pack<typename Term::Element, width>*>(term.output() + plane * at.inner + e) = made;
    }
  }
}

// width: of packs that lie within a row or a plane.
template <int width, class Launch, class Term>
void apply(const Launch& launch, const Term& term) {
  constexpr int64_t kBlocksWanted = 2048;
  const Layout& at = term.at;
  const auto [across, down, tiles] = BlockShape(at.run() / width, at.channels_last ? 32 : kThreads);
  const auto blocks = [](int64_t n, int64_t most) { return static_cast<unsigned>(std::clamp<int64_t>(n, 1, std::max<int64_t>(most, 1))); };
  if (at.channels_last) {
    const unsigned z = blocks(at.groups, 65535);
    const int64_t rows = down * Term::kAhead, chunks = (at.count() + rows - 1) / rows;
    launch(apply_rows<Term, width>, dim3(blocks(tiles, tiles), blocks(chunks, kBlocksWanted / tiles / z), z), dim3(across, down), term);
  } else {
    const int64_t planes = at.groups * at.outer * at.channels;
    const unsigned x = blocks((planes + down - 1) / down, kBlocksWanted);
    launch(apply_planes<Term, width>, dim3(x, blocks(tiles, kBlocksWanted / x)), dim3(across, down), term);
  }
}

// n: of packs.
template <class T, Activation kind, int width, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) activate_in_place(T* y, int64_t n, A slope) {
  using Values = Pack<T, width>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    Values values = reinterpret_cast<Values*>(y)[i];
#pragma unroll
    for (T& value : values.values) value = from_compute<T>(activate<kind>(to_compute(value), slope));
    reinterpret_cast<Values*>(y)[i] = values;
  }
}

template <class T, Activation kind, int width, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) activation_gradient(const T* grad, const T* y, T* grad_x, int64_t n,
                                                                A slope) {
  using Values = Pack<T, width>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    Values values = reinterpret_cast<const Values*>(grad)[i];
    const Values of = reinterpret_cast<const Values*>(y)[i];
#pragma unroll
    for (int lane = 0; lane < width; ++lane) {
      values.values[lane] =
          from_compute<T>(activate_grad_from_output<kind>(to_compute(values.values[lane]), to_compute(of.values[lane]), slope));
    }
    reinterpret_cast<Values*>(grad_x)[i] = values;
  }
}

}  // namespace
}  // namespace fastgan::batch_norm_act

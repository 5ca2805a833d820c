// Batch-norm's sums: a partial one of each (group, chunk, channel), and then a warp a channel adds up the chunks, in one order.
#pragma once

#include "batch_norm_act/cuda_terms.cuh"

namespace fastgan::batch_norm_act {
namespace {

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
  follow();
  __shared__ State shared[kThreads * width];
  const Layout& at = term.at;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * width;
  const int64_t chunk = blockIdx.y, chunks = gridDim.y, group = blockIdx.z;
  State states[width] = {};
  if (first < at.channels) {
    typename Term::Channel of[width];
#pragma unroll
    for (int lane = 0; lane < width; ++lane) of[lane] = term.channel(group, first + lane);
    typename Term::A count = 0;
    each_row<width>(term, group, first, chunk * blockDim.y + threadIdx.y, chunks * blockDim.y, [&](int64_t, const auto& values) {
      const auto share = 1 / ++count;
#pragma unroll
      for (int lane = 0; lane < width; ++lane) term.template add<width>(states[lane], of[lane], values, lane, share);
    });
  }
  merge_down(states, shared, blockDim.x, threadIdx.x, threadIdx.y, blockDim.y);
  if (threadIdx.y != 0 || first >= at.channels) return;
#pragma unroll
  for (int lane = 0; lane < width; ++lane) partial[(group * chunks + chunk) * at.channels + first + lane] = states[lane];
}

// Contiguous: a block on one channel's planes. grid: (channels, chunks, groups)
template <class Term, int width, class State = typename Term::State>
__global__ void __launch_bounds__(kThreads, 2) partial_sums_planes(Term term, State* partial) {
  follow();
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

// Of every chunk's part, by a warp.
template <class Part>
__device__ inline Sums<double> sum_of_chunks(int64_t chunks, const Part& part) {
  Sums<double> sums{0, 0};
#pragma unroll 4
  for (int64_t chunk = threadIdx.x % 32; chunk < chunks; chunk += 32) sums.merge(part(chunk));
  return {sum_over_warp(sums.first), sum_over_warp(sums.second)};
}

// A warp a channel: statistics of every group, and running statistics and the number of batches as the groups one after another leave them. The moments are of
// x - pivot, or, where x is null, of x itself. They are merged as sums of what each mean is away from the first one, in double: no
// division waits for another.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) finish_statistics(const T* x, Layout at, const Moments<A>* partial, int64_t chunks,
                                                              double momentum, double eps, A* mean, A* invstd, A* running_mean,
                                                              A* running_var, int64_t* batches) {
  follow();
  if (batches && blockIdx.x == 0 && threadIdx.x == 0) *batches += at.groups;
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
  follow();
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
  follow();
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

}  // namespace
}  // namespace fastgan::batch_norm_act

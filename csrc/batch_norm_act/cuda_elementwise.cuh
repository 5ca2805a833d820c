// Normalise + activate, its gradient, and an activation alone: elementwise, in one pass over memory.
#pragma once

#include "batch_norm_act/cuda_terms.cuh"

namespace fastgan::batch_norm_act {
namespace {

// Channels-last: neighbouring threads on neighbouring packs of channels. block: (across, down); grid: (tiles, chunks, groups)
template <class Term, int width>
__global__ void __launch_bounds__(kThreads, 2) apply_rows(Term term) {
  follow();
  const Layout& at = term.at;
  const int64_t first = (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) * width;
  const int64_t begin = blockIdx.y * int64_t{blockDim.y} + threadIdx.y, stride = int64_t{gridDim.y} * blockDim.y;
  if (first >= at.channels) return;
  for (int64_t group = blockIdx.z; group < at.groups; group += gridDim.z) {
    typename Term::Channel of[width];
#pragma unroll
    for (int lane = 0; lane < width; ++lane) of[lane] = term.channel(group, first + lane);
    each_row<width>(term, group, first, begin, stride, [&](int64_t at_element, const auto& values) {
      Pack<typename Term::Element, width> made;
#pragma unroll
      for (int lane = 0; lane < width; ++lane) made.values[lane] = term.template made<width>(of[lane], values, lane);
      *reinterpret_cast<Pack<typename Term::Element, width>*>(term.output() + at_element) = made;
    });
  }
}

// Contiguous: a row of threads on a plane. block: (across, down); grid: (blocks of planes, chunks of a plane)
template <class Term, int width>
__global__ void __launch_bounds__(kThreads, 2) apply_planes(Term term) {
  follow();
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
    const unsigned z = blocks(at.groups, kMostGroups);
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
  follow();
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
  follow();
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

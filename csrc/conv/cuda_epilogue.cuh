// What becomes of a tile's sums: bias, activation, rounding, and the moments of what is stored, for the batch-norm behind.
#pragma once

#include "common/moments.cuh"
#include "conv/cuda_index.cuh"

namespace fastgan::conv {
namespace {

template <class Out>
struct Store {
  using A = Compute<Out>;
  Out* output;
  A* partial;           // [splits, tiles, kTile, kTile] where k is split, otherwise null
  Moments<A>* moments;  // [groups, chunks, columns] or null; of whole columns, a chunk's rows each
  const Out* bias;      // [columns] or null
  Activation activation;
  A negative_slope;
};

// Of n values, `pitch` apart. The second pass corrects what the first one's mean was rounded by.
template <class A>
__device__ inline Moments<A> moments_of(const A* values, int pitch, int n) {
  if (n <= 0) return {};
  A sum = 0, rest = 0, squares = 0;
  for (int i = 0; i < n; ++i) sum += values[i * pitch];
  const A mean = sum / n;
  for (int i = 0; i < n; ++i) {
    const A distance = values[i * pitch] - mean;
    rest += distance;
    squares += distance * distance;
  }
  return {A(n), mean + rest / n, squares - rest * rest / n};
}

// A block's rows of sums, which it finishes and stores: out[first_m + row][first_n + column].
template <class Out, int rows, int columns>
struct Rows {
  Compute<Out> sums[rows][columns + 1];

  // chunk: the number of these rows among all that moments are taken of.
  template <class Job>
  __device__ void store(const Job& job, const typename Job::Part& part, int first_m, int first_n, int64_t chunk,
                        const Store<Out>& to) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      const int m = first_m + i / columns, n = first_n + i % columns;
      const int64_t index = job.index(part, m, n);
      if (index < 0) continue;
      auto& sum = sums[i / columns][i % columns];
      if (to.bias) sum += to_compute(to.bias[n]);
      const Out value = from_compute<Out>(activate(to.activation, sum, to.negative_slope));
      to.output[index] = value;
      sum = to_compute(value);
    }
    if (!to.moments) return;
    __syncthreads();
    const int column = threadIdx.x, left = part.rows - first_m;
    if (column < columns && first_n + column < part.columns) {
      to.moments[chunk * part.columns + first_n + column] = moments_of(&sums[0][column], columns + 1, left < rows ? left : rows);
    }
  }
};

}  // namespace
}  // namespace fastgan::conv

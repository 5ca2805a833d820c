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
  A* partial;           // [splits, tiles, rows, columns] where k is split, otherwise null
  Moments<A>* moments;  // [groups, chunks, columns] or null; of whole columns, a chunk's rows each
  const Out* bias;      // [columns] or null
  Activation activation;
  A negative_slope;
  bool in_chunks;  // 16 bytes of neighbouring columns lie together in the output, at a multiple of that
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

// Where the rows and columns of a tile belong in the output. Worked out before the sums are made, so that no register has to keep
// until then what it takes.
template <int rows, int columns, int threads>
struct Offsets {
  int64_t of_rows[rows], of_columns[columns];

  template <class Job>
  __device__ void fill(const Job& job, const typename Job::Part& part, int first_m, int first_n) {
    for (int i = threadIdx.x; i < rows; i += threads) of_rows[i] = job.row_offset(part, first_m + i);
    for (int i = threadIdx.x; i < columns; i += threads) of_columns[i] = job.column_offset(part, first_n + i);
  }
};

// A block's rows of sums, which it finishes and stores.
template <class Out, int rows, int columns, int threads>
struct Rows {
  using A = Compute<Out>;
  // Of a chunk of moments: as few as give every thread a column of its own, but not so few that there are too many to merge.
  static constexpr int kMomentRows = std::min(rows, std::max(32, rows * columns / threads));
  static constexpr int kPitch = columns + 8;  // what eight rows of sums have for a warp lies in different banks

  alignas(32) A sums[rows][kPitch];

  // chunk: the number of the first of these rows' chunks of moments. left_m, left_n: how many rows and columns from these on there are.
  __device__ void store(const Offsets<rows, columns, threads>& offsets, int first_n, int left_m, int left_n, int64_t chunk,
                        const Store<Out>& to) {
    if (to.bias || to.activation != Activation::none) {
      activate_sums(first_n, left_n, to);
      __syncthreads();
    }
    constexpr int kWidth = kPackWidth<Out>;
    columns % kWidth == 0 && to.in_chunks ? store<kWidth>(offsets, to) : store<1>(offsets, to);
    if (!to.moments) return;
    __syncthreads();
    for (int i = threadIdx.x; i < columns * (rows / kMomentRows); i += threads) {
      const int column = i % columns, row = i / columns * kMomentRows, left = left_m - row;
      if (column >= left_n) continue;
      to.moments[(chunk + i / columns) * (first_n + left_n) + first_n + column] =
          moments_of(&sums[row][column], kPitch, left < kMomentRows ? left : kMomentRows);
    }
  }

 private:
  // One by one: with the activation of each of a chunk's values in line, the code would be several times as long.
  __device__ void activate_sums(int first_n, int left_n, const Store<Out>& to) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += threads) {
      const int column = i % columns;
      if (column >= left_n) continue;
      A& sum = sums[i / columns][column];
      sum = activate(to.activation, to.bias ? sum + to_compute(to.bias[first_n + column]) : sum, to.negative_slope);
    }
  }

  template <int width>
  __device__ void store(const Offsets<rows, columns, threads>& offsets, const Store<Out>& to) {
#pragma unroll 1
    for (int i = threadIdx.x * width; i < rows * columns; i += threads * width) {
      const int row = i / columns, column = i % columns;
      const int64_t row_offset = offsets.of_rows[row], column_offset = offsets.of_columns[column];
      if (row_offset < 0 || column_offset < 0) continue;
      auto& of_row = *reinterpret_cast<Pack<A, width>*>(&sums[row][column]);
      auto values = of_row;
      Pack<Out, width> stored;
#pragma unroll
      for (int lane = 0; lane < width; ++lane) {
        stored.values[lane] = from_compute<Out>(values.values[lane]);
        values.values[lane] = to_compute(stored.values[lane]);
      }
      *reinterpret_cast<Pack<Out, width>*>(to.output + row_offset + column_offset) = stored;
      of_row = values;
    }
  }
};

}  // namespace
}  // namespace fastgan::conv

// What becomes of a tile's sums: bias, activation, rounding; and of what is stored, for each column, the moments, for the batch-norm
// behind, or, where it is the gradient of a batch-norm's activation, the sums that its backward begins with.
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
  A* sums;             // [groups, chunks, columns, 2] or null: of g and of g (x - mean), g being the gradient before the activation
  const Out* below;    // x, as the output lies in memory
  Prologue<Out> made;  // of it, what the output is the gradient of
  bool in_chunks;      // 16 bytes of neighbouring columns lie together in the output, at a multiple of that
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

// Where a block's rows are among all.
struct RowsPlace {
  int first_n, left_m, left_n;  // the first column, and how many rows and columns from these on there are
  int group;                    // of images
  int64_t chunk;                // the number of the first of these rows' chunks of moments or sums
};

// A block's rows of sums, which it finishes and stores.
template <class Out, int rows, int columns, int threads>
struct Rows {
  using A = Compute<Out>;
  // Rows of a chunk: as few as give every thread a column of its own, but not so few that there are too many to merge.
  static constexpr int kChunkRows = std::min(rows, std::max(32, rows * columns / threads));
  static constexpr int kPitch = columns + 8;  // what eight rows of sums have for a warp lies in different banks

  alignas(32) A sums[rows][kPitch];

  __device__ void store(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Store<Out>& to) {
    if (to.bias || to.activation != Activation::none) {
      activate_sums(at, to);
      __syncthreads();
    }
    constexpr int kWidth = kPackWidth<Out>;
    columns % kWidth == 0 && to.in_chunks ? store<kWidth>(offsets, to) : store<1>(offsets, to);
    if (!to.moments && !to.sums) return;
    __syncthreads();
    for (int i = threadIdx.x; i < columns * (rows / kChunkRows); i += threads) {
      const int column = i % columns, row = i / columns * kChunkRows, left = at.left_m - row;
      if (column >= at.left_n) continue;
      const int n = left < kChunkRows ? left : kChunkRows;
      const int64_t index = (at.chunk + i / columns) * (at.first_n + at.left_n) + at.first_n + column;
      if (to.moments) {
        to.moments[index] = moments_of(&sums[row][column], kPitch, n);
      } else {
        *reinterpret_cast<Pack<A, 2>*>(to.sums + 2 * index) = backward_sums(offsets, at, row, column, n, to);
      }
    }
  }

 private:
  // One by one: with the activation of each of a chunk's values in line, the code would be several times as long.
  __device__ void activate_sums(const RowsPlace& at, const Store<Out>& to) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += threads) {
      const int column = i % columns;
      if (column >= at.left_n) continue;
      A& sum = sums[i / columns][column];
      sum = activate(to.activation, to.bias ? sum + to_compute(to.bias[at.first_n + column]) : sum, to.negative_slope);
    }
  }

  // As batch_norm_act's BackwardTerm has them.
  __device__ Pack<A, 2> backward_sums(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, int row, int column, int n,
                                      const Store<Out>& to) const {
    const auto& made = to.made;
    const A* const table = made.table + int64_t{at.group} * padded<Out>(at.first_n + at.left_n) + at.first_n + column;
    const A mean = table[0], scale = table[made.total], shift = table[2 * made.total];
    const Out* const x = to.below + offsets.of_columns[column];
    Pack<A, 2> found{};
    for (int i = row; i < row + n; ++i) {
      const A d = to_compute(x[offsets.of_rows[i]]) - mean;
      const A g = activate_grad(made.activation, sums[i][column], d * scale + shift, made.negative_slope);
      found.values[0] += g;
      found.values[1] += g * d;
    }
    return found;
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

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
  Moments<A>* moments;  // [groups, chunks, columns] or null; a chunk is the rows of a tile, or of what add_splits has a block add
  const Out* bias;      // [columns] or null
  Activation activation;
  A negative_slope;
  const Out* activated;  // what the activation made, as the output lies in memory, or null; else its gradient is taken, in chunks
  Sums<A>* sums;       // [groups, chunks, columns] or null: of g and of g (x - mean), g being the gradient before the activation
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
  int64_t chunk;                // their number among the chunks of moments or sums
};

// A block's rows of sums, which it finishes and stores.
template <class Out, int rows, int columns, int threads>
struct Rows {
  using A = Compute<Out>;
  // Of a column, what a thread takes moments of: as few rows as give every thread some, but not so few that merging takes longer.
  static constexpr int kPartRows = std::min(rows, std::max(32, rows * columns / threads)), kParts = rows / kPartRows;
  static constexpr int kPitch = columns + 8;  // what eight rows of sums have for a warp lies in different banks
  static constexpr int kWidth = columns % kPackWidth<Out> == 0 ? kPackWidth<Out> : 1;
  // How many threads are on a column at once, where a thread's values are packs of neighbouring columns.
  template <int width>
  static constexpr int kThreadsDown = std::min(rows, threads * width / columns);

  alignas(32) A sums[rows][kPitch];
  union {
    Moments<A> moments_of_parts[kParts][columns];
    Sums<A> sums_of_threads[kThreadsDown<kWidth>][columns];
  };

  // has_epilogue: whether more may be asked for than to store them.
  template <bool has_epilogue>
  __device__ void store(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Store<Out>& to) {
    if (has_epilogue && (to.bias || to.activation != Activation::none)) {
      to.activated ? turn_sums(offsets, at, to) : activate_sums(at, to);
      __syncthreads();
    }
    to.in_chunks ? write<kWidth>(offsets, to) : write<1>(offsets, to);
    if constexpr (has_epilogue) reduce(offsets, at, to);
  }

 private:
  __device__ void reduce(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Store<Out>& to) {
    if (to.moments) {
      __syncthreads();
      take_moments(at);
      merge(moments_of_parts, kParts, at, to.moments);
    } else if (to.sums) {
      __syncthreads();
      const bool quick = to.in_chunks && is_piecewise_linear(to.made.activation);
      quick ? take_sums<kWidth, true>(offsets, at, to) : take_sums<1, false>(offsets, at, to);
      merge(sums_of_threads, quick ? kThreadsDown<kWidth> : kThreadsDown<1>, at, to.sums);
    }
  }

  // Each column's parts in order.
  template <class State, int most>
  __device__ void merge(const State (&parts)[most][columns], int count, const RowsPlace& at, State* to) const {
    __syncthreads();
    for (int column = threadIdx.x; column < columns && column < at.left_n; column += threads) {
      State all = parts[0][column];
      for (int i = 1; i < count; ++i) all.merge(parts[i][column]);
      to[at.chunk * (at.first_n + at.left_n) + at.first_n + column] = all;
    }
  }

  __device__ void take_moments(const RowsPlace& at) {
    for (int i = threadIdx.x; i < kParts * columns; i += threads) {
      const int column = i % columns, row = i / columns * kPartRows, left = at.left_m - row;
      if (column < at.left_n) {
        moments_of_parts[i / columns][column] = moments_of(&sums[row][column], kPitch, left < kPartRows ? left : kPartRows);
      }
    }
  }

  __device__ void activate_sums(const RowsPlace& at, const Store<Out>& to) {
    switch (to.activation) {
      case Activation::none: return activate_packs<Activation::none>(at, to);
      case Activation::relu: return activate_packs<Activation::relu>(at, to);
      case Activation::leaky_relu: return activate_packs<Activation::leaky_relu>(at, to);
      default: break;
    }
    // One by one: with the activation of each of a pack's values in line, the code would be several times as long.
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * columns; i += threads) {
      const int column = i % columns;
      if (column >= at.left_n) continue;
      A& sum = sums[i / columns][column];
      sum = activate(to.activation, to.bias ? sum + to_compute(to.bias[at.first_n + column]) : sum, to.negative_slope);
    }
  }

  template <Activation kind>
  __device__ void activate_packs(const RowsPlace& at, const Store<Out>& to) {
    constexpr int kPack = 4;
    static_assert(threads * kPack % columns == 0);
    const int column = threadIdx.x * kPack % columns;
    A bias[kPack] = {};
#pragma unroll
    for (int lane = 0; lane < kPack; ++lane) {
      if (to.bias && column + lane < at.left_n) bias[lane] = to_compute(to.bias[at.first_n + column + lane]);
    }
    for (int row = threadIdx.x * kPack / columns; row < rows; row += threads * kPack / columns) {
      auto& pack = *reinterpret_cast<Pack<A, kPack>*>(&sums[row][column]);
      auto values = pack;
#pragma unroll
      for (int lane = 0; lane < kPack; ++lane) {
        values.values[lane] = fastgan::activate<kind>(values.values[lane] + bias[lane], to.negative_slope);
      }
      pack = values;
    }
  }

  // What of a tensor that lies in memory as the output does belongs to the sums: body(row, column, value) of each, by one thread. It
  // reads packs of `each` rows at once, so that it waits for memory once.
  template <int width, int each, class Body>
  __device__ void each_beside(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Out* beside, const Body& body) {
    constexpr int kDown = kThreadsDown<width>;
    static_assert(rows % (kDown * each) == 0 && threads * width % columns == 0);
    const int first_row = threadIdx.x * width / columns, first = threadIdx.x * width % columns;
    if (first_row >= kDown || first >= at.left_n) return;
    const Out* const from = beside + offsets.of_columns[first];
#pragma unroll 1
    for (int begin = first_row; begin < rows; begin += kDown * each) {
      Pack<Out, width> values[each];
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const int row = begin + i * kDown;
        if (row < at.left_m) values[i] = *reinterpret_cast<const Pack<Out, width>*>(from + offsets.of_rows[row]);
      }
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const int row = begin + i * kDown;
        if (row >= at.left_m) continue;
#pragma unroll
        for (int lane = 0; lane < width; ++lane) body(row, lane, to_compute(values[i].values[lane]));
      }
    }
  }

  // The gradient of an activation whose sign says it.
  __device__ void turn_sums(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Store<Out>& to) {
    const int first = threadIdx.x * kWidth % columns;
    each_beside<kWidth, std::min(4, rows / kThreadsDown<kWidth>)>(offsets, at, to.activated, [&](int row, int lane, A y) {
      A& sum = sums[row][first + lane];
      sum = y > 0 ? sum : to.activation == Activation::relu ? A(0) : to.negative_slope * sum;
    });
  }

  __device__ static bool is_piecewise_linear(Activation kind) {
    return kind == Activation::none || kind == Activation::relu || kind == Activation::leaky_relu;
  }

  // As batch_norm_act's BackwardTerm has them. Many rows are read at once where the activation is piecewise linear, and takes few
  // instructions.
  template <int width, bool piecewise_linear>
  __device__ void take_sums(const Offsets<rows, columns, threads>& offsets, const RowsPlace& at, const Store<Out>& to) {
    constexpr int kDown = kThreadsDown<width>, kEach = piecewise_linear ? std::min(8, rows / kDown) : 1;
    const int first_row = threadIdx.x * width / columns, first = threadIdx.x * width % columns;
    if (first_row >= kDown || first >= at.left_n) return;
    const auto& made = to.made;
    A mean[width], scale[width], shift[width];
    Sums<A> found[width] = {};
#pragma unroll
    for (int lane = 0; lane < width; ++lane) {
      const int channel = at.first_n + first + lane, index = at.group * made.channels + channel;
      mean[lane] = made.mean[index];
      scale[lane] = made.weight ? made.weight[channel] * made.invstd[index] : made.invstd[index];
      shift[lane] = made.bias ? made.bias[channel] : A(0);
    }
    each_beside<width, kEach>(offsets, at, to.below, [&](int row, int lane, A x) {
      const A d = x - mean[lane], z = d * scale[lane] + shift[lane], grad = sums[row][first + lane];
      const A g = !piecewise_linear ? activate_grad(made.activation, grad, z, made.negative_slope)
                  : made.activation == Activation::none || z > 0 ? grad
                  : made.activation == Activation::relu          ? A(0)
                                                                 : made.negative_slope * grad;
      found[lane].merge({g, g * d});
    });
#pragma unroll
    for (int lane = 0; lane < width; ++lane) sums_of_threads[first_row][first + lane] = found[lane];
  }

  // Where columns are not neighbours in memory, a warp has as many rows at a time as fill 32 bytes, if they are.
  template <int width>
  __device__ void write(const Offsets<rows, columns, threads>& offsets, const Store<Out>& to) {
    constexpr int kDown = std::min<int>(rows, 32 / sizeof(Out)), kAcross = 32 / kDown;
    static_assert(rows % kDown == 0 && columns % kAcross == 0);
    const bool down = width == 1 && offsets.of_columns[1] != offsets.of_columns[0] + 1;
#pragma unroll 1
    for (int i = threadIdx.x * width; i < rows * columns; i += threads * width) {
      const int patch = i / 32, lane = i % 32;
      const int row = down ? patch % (rows / kDown) * kDown + lane % kDown : i / columns;
      const int column = down ? patch / (rows / kDown) * kAcross + lane / kDown : i % columns;
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

// The tile kernel of every CUDA convolution: a tile of one of cuda_index.cuh's products by 128 threads, from panels in
// shared memory, of which one is filled while the other is multiplied.
//
// Where there are too few tiles to fill a GPU, k is split, each split writes its own partial sums, and a second kernel adds
// them in order: no atomics, so results are reproducible. How often is a matter of the shape alone, never of the card.
#pragma once

#include "conv/cuda_epilogue.cuh"
#include "conv/cuda_panel.cuh"

namespace fastgan::conv {
namespace {

template <int rows, int columns>
struct Shape {
  static constexpr int kRows = rows, kColumns = columns, kNumel = rows * columns;
};
using Square = Shape<64, 64>;
using Thin = Shape<128, 8>;  // for outputs of few channels, of which a square one would be mostly padding

// ---- multiplying two panels ---------------------------------------------------------------------------------------------

// A thread's kDown x kAcross neighbours. Sum i is out[row(thread, i)][column(thread, i)] of the tile.
template <class T, class Shape>
struct Fma {
  using A = Compute<T>;
  static constexpr int kSums = Shape::kNumel / kTileThreads, kAcross = Shape::kColumns < 64 ? 2 : 4, kDown = kSums / kAcross;
  A sums[kSums / 4][4] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) { return thread / (Shape::kColumns / kAcross) * kDown + i / kAcross; }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) {
    return thread % (Shape::kColumns / kAcross) * kAcross + i % kAcross;
  }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    const int thread = threadIdx.x;
#pragma unroll 4
    for (int k = 0; k < kDepth<T>; ++k) {
      A a[kDown], b[kAcross];
#pragma unroll
      for (int i = 0; i < kDown; ++i) a[i] = to_compute(left.at(row(thread, i * kAcross), k));
#pragma unroll
      for (int i = 0; i < kAcross; ++i) b[i] = to_compute(right.at(column(thread, i), k));
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i / 4][i % 4] += a[i / kAcross] * b[i % kAcross];
    }
  }
};

// A warp's 32 x 32 (or 8), as products of tensor cores, of which a thread holds 4 sums each.
template <class T, class Shape>
struct TensorCore {
  using A = float;
  static constexpr int kColumns = Shape::kColumns < 32 ? Shape::kColumns : 32;  // of a warp
  static constexpr int kWarps = Shape::kColumns / kColumns;                     // beside each other
  static constexpr int kDown = 2, kAcross = kColumns / 8, kSums = kDown * kAcross * 4;
  static_assert(kSums * kTileThreads == Shape::kNumel);
  A sums[kSums / 4][4] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) {
    return thread / 32 / kWarps * 32 + i / 4 / kAcross * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
  }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) {
    return thread / 32 % kWarps * kColumns + i / 4 % kAcross * 8 + thread % 4 * 2 + i % 2;
  }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    const int warp = threadIdx.x / 32, m = warp / kWarps * 32, n = warp % kWarps * kColumns;
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += 16) {
      uint32_t a[kDown][4], b[(kAcross + 1) / 2][4];
#pragma unroll
      for (int i = 0; i < kDown; ++i) left.matrices(a[i], m + i * 16, k);
#pragma unroll
      for (int i = 0; i < (kAcross + 1) / 2; ++i) right.matrices(b[i], n + i * 16, k);
#pragma unroll
      for (int i = 0; i < kDown * kAcross; ++i) {
        const int across = i % kAcross;
        const uint32_t of_8[2] = {b[across / 2][across % 2], b[across / 2][across % 2 + 2]};
        multiply_add<T>(sums[i], a[i / kAcross], of_8);
      }
    }
  }
};

// ---- tiles --------------------------------------------------------------------------------------------------------------

struct Plan {
  int tiles_m, tiles_n, parts, groups, splits;  // tiles_m: of a group of images, so that none holds rows of two
  FASTGAN_HOST_DEVICE int tiles() const { return tiles_m * tiles_n * parts * groups; }
};

// Which tile a number means, and its part of the job, whose rows end with the group's.
template <class Job, class Shape>
struct Tile {
  typename Job::Part part;
  int first_m, first_n;
  int64_t chunk;  // its number among the tiles of its columns, group by group

  FASTGAN_HOST_DEVICE Tile(const Job& job, const Plan& plan, int number) {
    first_n = number % plan.tiles_n * Shape::kColumns;
    number /= plan.tiles_n;
    const int tile = number % plan.tiles_m, index = number / plan.tiles_m % plan.parts;
    part = job.part(index);
    part.group = number / plan.tiles_m / plan.parts;
    const int rows = part.rows / plan.groups;
    first_m = rows * part.group + tile * Shape::kRows;
    part.rows = rows * (part.group + 1);
    chunk = number;
  }
};

// ---- kernels ------------------------------------------------------------------------------------------------------------

enum class Side { none, left, right };  // which operand has normalise + activate pending

// Shared memory holds two panels of each operand, and afterwards the tile of sums, which is written out row by row.
template <class Job, class Out, class Shape>
union Shared {
  using T = typename Job::Element;
  struct {
    Panel<T, Job::Left::k_major, Shape::kRows> left[2];
    Panel<T, Job::Right::k_major, Shape::kColumns> right[2];
  } panels;
  Rows<Out, Shape::kRows, Shape::kColumns> rows;
};

// Blocks that a multiprocessor's registers are to be enough for. Left alone, ptxas aims higher and spills.
template <class T>
constexpr int kBlocks = sizeof(T) == 2 ? 4 : sizeof(T) == 4 ? 3 : 2;

template <class Job, class Out, class Shape, Side pending, bool tensor_cores>
__global__ void __launch_bounds__(kTileThreads, kBlocks<typename Job::Element>) multiply(Job job, Plan plan, Store<Out> store) {
  using T = typename Job::Element;
  using Multiplier = std::conditional_t<tensor_cores && kHasTensorCores, TensorCore<T, Shape>, Fma<T, Shape>>;
  using Left = typename Job::Left;
  using Right = typename Job::Right;
  __shared__ Shared<Job, Out, Shape> shared;
  auto& panels = shared.panels;

  const int tiles = plan.tiles(), number = blockIdx.x % tiles, split = blockIdx.x / tiles;
  const Tile<Job, Shape> tile(job, plan, number);
  const Left left{job, tile.part};
  const Right right{job, tile.part};
  Loader<T, Left, Shape::kRows, pending == Side::left> load_left(left, tile.first_m);
  Loader<T, Right, Shape::kColumns, pending == Side::right> load_right(right, tile.first_n);
  // None where a phase has fewer pixels than the largest.
  const int64_t steps = tile.first_m < tile.part.rows ? (int64_t{tile.part.depth} + kDepth<T> - 1) / kDepth<T> : 0;
  const int begin = static_cast<int>(steps * split / plan.splits), end = static_cast<int>(steps * (split + 1) / plan.splits);
  Multiplier multiplier;
  for (int step = begin - 1; step < end; ++step) {  // one ahead: what is multiplied was asked for a step before
    const int next = step + 1;
    if (step >= begin) {
      wait_for_copies();
      if constexpr (pending == Side::left) load_left.finish(job.before, step * kDepth<T>, panels.left[step & 1]);
      if constexpr (pending == Side::right) load_right.finish(job.before, step * kDepth<T>, panels.right[step & 1]);
    }
    __syncthreads();  // one panel of each operand is complete, and nobody reads the other any more
    if (next < end) {
      load_left.load(next * kDepth<T>, panels.left[next & 1]);
      load_right.load(next * kDepth<T>, panels.right[next & 1]);
    }
    if (step >= begin) multiplier.add(panels.left[step & 1], panels.right[step & 1]);
  }
  __syncthreads();

  const int thread = threadIdx.x;
  auto& rows = shared.rows;
#pragma unroll
  for (int i = 0; i < Multiplier::kSums; ++i) {
    rows.sums[Multiplier::row(thread, i)][Multiplier::column(thread, i)] = multiplier.sums[i / 4][i % 4];
  }
  __syncthreads();
  if (!store.partial) return rows.store(job, tile.part, tile.first_m, tile.first_n, tile.chunk, store);
  auto* const to = store.partial + (int64_t{split} * tiles + number) * Shape::kNumel;
  for (int i = thread; i < Shape::kNumel; i += kTileThreads) to[i] = rows.sums[i / Shape::kColumns][i % Shape::kColumns];
}

constexpr int kSlab = 16;  // rows of a tile whose splits one block adds

template <class Job, class Out, class Shape>
__global__ void __launch_bounds__(kTileThreads, 8) add_splits(Job job, Plan plan, Store<Out> store) {
  constexpr int kSlabs = Shape::kRows / kSlab;
  __shared__ Rows<Out, kSlab, Shape::kColumns> rows;
  const int number = blockIdx.x / kSlabs, slab = blockIdx.x % kSlabs;
  const Tile<Job, Shape> tile(job, plan, number);
  const auto* const from = store.partial + int64_t{number} * Shape::kNumel + slab * kSlab * Shape::kColumns;
  const int64_t stride = int64_t{plan.tiles()} * Shape::kNumel;
  for (int i = threadIdx.x; i < kSlab * Shape::kColumns; i += kTileThreads) {
    Compute<Out> sum = from[i];
    for (int split = 1; split < plan.splits; ++split) sum += from[split * stride + i];
    rows.sums[i / Shape::kColumns][i % Shape::kColumns] = sum;
  }
  __syncthreads();
  rows.store(job, tile.part, tile.first_m + slab * kSlab, tile.first_n, tile.chunk * kSlabs + slab, store);
}

// A weight as Gather reads it: [outs][kernel y][kernel x][padded ins], from any strides.
struct WeightStrides {
  int64_t out, in, y, x;
};

template <class T>
__global__ void __launch_bounds__(kThreads) pack_weight(const T* weight, WeightStrides strides, int kernel_x, int taps, int ins,
                                                        int64_t total, T* to) {
  const int channels = padded<T>(ins);
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < total; i += stride) {
    const int in = static_cast<int>(i % channels), tap = static_cast<int>(i / channels % taps);
    const int64_t out = i / channels / taps;
    const int64_t from = out * strides.out + in * strides.in + tap / kernel_x * strides.y + tap % kernel_x * strides.x;
    to[i] = in < ins ? weight[from] : from_compute<T>(0);
  }
}

// ---- host ---------------------------------------------------------------------------------------------------------------

inline int splits_for(int64_t tiles, int64_t steps) {
  constexpr int64_t kBlocksWanted = 256, kLeastSteps = 8, kMostSplits = 64;
  return static_cast<int>(std::clamp<int64_t>(std::min(kBlocksWanted / tiles, steps / kLeastSteps), 1, kMostSplits));
}

// groups: of images, whose rows no tile mixes.
template <class Shape, class Job>
Plan plan_of(const Job& job, int groups) {
  int rows = 0, columns = 0, depth = 0;
  for (int i = 0; i < job.parts(); ++i) {
    const auto part = job.part(i);
    rows = std::max(rows, part.rows / groups);
    columns = std::max(columns, part.columns);
    depth = std::max(depth, part.depth);
  }
  const int tiles_m = (rows + Shape::kRows - 1) / Shape::kRows, tiles_n = (columns + Shape::kColumns - 1) / Shape::kColumns;
  Plan plan{tiles_m, tiles_n, job.parts(), groups, 1};
  plan.splits = splits_for(plan.tiles(), depth / kDepth<typename Job::Element>);
  return plan;
}

// Of rows in which moments are taken, a group's.
template <class Shape>
int64_t chunks_of(const Plan& plan) {
  return int64_t{plan.parts} * plan.tiles_m * (plan.splits > 1 ? Shape::kRows / kSlab : 1);
}

template <class Shape, Side pending, bool tensor_cores, class Launch, class Job, class Out>
void run(const Launch& launch, const Job& job, const Plan& plan, const Store<Out>& store) {
  const auto tiles = static_cast<unsigned>(plan.tiles());
  launch(multiply<Job, Out, Shape, pending, tensor_cores>, tiles * plan.splits, kTileThreads, job, plan, store);
  if (store.partial) launch(add_splits<Job, Out, Shape>, tiles * (Shape::kRows / kSlab), kTileThreads, job, plan, store);
}

}  // namespace
}  // namespace fastgan::conv

// The tile kernel of every CUDA convolution: 64 x 64 of one of cuda_index.cuh's products by 128 threads, from panels in
// shared memory, of which one is filled while the other is multiplied.
//
// Where there are too few tiles to fill a GPU, k is split, each split writes its own partial sums, and a second kernel adds
// them in order: no atomics, so results are reproducible. How often is a matter of the shape alone, never of the card.
#pragma once

#include "common/activation.h"
#include "conv/cuda_device.cuh"
#include "conv/cuda_index.cuh"

namespace fastgan::conv {
namespace {

using namespace fastgan::cuda;

constexpr int kTile = 64;  // rows and columns
constexpr int kTileThreads = 128;
constexpr int kSums = kTile * kTile / kTileThreads;  // of a thread: 8 x 4 of them
static_assert(kSums == 32);
template <class T>
constexpr int kDepth = 64 / sizeof(T);  // of a panel

// ---- panels -------------------------------------------------------------------------------------------------------------

// [64][kDepth], or [kDepth][64] where an operand's neighbours in memory differ in m or n; rows of 16 bytes more, so that the
// threads of a warp read from different banks.
template <class T, bool k_major>
struct alignas(16) Panel {
  static constexpr int kLength = k_major ? kDepth<T> : kTile, kPitch = kLength + kPackWidth<T>;
  T values[(k_major ? kTile : kDepth<T>) * kPitch];

  __device__ const T& at(int mn, int k) const { return values[k_major ? mn * kPitch + k : k * kPitch + mn]; }
  __device__ T& at(int mn, int k) { return values[k_major ? mn * kPitch + k : k * kPitch + mn]; }
  // k and k + 1, for even k, as tensor cores take them.
  __device__ uint32_t pair(int mn, int k) const {
    static_assert(sizeof(T) == 2);
    if constexpr (k_major) return *reinterpret_cast<const uint32_t*>(&at(mn, k));
    const auto half = [&](int k) { return uint32_t{*reinterpret_cast<const uint16_t*>(&at(mn, k))}; };
    return half(k) | half(k + 1) << 16;
  }
};

// One thread's share of filling a panel.
template <class T, class Operand>
class Loader {
 public:
  __device__ Loader(const Operand& operand, int first) : operand_(operand) {
    for (int i = 0; i < kChunks; ++i) positions_[i] = operand.position(first + mn(i));
  }

  __device__ void load(int first_k, Panel<T, Operand::k_major>& to) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const auto chunk = operand_.at(positions_[i], first_k + k(i));
      T* const slot = &to.at(mn(i), k(i));
      if (operand_.aligned()) {
        copy_16(slot, chunk.from, chunk.count == 0);
        continue;
      }
      Pack<T, kPackWidth<T>> pack;
      for (int lane = 0; lane < kPackWidth<T>; ++lane) {
        pack.values[lane] = lane < chunk.count ? chunk.from[lane] : from_compute<T>(0);
      }
      *reinterpret_cast<Pack<T, kPackWidth<T>>*>(slot) = pack;
    }
  }

 private:
  static constexpr int kAcross = Panel<T, Operand::k_major>::kLength / kPackWidth<T>;  // chunks of a panel's row
  static constexpr int kChunks = kTile * kDepth<T> / kPackWidth<T> / kTileThreads;
  static_assert(kTileThreads % kAcross == 0 && kChunks * kPackWidth<T> * kTileThreads == kTile * kDepth<T>);

  __device__ static int row(int i) { return (threadIdx.x + i * kTileThreads) / kAcross; }
  __device__ static int across() { return threadIdx.x % kAcross * kPackWidth<T>; }
  __device__ static int mn(int i) { return Operand::k_major ? row(i) : across(); }
  __device__ static int k(int i) { return Operand::k_major ? across() : row(i); }

  const Operand& operand_;
  typename Operand::Position positions_[kChunks];
};

// ---- multiplying two panels ---------------------------------------------------------------------------------------------

// A thread's 8 x 4 neighbours. Sum i is out[row(thread, i)][column(thread, i)] of the tile.
template <class T>
struct Fma {
  using A = Compute<T>;
  A sums[8][4] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) { return thread / 16 * 8 + i / 4; }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) { return thread % 16 * 4 + i % 4; }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    const int thread = threadIdx.x;
#pragma unroll 4
    for (int k = 0; k < kDepth<T>; ++k) {
      A a[8], b[4];
#pragma unroll
      for (int i = 0; i < 8; ++i) a[i] = to_compute(left.at(row(thread, i * 4), k));
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] = to_compute(right.at(column(thread, i), k));
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i / 4][i % 4] += a[i / 4] * b[i % 4];
    }
  }
};

// A warp's 32 x 32, as 2 x 4 products of tensor cores, of which a thread holds 4 sums each.
template <class T>
struct TensorCore {
  using A = float;
  A sums[8][4] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) {
    return thread / 64 * 32 + i / 16 * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
  }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) {
    return thread / 32 % 2 * 32 + i / 4 % 4 * 8 + thread % 4 * 2 + i % 2;
  }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += 16) {
      uint32_t a[2][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int m = warp / 2 * 32 + i / 4 * 16 + group + i % 2 * 8, n = warp % 2 * 32 + i / 2 * 8 + group;
        a[i / 4][i % 4] = left.pair(m, k + pair + i % 4 / 2 * 8);
        b[i / 2][i % 2] = right.pair(n, k + pair + i % 2 * 8);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_add<T>(sums[i], a[i / 4], b[i % 4]);
    }
  }
};

// ---- what becomes of the sums -------------------------------------------------------------------------------------------

template <class Out>
struct Store {
  using A = Compute<Out>;
  Out* output;  // dense
  int64_t total;
  A* partial;           // [splits, total] where k is split, otherwise null
  const Out* bias;      // [channels] or null
  int64_t channels, channel_stride;
  Activation activation;
  A negative_slope;

  __device__ A activated(A z) const {
    switch (activation) {
      case Activation::relu: return activate<Activation::relu>(z, negative_slope);
      case Activation::leaky_relu: return activate<Activation::leaky_relu>(z, negative_slope);
      case Activation::tanh: return activate<Activation::tanh>(z, negative_slope);
      case Activation::sigmoid: return activate<Activation::sigmoid>(z, negative_slope);
      default: return z;
    }
  }
  __device__ void finish(int64_t index, A sum) const {
    if (bias) sum += to_compute(bias[index / channel_stride % channels]);
    output[index] = from_compute<Out>(activated(sum));
  }
};

// ---- kernels ------------------------------------------------------------------------------------------------------------

struct Plan {
  int tiles_m, tiles_n, parts, splits;
  int64_t blocks() const { return int64_t{tiles_m} * tiles_n * parts * splits; }
};

// Shared memory holds two panels of each operand, and afterwards the tile of sums, which is written out row by row.
template <class T, bool left_k_major, bool right_k_major>
union Shared {
  struct {
    Panel<T, left_k_major> left[2];
    Panel<T, right_k_major> right[2];
  } panels;
  Compute<T> sums[kTile][kTile + 1];
};

template <class Job, class Out, bool tensor_cores>
__global__ void __launch_bounds__(kTileThreads) multiply(Job job, Plan plan, Store<Out> store) {
  using T = typename Job::Element;
  using Multiplier = std::conditional_t<tensor_cores && kHasTensorCores, TensorCore<T>, Fma<T>>;
  using Left = typename Job::Left;
  using Right = typename Job::Right;
  __shared__ Shared<T, Left::k_major, Right::k_major> shared;
  auto& panels = shared.panels;

  int block = blockIdx.x;
  const int first_n = block % plan.tiles_n * kTile;
  block /= plan.tiles_n;
  const int first_m = block % plan.tiles_m * kTile;
  block /= plan.tiles_m;
  const int split = block % plan.splits;
  const auto part = job.part(block / plan.splits);
  if (first_m >= part.rows) return;  // a phase with fewer pixels than the largest

  const Left left{job, part};
  const Right right{job, part};
  const Loader<T, Left> load_left(left, first_m);
  const Loader<T, Right> load_right(right, first_n);
  const int64_t steps = (int64_t{part.depth} + kDepth<T> - 1) / kDepth<T>;
  const int begin = static_cast<int>(steps * split / plan.splits), end = static_cast<int>(steps * (split + 1) / plan.splits);
  Multiplier multiplier;
  for (int step = begin - 1; step < end; ++step) {  // one ahead: what is multiplied was asked for a step before
    const int next = step + 1;
    if (next < end) {
      load_left.load(next * kDepth<T>, panels.left[next & 1]);
      load_right.load(next * kDepth<T>, panels.right[next & 1]);
    }
    commit_copies();
    if (step < begin) continue;
    wait_for_copies<1>();
    __syncthreads();
    multiplier.add(panels.left[step & 1], panels.right[step & 1]);
    __syncthreads();
  }

  const int thread = threadIdx.x;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    shared.sums[Multiplier::row(thread, i)][Multiplier::column(thread, i)] = multiplier.sums[i / 4][i % 4];
  }
  __syncthreads();
#pragma unroll 1
  for (int i = thread; i < kTile * kTile; i += kTileThreads) {
    const int64_t index = job.index(part, first_m + i / kTile, first_n + i % kTile);
    if (index < 0) continue;
    const auto sum = shared.sums[i / kTile][i % kTile];
    if (store.partial) {
      store.partial[split * store.total + index] = sum;
    } else {
      store.finish(index, sum);
    }
  }
}

template <class Out>
__global__ void __launch_bounds__(kThreads) add_splits(int splits, Store<Out> store) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < store.total; i += stride) {
    Compute<Out> sum = store.partial[i];
    for (int split = 1; split < splits; ++split) sum += store.partial[split * store.total + i];
    store.finish(i, sum);
  }
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

template <class Job>
Plan plan_of(const Job& job) {
  int rows = 0, columns = 0, depth = 0;
  for (int i = 0; i < job.parts(); ++i) {
    const auto part = job.part(i);
    rows = std::max(rows, part.rows);
    columns = std::max(columns, part.columns);
    depth = std::max(depth, part.depth);
  }
  Plan plan{(rows + kTile - 1) / kTile, (columns + kTile - 1) / kTile, job.parts(), 1};
  plan.splits = splits_for(plan.blocks(), depth / kDepth<typename Job::Element>);
  return plan;
}

template <bool tensor_cores, class Launch, class Job, class Out>
void run(const Launch& launch, const Job& job, const Plan& plan, const Store<Out>& store) {
  launch(multiply<Job, Out, tensor_cores>, static_cast<unsigned>(plan.blocks()), kTileThreads, job, plan, store);
  if (store.partial) launch(add_splits<Out>, blocks_for(store.total, kThreads), kThreads, plan.splits, store);
}

}  // namespace
}  // namespace fastgan::conv

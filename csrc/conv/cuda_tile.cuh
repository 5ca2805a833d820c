// The tile kernel of every CUDA convolution: a block's threads make a tile of one of cuda_index.cuh's products, from panels in shared
// memory, of which two are on their way while one is multiplied.
//
// Where there are too few tiles to fill a GPU, k is split, each split writes its own partial sums, and a second kernel adds
// them in order: no atomics, so results are reproducible. How often is a matter of the shape alone, never of the card.
#pragma once

#include "conv/cuda_epilogue.cuh"
#include "conv/cuda_multiply.cuh"

namespace fastgan::conv {
namespace {

// For tensor cores, and for the others. Thin ones are for outputs of few channels, of which others would be mostly padding.
using Wide = Shape<128, 128, 256>;
using Half = Shape<128, 64, 256>;
using Thin = Shape<128, 8, 256>;
using Square = Shape<64, 64, 128>;
using ThinFma = Shape<128, 8, 128>;

// ---- tiles --------------------------------------------------------------------------------------------------------------

struct Plan {
  Divisor tiles_m, tiles_n, parts, groups;  // tiles_m: of a group of images, so that none holds rows of two
  Divisor splits;
  Divisor tiles;  // all together

  Plan(int tiles_m, int tiles_n, int parts, int groups)
      : tiles_m(tiles_m), tiles_n(tiles_n), parts(parts), groups(groups), splits(1), tiles(tiles_m * tiles_n * parts * groups) {}
};

// Which tile a number means, and its part of the job, whose rows end with the group's.
template <class Job, class Shape>
struct Tile {
  typename Job::Part part;
  int first_m, first_n;
  int64_t chunk;  // its number among the tiles of its columns, group by group

  FASTGAN_HOST_DEVICE Tile(const Job& job, const Plan& plan, int number) {
    first_n = plan.tiles_n.rest(number) * Shape::kColumns;
    number = plan.tiles_n.into(number);
    const int tile = plan.tiles_m.rest(number), part_of_group = plan.tiles_m.into(number);
    part = job.part(plan.parts.rest(part_of_group));
    part.group = plan.parts.into(part_of_group);
    const int rows = plan.groups.into(part.rows);
    first_m = rows * part.group + tile * Shape::kRows;
    part.rows = rows * (part.group + 1);
    chunk = number;
  }

  // Of its rows from this one on, whose chunk of moments or sums has that number.
  FASTGAN_HOST_DEVICE RowsPlace place(int row, int64_t number_of_chunk) const {
    return {first_n, part.rows - first_m - row, part.columns - first_n, part.group, number_of_chunk};
  }
};

// ---- kernels ------------------------------------------------------------------------------------------------------------

enum class Side { none, left, right };  // which operand has normalise + activate pending

// The panels of both operands, and afterwards the tile of sums, which is written out row by row.
constexpr int kStages = 3;
template <class Job, class Out, class Shape>
struct Shared {
  using T = typename Job::Element;
  struct alignas(1024) Stage {
    Panel<T, Job::k_major, Shape::kRows> left;
    Panel<T, Job::k_major, Shape::kColumns> right;
  };
  union {
    Stage stages[kStages];
    Rows<Out, Shape::kRows, Shape::kColumns, Shape::kThreads> rows;
  };
  Offsets<Shape::kRows, Shape::kColumns, Shape::kThreads> offsets;
  static constexpr size_t kBytes = sizeof(stages) + sizeof(offsets);
  static_assert(sizeof(rows) <= sizeof(stages) && sizeof(stages) % 1024 == 0);
  // What a block may have where it has least: by compute capability 7.5 (of the shapes it runs) and 8.6. CUDA C++ Programming Guide,
  // "Technical Specifications per Compute Capability".
  static_assert(kBytes + kSharedAlignment <= (Shape::kThreads == 128 ? 64 : 99) * 1024);
};

// How many blocks a multiprocessor's registers are to be enough for.
template <class T, class Shape, Side pending>
constexpr int kBlocks = Shape::kThreads == 128                         ? (sizeof(T) == 4 && pending != Side::right ? 3 : 2)
                        : kHasWarpgroups && sizeof(T) == 2 && pending == Side::none ? 2
                                                                                      : 1;

// Whether a device that runs the code that is compiled is ever given such products (with_unit in cuda_planned.cuh); where not, a kernel takes no
// time to compile.
#ifdef FASTGAN_EMULATED_DEVICE
template <class T, Unit unit>
constexpr bool kIsLaunched = true;
#else
template <class T, Unit unit>
constexpr bool kIsLaunched = unit == Unit::fma ? sizeof(T) > 2 || !kHasTensorCores : kHasTensorCores;
#endif

template <class Shape, class T>
__device__ auto right_loader(const Gather<T>& job, const Tile<Gather<T>, Shape>& tile, const Plan& plan) {
  using Loader = PanelLoader<T, Shape::kColumns, Shape::kThreads>;
  const int64_t first = (int64_t{tile.part.index} * plan.tiles_n + tile.first_n / Shape::kColumns) * job.steps;
  return Loader(reinterpret_cast<const typename Loader::Target*>(job.weight) + first);
}
template <class Shape, class T>
__device__ auto right_loader(const Wgrad<T>& job, const Tile<Wgrad<T>, Shape>& tile, const Plan&) {
  return Loader<T, typename Wgrad<T>::Right, false, Shape::kColumns, Shape::kThreads>({job, tile.part}, tile.first_n);
}

template <class Job, class Out, class Shape, Side pending, Unit unit>
__global__ void __launch_bounds__(Shape::kThreads, kBlocks<typename Job::Element, Shape, pending>)
    multiply(Job job, Plan plan, Store<Out> store) {
  follow();
  using T = typename Job::Element;
  if constexpr (kIsLaunched<T, unit>) {
    using Multiplier = typename MultiplierOf<unit, T, Shape>::type;
    constexpr int kThreads = Shape::kThreads;
    auto& shared = *reinterpret_cast<Shared<Job, Out, Shape>*>(dynamic_shared());
    auto& stages = shared.stages;

    const int tiles = plan.tiles, split = plan.tiles.into(blockIdx.x), number = blockIdx.x - split * tiles;
    const Tile<Job, Shape> tile(job, plan, number);
    // While the first loads are on their way, where there are registers for what these need.
    constexpr bool kFillsLate = unit != Unit::fma;
    const auto fill = [&] { shared.offsets.fill(job, tile.part, tile.first_m, tile.first_n); };
    if (!kFillsLate) fill();
    const Loader<T, typename Job::Left, Job::k_major, Shape::kRows, kThreads> load_left({job, tile.part}, tile.first_m);
    const auto load_right = right_loader<Shape>(job, tile, plan);
    // None where a phase has fewer pixels than the largest.
    const int steps = tile.first_m < tile.part.rows ? (tile.part.depth + kDepth<T> - 1) / kDepth<T> : 0;
    const int each = plan.splits.into(steps), more = steps - each * plan.splits;  // the first splits have one step more
    const int begin = split * each + (split < more ? split : more), end = begin + each + (split < more);

    // Where the thread's chunks are along k: of what is loaded, and, behind that, of what is finished.
    using Own = Share<T, Job::k_major, kThreads>;
    const Radix radix = tile.part.radix(job);
    const Counter by(kDepth<T>, radix);
    const auto counters = [&](int counter) { return Counter(begin * kDepth<T> + Own::k(counter), radix); };
    Counters<Own::kCounters> loaded(counters), finished(loaded);

    const auto after = [](int stage) { return stage + 1 < kStages ? stage + 1 : 0; };
    int loading = 0;  // a stage
    const auto load = [&](int step) {
      if (step < end) {
        load_left.load(step, loaded.values, stages[loading].left);
        load_right.load(step, loaded.values, stages[loading].right);
        loaded.advance(by, radix);
        loading = after(loading);
      }
      commit_copies();  // a group for every step, also without a copy, so that the number of later groups is known
    };
    // What the oldest load that is on its way brings becomes what is multiplied, as far as this thread brought it.
    int prepared = 0, multiplied = 0;  // stages
    const auto prepare = [&] {
      wait_for_copies<kStages - 2>();
      if constexpr (pending == Side::left) load_left.finish(job.before, finished.values, stages[prepared].left);
      if constexpr (pending == Side::right) load_right.finish(job.before, finished.values, stages[prepared].right);
      if constexpr (pending != Side::none) finished.advance(by, radix);
      prepared = after(prepared);
      fence_shared_writes();
    };
    for (int ahead = 0; ahead < kStages - 1; ++ahead) load(begin + ahead);
    if (kFillsLate) fill();
    Multiplier multiplier;
    if (begin < end) prepare();
#pragma unroll 1
    for (int step = begin; step < end; ++step) {
      __syncthreads();  // this step's stage is complete, and nobody reads the one before any more
      multiplier.add(stages[multiplied].left, stages[multiplied].right);
      multiplied = after(multiplied);
      load(step + kStages - 1);
      if (step + 1 < end) prepare();
      multiplier.wait();
    }
    __syncthreads();

    const int thread = threadIdx.x;
    auto& rows = shared.rows;
    constexpr int kTogether = Multiplier::kTogether;
    using Together = Pack<Compute<T>, kTogether>;
#pragma unroll
    for (int i = 0; i < Multiplier::kSums; i += kTogether) {
      Together sums;
#pragma unroll
      for (int j = 0; j < kTogether; ++j) sums.values[j] = multiplier.sums[i + j];
      *reinterpret_cast<Together*>(&rows.sums[Multiplier::row(thread, i)][Multiplier::column(thread, i)]) = sums;
    }
    __syncthreads();
    if (!store.partial) return rows.template store<Job::has_epilogue>(shared.offsets, tile.place(0, tile.chunk), store);
    auto* const to = store.partial + (int64_t{split} * tiles + number) * Shape::kNumel;
    for (int i = thread; i < Shape::kNumel; i += kThreads) to[i] = rows.sums[i / Shape::kColumns][i % Shape::kColumns];
  } else {
    __trap();  // an error, rather than an output that nobody wrote
  }
}

constexpr int kSlab = 16;  // rows of a tile whose splits one block adds

template <class Job, class Out, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1024 / Shape::kThreads) add_splits(Job job, Plan plan, Store<Out> store) {
  follow();
  constexpr int kSlabs = Shape::kRows / kSlab, kThreads = Shape::kThreads;
  __shared__ Rows<Out, kSlab, Shape::kColumns, kThreads> rows;
  __shared__ Offsets<kSlab, Shape::kColumns, kThreads> offsets;
  const int number = blockIdx.x / kSlabs, slab = blockIdx.x % kSlabs;
  const Tile<Job, Shape> tile(job, plan, number);
  offsets.fill(job, tile.part, tile.first_m + slab * kSlab, tile.first_n);
  const auto* const from = store.partial + int64_t{number} * Shape::kNumel + slab * kSlab * Shape::kColumns;
  const int64_t stride = int64_t{plan.tiles} * Shape::kNumel;
  for (int i = threadIdx.x; i < kSlab * Shape::kColumns; i += kThreads) {
    Compute<Out> sum = from[i];
    for (int split = 1; split < plan.splits; ++split) sum += from[split * stride + i];
    rows.sums[i / Shape::kColumns][i % Shape::kColumns] = sum;
  }
  __syncthreads();
  rows.template store<Job::has_epilogue>(offsets, tile.place(slab * kSlab, tile.chunk * kSlabs + slab), store);
}

// ---- host ---------------------------------------------------------------------------------------------------------------

// A split costs its partial sums, written and read again: none where there are tiles for most of the multiprocessors of a large GPU.
inline int splits_for(int64_t tiles, int64_t steps) {
  constexpr int64_t kBlocksWanted = 160, kLeastSteps = 4, kMostSplits = 128;
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
  Plan plan(tiles_m, tiles_n, job.parts(), groups);
  plan.splits = splits_for(plan.tiles, depth / kDepth<typename Job::Element>);
  return plan;
}

// Of rows of which moments or sums are taken, a group's.
template <class Shape>
int64_t chunks_of(const Plan& plan) {
  return int64_t{plan.parts} * plan.tiles_m * (plan.splits > 1 ? Shape::kRows / kSlab : 1);
}

template <class Shape, Side pending, Unit unit, class Launch, class Job, class Out>
void run(const Launch& launch, const Job& job, const Plan& plan, const Store<Out>& store) {
  const unsigned tiles = static_cast<int>(plan.tiles);
  launch.template with_shared<multiply<Job, Out, Shape, pending, unit>>(Shared<Job, Out, Shape>::kBytes, tiles * plan.splits,
                                                                        Shape::kThreads, job, plan, store);
  if (store.partial) {
    launch(add_splits<Job, Out, Shape>, tiles * (Shape::kRows / kSlab), Shape::kThreads, job, plan, store);
  }
}

}  // namespace
}  // namespace fastgan::conv

// Operands in the form that the tile kernel reads them: maps in whole chunks of channels, and weights in panels.
#pragma once

#include "conv/cuda_panel.cuh"

namespace fastgan::conv {
namespace {

// A map from a dense channels-last one. A thread a pixel; grid: (pixels, chunks of channels)
template <class T>
__global__ void __launch_bounds__(kThreads) pad_channels(const T* map, int channels, int64_t pixels, T* to) {
  follow();
  constexpr int kWidth = kPackWidth<T>;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  const int first = blockIdx.y * kWidth, chunks = gridDim.y;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < pixels; i += stride) {
    Pack<T, kWidth> chunk;
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      chunk.values[lane] = first + lane < channels ? map[i * channels + first + lane] : from_compute<T>(0);
    }
    reinterpret_cast<Pack<T, kWidth>*>(to)[i * chunks + blockIdx.y] = chunk;
  }
}

struct WeightStrides {
  int64_t out, in, y, x;
};

// A weight, from any strides, to the panels of a Gather: [parts, tiles of `columns` outs, steps].
template <class T>
struct Packing {
  GatherTaps taps;
  int ins, outs;
  Divisor steps, columns;
  WeightStrides strides;
  const void* from;  // of T, or of float32 beside a bfloat16 map
  bool from_float32;
  T* to;
  int blocks;  // of threads

  static constexpr int kChunksEach = 4;  // of a thread

  FASTGAN_HOST_DEVICE int panels() const { return columns.into(outs + columns - 1) * steps; }  // of a part
  FASTGAN_HOST_DEVICE int chunks() const { return panels() * columns * kRowChunks; }
  FASTGAN_HOST_DEVICE int blocks_of_part() const { return (chunks() + kThreads * kChunksEach - 1) / (kThreads * kChunksEach); }
  int64_t numel() const { return int64_t{taps.parts()} * chunks() * kPackWidth<T>; }
};

// All of a run's, which one launch packs.
constexpr int kMostPackings = 10;  // a kernel's parameters have 4 KB
template <class T>
struct Packings {
  Packing<T> of[kMostPackings];
};
static_assert(sizeof(Packings<double>) <= 4096);

// A block has a stretch of panels of one part; a thread has chunks. Its neighbours have the next k of a column, or the same k of other
// columns where these are what lies together. What is beyond k, the columns or the channels is zeros. 32 bits are enough for the number
// of chunks (engine_cuda.cpp).
template <class T, class From>
__device__ inline void pack_weight(const Packing<T>& p, int block) {
  constexpr int kWidth = kPackWidth<T>;
  const int per_part = p.blocks_of_part(), part = block / per_part;
  const PhaseAxis along_y = p.taps.phase_y(part), along_x = p.taps.phase_x(part);
  const Radix radix = p.taps.radix(along_x);
  auto* const to = reinterpret_cast<Pack<T, kWidth>*>(p.to) + int64_t{part} * p.chunks();
  const bool down = p.strides.out < p.strides.in;
  const int total = p.chunks(), stride = per_part * kThreads;
  for (int i = block % per_part * kThreads + threadIdx.x; i < total; i += stride) {
    const int along = down ? p.columns.into(i) : i / kRowChunks, panel = down ? along / kRowChunks : p.columns.into(along);
    const int row = down ? p.columns.rest(i) : p.columns.rest(along), number = (down ? along : i) % kRowChunks;
    const int tile = p.steps.into(panel), n = tile * p.columns + row;
    const Counter k((panel - tile * p.steps) * kDepth<T> + number * kWidth, radix);
    const int y = along_y.kernel + k.high * along_y.kernel_step, x = along_x.kernel + k.middle * along_x.kernel_step;
    const auto* const from =
        static_cast<const From*>(p.from) + n * p.strides.out + k.low * p.strides.in + y * p.strides.y + x * p.strides.x;
    const int left = n < p.outs && k.high < along_y.taps && along_x.taps > 0 ? p.ins - k.low : 0;
    Pack<T, kWidth> chunk;
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      chunk.values[lane] = from_compute<T>(lane < left ? Compute<T>(to_compute(from[lane * p.strides.in])) : Compute<T>(0));
    }
    to[(int64_t{panel} * p.columns + row) * kRowChunks + swizzled(number, row)] = chunk;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) pack_weights(const __grid_constant__ Packings<T> all) {
  follow();
  int at = 0, block = blockIdx.x;
  while (block >= all.of[at].blocks) block -= all.of[at++].blocks;
  const Packing<T>& packing = all.of[at];
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    if (packing.from_float32) return pack_weight<T, float>(packing, block);
  }
  pack_weight<T, T>(packing, block);
}

}  // namespace
}  // namespace fastgan::conv

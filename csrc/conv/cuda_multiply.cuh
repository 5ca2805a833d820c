// Multiplying two panels: what a thread sums up of a tile, by which unit of the device.
//
// Each of these holds kSums sums; sum i is out[row(thread, i)][column(thread, i)] of the tile, and kTogether of them, from a multiple of
// that on, are neighbours in a row. `add` begins with a product that may go on until `wait`; the panels and the sums must be left alone
// until then.
#pragma once

#include "conv/cuda_panel.cuh"

namespace fastgan::conv {
namespace {

template <int rows, int columns, int threads>
struct Shape {
  static constexpr int kRows = rows, kColumns = columns, kNumel = rows * columns, kThreads = threads;
};

enum class Unit { fma, warps, tensor_cores };  // tensor_cores: those of warpgroups where there are any, otherwise of warps

template <class T, class Shape>
struct Fma {
  using A = Compute<T>;
  static constexpr int kTogether = 1, kSums = Shape::kNumel / Shape::kThreads, kAcross = Shape::kColumns < 64 ? 2 : 4, kDown = kSums / kAcross;
  static constexpr int kThreadsAcross = Shape::kColumns / kAcross, kThreadsDown = Shape::kThreads / kThreadsAcross;
  A sums[kSums] = {};

  // A warp's threads read neighbouring rows, which lie in different banks.
  FASTGAN_HOST_DEVICE static int row(int thread, int i) { return thread / kThreadsAcross + i / kAcross * kThreadsDown; }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) { return thread % kThreadsAcross + i % kAcross * kThreadsAcross; }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    constexpr int kWidth = kPackWidth<T>;
    const int thread = threadIdx.x;
#pragma unroll 1
    for (int k = 0; k < kDepth<T>; k += kWidth) {
      Pack<T, kWidth> a[kDown], b[kAcross];
#pragma unroll
      for (int i = 0; i < kDown; ++i) a[i] = left.along_k(row(thread, i * kAcross), k);
#pragma unroll
      for (int i = 0; i < kAcross; ++i) b[i] = right.along_k(column(thread, i), k);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] += to_compute(a[i / kAcross].values[j]) * to_compute(b[i % kAcross].values[j]);
      }
    }
  }
  __device__ void wait() const {}
};

// A warp's part of the tile, as products of 16 x 8; of float32, of operands rounded to TF32.
template <class T, class Shape>
struct Warps {
  static constexpr int kColumns = Shape::kColumns < 32 ? Shape::kColumns : 32;  // of a warp
  static constexpr int kWarpsAcross = Shape::kColumns / kColumns, kWarpsDown = Shape::kThreads / 32 / kWarpsAcross;
  static constexpr int kRows = Shape::kRows / kWarpsDown, kDown = kRows / 16, kAcross = kColumns / 8;
  static constexpr int kTogether = 2, kSums = kDown * kAcross * 4;
  static_assert(kSums * Shape::kThreads == Shape::kNumel);
  float sums[kSums] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) {
    return thread / 32 / kWarpsAcross * kRows + i / 4 / kAcross * 16 + thread % 32 / 4 + i % 4 / 2 * 8;
  }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) {
    return thread / 32 % kWarpsAcross * kColumns + i / 4 % kAcross * 8 + thread % 4 * 2 + i % 2;
  }

  template <class Left, class Right>
  __device__ void add(const Left& left, const Right& right) {
    const int warp = threadIdx.x / 32, m = warp / kWarpsAcross * kRows, n = warp % kWarpsAcross * kColumns;
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += 2 * kPackWidth<T>) {
      uint32_t a[kDown][4], b[(kAcross + 1) / 2][4];
#pragma unroll
      for (int i = 0; i < kDown; ++i) left.matrices(a[i], m + i * 16, k);
#pragma unroll
      for (int i = 0; i < (kAcross + 1) / 2; ++i) right.matrices(b[i], n + i * 16, k);
      if constexpr (sizeof(T) == 4) {
        round_to_tf32(a);
        round_to_tf32(b);
      }
#pragma unroll
      for (int i = 0; i < kDown * kAcross; ++i) {
        const int across = i % kAcross;
        const uint32_t of_8[2] = {b[across / 2][across % 2], b[across / 2][across % 2 + 2]};
        multiply_add<T>(reinterpret_cast<float(&)[4]>(sums[i * 4]), a[i / kAcross], of_8);
      }
    }
  }
  __device__ void wait() const {}
};

// A warpgroup's 64 rows of the tile, in one instruction for each 16 of k.
template <class T, class Shape>
struct Warpgroups {
  static constexpr int kRows = 64, kTogether = 2, kSums = Shape::kColumns / 2;
  static_assert(kRows * Shape::kThreads == Shape::kRows * 128 && kSums * Shape::kThreads == Shape::kNumel);
  float sums[kSums] = {};

  FASTGAN_HOST_DEVICE static int row(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
  FASTGAN_HOST_DEVICE static int column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

  template <bool k_major, int rows, int columns>
  __device__ void add(const Panel<T, k_major, rows>& left, const Panel<T, k_major, columns>& right) {
    const uint64_t of_left = left.descriptor(threadIdx.x / 128 * kRows), of_right = right.descriptor(0);
    begin_products();
#pragma unroll
    for (int k = 0; k < kDepth<T>; k += 16) {
      warpgroup_multiply_add<T, Shape::kColumns, !k_major>(sums, left.advanced(of_left, k), right.advanced(of_right, k));
    }
    commit_products();
  }
  __device__ void wait() const { wait_for_products(); }
};

template <Unit unit, class T, class Shape>
struct MultiplierOf {
  using type = Fma<T, Shape>;
};
template <class T, class Shape>
struct MultiplierOf<Unit::warps, T, Shape> {
  using type = Warps<T, Shape>;
};
template <class T, class Shape>
struct MultiplierOf<Unit::tensor_cores, T, Shape> {
  using type = std::conditional_t<kHasWarpgroups, Warpgroups<T, Shape>, Warps<T, Shape>>;
};

}  // namespace
}  // namespace fastgan::conv

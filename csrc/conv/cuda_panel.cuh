// The operands of a tile in shared memory, a stretch of k at a time: panels, and how a block's threads fill them.
#pragma once

#include "conv/cuda_prologue.cuh"
#include "conv/cuda_warpgroup.cuh"

namespace fastgan::conv {
namespace {

constexpr int kRowBytes = 128, kRowChunks = kRowBytes / 16;
template <class T>
constexpr int kDepth = kRowBytes / sizeof(T);  // of a panel

// Where in a row the chunk of a number lies.
__device__ inline int swizzled(int number, int row) { return number ^ row % 8; }

// Rows of 128 bytes: a row is `kDepth` of k for each of m or n, or, where an operand's neighbours in memory differ in m or n, as many
// of those for each of k, block by block. The chunks of a row are exchanged by the row's number ("128-byte swizzle"), so that eight
// rows' chunks of one number lie in different banks. Begins at a multiple of 1024 bytes.
template <class T, bool k_major, int length>
struct Panel {
  static constexpr int kWidth = kPackWidth<T>, kRows = k_major ? length : (length + kDepth<T> - 1) / kDepth<T> * kDepth<T>;
  static constexpr int kBlockBytes = kDepth<T> * kRowBytes;
  struct Chunk {
    T values[kWidth];
  };
  Chunk rows[kRows][kRowChunks];

  __device__ T* chunk(int row, int number) { return rows[row][swizzled(number, row)].values; }
  __device__ const T* chunk(int row, int number) const { return rows[row][swizzled(number, row)].values; }

  // kWidth of k, from a multiple of that on.
  __device__ Pack<T, kWidth> along_k(int mn, int k) const {
    Pack<T, kWidth> pack;
    if constexpr (k_major) {
      pack = *reinterpret_cast<const Pack<T, kWidth>*>(chunk(mn, k / kWidth));
    } else {
      const int first = mn / kDepth<T> * kDepth<T> + k;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) pack.values[i] = chunk(first + i, mn % kDepth<T> / kWidth)[mn % kWidth];
    }
    return pack;
  }

  // 16 of m or n by two chunks of k from here on, in the order of multiply_add's a. The first 8 of n alone are its elements 0 and 2,
  // the others 1 and 3, which a panel of 8 has the same.
  __device__ void matrices(uint32_t (&to)[4], int mn, int k) const {
    static_assert(sizeof(T) <= 4 && (k_major || length >= 16));
    const int lane = threadIdx.x % 32;
    if constexpr (k_major) {
      load_matrices<false>(to, chunk(mn + lane % 16 % length, k / kWidth + lane / 16));
    } else if constexpr (sizeof(T) == 4) {  // no instruction exchanges rows and columns of 32 bits
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = mn + lane / 4 + i % 2 * 8, row = at / kDepth<T> * kDepth<T> + k + lane % 4 + i / 2 * 4;
        to[i] = __float_as_uint(chunk(row, at % kDepth<T> / kWidth)[at % kWidth]);
      }
    } else {
      const int row = mn / kDepth<T> * kDepth<T> + k + lane / 16 * 8 + lane % 8;
      load_matrices<true>(to, chunk(row, mn % kDepth<T> / kWidth + lane / 8 % 2));
    }
  }

  // From this m or n on, for a warpgroup; m or n is a multiple of 64, or of 8 along k.
  __device__ uint64_t descriptor(int mn) const {
    const int byte = k_major ? mn * kRowBytes : mn / kDepth<T> * kBlockBytes;
    return descriptor_of(shared_address(rows) + byte, k_major ? 16 : kBlockBytes);
  }
  __device__ static uint64_t advanced(uint64_t descriptor, int k) {
    return descriptor_after(descriptor, k * (k_major ? int{sizeof(T)} : kRowBytes));
  }
};

// One thread's share of copying panels that lie in memory as in shared memory.
template <class T, int length, int threads>
class PanelLoader {
 public:
  using Target = Panel<T, true, length>;

  // panels: of all steps.
  __device__ explicit PanelLoader(const Target* panels) : panels_(panels) {}

  template <class Counters>
  __device__ void load(int step, const Counters&, Target& to) const {
    constexpr int kAll = Target::kRows * kRowChunks;
    const auto* const from = &panels_[step].rows[0][0];
#pragma unroll
    for (int i = 0; i < kAll; i += threads) {
      const int chunk = i + static_cast<int>(threadIdx.x);
      if (kAll % threads == 0 || chunk < kAll) copy_16(&to.rows[0][0] + chunk, from + chunk, false);
    }
  }

 private:
  const Target* panels_;
};

// Which chunks of a panel are a thread's: chunk `number` of rows `threads / 8` apart. In every panel of a kernel these have the same
// k, which is where its counters are.
template <class T, bool k_major, int threads>
struct Share {
  static constexpr int kApart = threads / kRowChunks;
  static constexpr int kCounters = k_major ? 1 : kDepth<T> / kApart;
  static_assert(threads % kRowChunks == 0 && kApart % 8 == 0 && (k_major || kDepth<T> % kApart == 0));

  __device__ static int number() { return threadIdx.x % kRowChunks; }
  __device__ static int row(int i) { return threadIdx.x / kRowChunks + i * kApart; }
  __device__ static int k(int counter) { return k_major ? number() * kPackWidth<T> : row(counter); }
};

// One thread's share of filling panels with what an operand says.
template <class T, class Operand, bool k_major, int length, int threads>
class Loader {
 public:
  using Target = Panel<T, k_major, length>;
  using Own = Share<T, k_major, threads>;
  static constexpr int kCounters = Own::kCounters;

  // first: m or n.
  __device__ Loader(const Operand& operand, int first) : operand_(operand) {
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
      positions_[i] = operand.position(first + (k_major ? Own::row(i) : i * kDepth<T> + Own::number() * kPackWidth<T>));
    }
  }

  __device__ void load(int, const Counter (&k)[kCounters], Target& to) const {
    const Alongs along(*this, k);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (!is_mine(i)) continue;
      const Place place = operand_.at(positions_[i / kCounters], along.of[i % kCounters]);
      copy_16(to.chunk(Own::row(i), Own::number()), reinterpret_cast<const void*>(place.address), !place.inside);
    }
  }

  // Normalise + activate, of what a load with these counters brought, once it is there: its own chunks only, so no other thread has to
  // wait for it.
  __device__ void finish(const Prologue<T>& prologue, const Counter (&k)[kCounters], Target& panel) const {
    switch (prologue.activation) {
      case Activation::relu: return finish<Activation::relu>(prologue, k, panel);
      case Activation::leaky_relu: return finish<Activation::leaky_relu>(prologue, k, panel);
      case Activation::tanh: return finish<Activation::tanh>(prologue, k, panel);
      case Activation::sigmoid: return finish<Activation::sigmoid>(prologue, k, panel);
      default: return finish<Activation::none>(prologue, k, panel);
    }
  }

 private:
  static constexpr int kAll = Target::kRows * kRowChunks, kChunks = (kAll + threads - 1) / threads;
  static constexpr int kPositions = (kChunks + kCounters - 1) / kCounters;

  __device__ static bool is_mine(int i) {
    return kAll % threads == 0 || static_cast<int>(threadIdx.x) + i * threads < kAll;
  }

  struct Alongs {
    typename Operand::Along of[kCounters];
    __device__ Alongs(const Loader& loader, const Counter (&k)[kCounters]) {
#pragma unroll
      for (int i = 0; i < kCounters; ++i) of[i] = loader.operand_.along(k[i]);
    }
  };

  template <Activation kind>
  __device__ void finish(const Prologue<T>& prologue, const Counter (&k)[kCounters], Target& to) const {
    constexpr int kWidth = PrologueOfChannels<T>::kWidth;
    const Alongs along(*this, k);
#pragma unroll
    for (int first = 0; first < kPackWidth<T>; first += kWidth) {
      const auto prologue_of = [&](int i) {
        const auto index = operand_.prologue_index(positions_[i / kCounters], k[i % kCounters]);
        return PrologueOfChannels<T>(prologue, {index.group, index.channel + first});
      };
      const auto apply = [&](const PrologueOfChannels<T>& of_channels, int i) {
        of_channels.template apply<kind>(to.chunk(Own::row(i), Own::number()) + first, prologue.negative_slope);
      };
      const auto is_there = [&](int i) { return is_mine(i) && operand_.at(positions_[i / kCounters], along.of[i % kCounters]).inside; };
      if constexpr (k_major) {  // all chunks are of the same channels
        const auto of_channels = prologue_of(0);
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          if (is_there(i)) apply(of_channels, i);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          if (is_there(i)) apply(prologue_of(i), i);
        }
      }
    }
  }

  const Operand operand_;
  typename Operand::Position positions_[kPositions];
};

}  // namespace
}  // namespace fastgan::conv

// The operands of a tile in shared memory, a stretch of k at a time: panels, and how a block's threads fill them.
#pragma once

#include "conv/cuda_device.cuh"
#include "conv/cuda_prologue.cuh"

namespace fastgan::conv {
namespace {

constexpr int kTileThreads = 128;
template <class T>
constexpr int kDepth = 64 / sizeof(T);  // of a panel

// [length][kDepth], or [kDepth][length] where an operand's neighbours in memory differ in m or n; rows of 16 bytes more, so
// that the threads of a warp read from different banks.
template <class T, bool k_major, int length>
struct alignas(16) Panel {
  static constexpr int kRows = k_major ? length : kDepth<T>, kColumns = k_major ? kDepth<T> : length;
  static constexpr int kPitch = kColumns + kPackWidth<T>;
  T values[kRows * kPitch];

  __device__ const T& at(int mn, int k) const { return values[k_major ? mn * kPitch + k : k * kPitch + mn]; }
  __device__ T& at(int mn, int k) { return values[k_major ? mn * kPitch + k : k * kPitch + mn]; }
  // 16 of m or n by 16 of k from here on, in the order of multiply_add's a. The first 8 of n alone are its elements 0 and 2, the
  // others 1 and 3, which a panel of 8 has the same.
  __device__ void matrices(uint32_t (&to)[4], int mn, int k) const {
    static_assert(sizeof(T) == 2 && (k_major || length >= 16));
    const int lane = threadIdx.x % 32;
    if constexpr (k_major) {
      load_matrices<false>(to, &at(mn + lane % 16 % length, k + lane / 16 * 8));
    } else {
      load_matrices<true>(to, &at(mn + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8));
    }
  }
};

// One thread's share of filling a panel: so many chunks, which it also finishes, if normalise + activate are pending on them.
template <class T, class Operand, int length, bool pending>
class Loader {
 public:
  using Target = Panel<T, Operand::k_major, length>;

  __device__ Loader(const Operand& operand, int first) : operand_(operand) {
    for (int i = 0; i < kChunks; ++i) positions_[i] = operand.position(first + mn(i));
  }

  __device__ void load(int first_k, Target& to) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (!is_mine(i)) continue;
      const auto chunk = operand_.at(positions_[i], first_k + k(i));
      T* const slot = &to.at(mn(i), k(i));
      if (pending) counts_[i] = chunk.count;
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

  // Of what the last call of `load` brought, once it is there: its own chunks only, so no other thread has to wait for it.
  __device__ void finish(const Prologue<T>& prologue, int first_k, Target& panel) const {
    switch (prologue.activation) {
      case Activation::relu: return finish<Activation::relu>(prologue, first_k, panel);
      case Activation::leaky_relu: return finish<Activation::leaky_relu>(prologue, first_k, panel);
      case Activation::tanh: return finish<Activation::tanh>(prologue, first_k, panel);
      case Activation::sigmoid: return finish<Activation::sigmoid>(prologue, first_k, panel);
      default: return finish<Activation::none>(prologue, first_k, panel);
    }
  }

 private:
  static constexpr int kAcross = Target::kColumns / kPackWidth<T>;  // chunks of a panel's row
  static constexpr int kAll = Target::kRows * kAcross;
  static constexpr int kChunks = (kAll + kTileThreads - 1) / kTileThreads;
  static_assert(kTileThreads % kAcross == 0 && Target::kColumns % kPackWidth<T> == 0);

  __device__ static bool is_mine(int i) {
    return kAll % kTileThreads == 0 || static_cast<int>(threadIdx.x) + i * kTileThreads < kAll;
  }
  __device__ static int row(int i) { return (threadIdx.x + i * kTileThreads) / kAcross; }
  __device__ static int across() { return threadIdx.x % kAcross * kPackWidth<T>; }
  __device__ static int mn(int i) { return Operand::k_major ? row(i) : across(); }
  __device__ static int k(int i) { return Operand::k_major ? across() : row(i); }

  template <Activation kind>
  __device__ void finish(const Prologue<T>& prologue, int first_k, Target& panel) const {
    PrologueOfChunk<T> of_chunk;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if (!is_mine(i) || counts_[i] == 0) continue;
      of_chunk.read(prologue, operand_.prologue_index(positions_[i], first_k + k(i)));
      of_chunk.template apply<kind>(&panel.at(mn(i), k(i)), counts_[i], prologue.negative_slope);
    }
  }

  const Operand& operand_;
  typename Operand::Position positions_[kChunks];
  int counts_[kChunks];
};

}  // namespace
}  // namespace fastgan::conv

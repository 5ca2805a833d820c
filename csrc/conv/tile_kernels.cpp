#include "conv/tile.h"

#include "common/vec.h"

namespace fastgan::conv {
namespace {

// Accumulators, the columns' vectors and one broadcast value fill the registers.
#if defined(__AVX512F__)
constexpr int kRows = 14, kVectors = 2;
#else
constexpr int kRows = 6, kVectors = 2;
#endif

template <class S>
struct Multiply {
  using A = Compute<S>;
  static constexpr int kStep = 1;
  static Vec<A> broadcast(const S* from) { return Vec<A>{} + *from; }
  static Vec<A> add(Vec<A> sum, Vec<A> a, Vec<A> b) { return sum + a * b; }
};

#if defined(__AVX512BF16__)
template <>
struct Multiply<BFloat16> {
  static constexpr int kStep = 2;
  static Vec<float> broadcast(const BFloat16* from) {
    int32_t pair;
    std::memcpy(&pair, from, sizeof(pair));
    return bits_as<Vec<float>>(_mm512_set1_epi32(pair));
  }
  static Vec<float> add(Vec<float> sum, Vec<float> a, Vec<float> b) {
    return bits_as<Vec<float>>(_mm512_dpbf16_ps(bits_as<__m512>(sum), bits_as<__m512bh>(a), bits_as<__m512bh>(b)));
  }
};
#endif

// What a tile adds up. Its left operand's elements for successive k are `distance` apart.
template <class S, int distance>
struct Sums {
  using A = Compute<S>;
  using M = Multiply<S>;
  static constexpr int W = kLanes<A>, kColumns = W * kVectors;
  Vec<A> at[kRows][kVectors];

  Sums(bool add, const A* out) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) at[m][v] = add ? load(out + m * kColumns + v * W) : Vec<A>{};
    }
  }

  // Returns where the right operand goes on.
  const S* add(const S* a, const int64_t* rows, int64_t extent, const S* b) {
    for (int64_t k = 0; k < extent; k += M::kStep, a += M::kStep * distance, b += kColumns * M::kStep) {
      Vec<A> columns[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) columns[v] = load_raw<Vec<A>>(b + v * W * M::kStep);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const Vec<A> value = M::broadcast(a + rows[m]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) at[m][v] = M::add(at[m][v], value, columns[v]);
      }
    }
    return b;
  }

  void store_to(A* out) const {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(out + m * kColumns + v * W, at[m][v]);
    }
  }
};

template <class S>
void gemm(const S* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent, const S* b,
          bool add, Compute<S>* out) {
  Sums<S, 1> sums(add, out);
  for (int64_t s = 0; s < segment_count; ++s) b = sums.add(a + segments[s], rows, extent, b);
  sums.store_to(out);
}

template <class S>
void gemm_columns(const S* a, const int64_t* rows, int64_t extent, const S* b, bool add, Compute<S>* out) {
  Sums<S, Sums<S, 1>::kColumns> sums(add, out);
  sums.add(a, rows, extent, b);
  sums.store_to(out);
}

template <class S>
constexpr Tile<S> tile() {
  return {kRows, kLanes<Compute<S>> * kVectors, Multiply<S>::kStep, gemm<S>, Multiply<S>::kStep == 1 ? gemm_columns<S> : nullptr};
}

}  // namespace

#define FASTGAN_TILES_NAME_(isa) tiles_##isa
#define FASTGAN_TILES_NAME(isa) FASTGAN_TILES_NAME_(isa)
#if defined(__AVX512BF16__)
extern const Tiles FASTGAN_TILES_NAME(FASTGAN_ISA) = {tile<float>(), tile<double>(), tile<BFloat16>()};
#else
extern const Tiles FASTGAN_TILES_NAME(FASTGAN_ISA) = {tile<float>(), tile<double>(), {}};
#endif

}  // namespace fastgan::conv

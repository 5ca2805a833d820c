#include "conv/tile.h"

#include <algorithm>

#include "common/vec.h"

namespace fastgan::conv {
namespace {

// Accumulators, the columns' vectors and one broadcast value fill the registers.
#if defined(__AVX512F__)
constexpr int kRows = 14, kSmaller[] = {8, 4}, kVectors = 2;
#else
constexpr int kRows = 6, kSmaller[] = {4, 2}, kVectors = 2;
#endif

template <class S>
struct Multiply {
  using A = Compute<S>;
  static constexpr int kStep = 1;
  static Vec<A> broadcast(const S* from) { return *from - Vec<A>{}; }  // x - 0 is x, and compiles to nothing; x + 0 is not
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

// What a tile of so many rows adds up.
template <class S, int count = kRows>
struct Sums {
  using A = Compute<S>;
  using M = Multiply<S>;
  static constexpr int W = kLanes<A>, kColumns = W * kVectors;
  Vec<A> at[count][kVectors];

  Sums(bool add, const A* out) {
#pragma GCC unroll 16
    for (int m = 0; m < count; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) at[m][v] = add ? load(out + m * kColumns + v * W) : Vec<A>{};
    }
  }

  void step(const S* a, const int64_t* rows, const S* b) {
    Vec<A> columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = load_raw<Vec<A>>(b + v * W * M::kStep);
#pragma GCC unroll 16
    for (int m = 0; m < count; ++m) {
      const Vec<A> value = M::broadcast(a + rows[m]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) at[m][v] = M::add(at[m][v], value, columns[v]);
    }
  }

  void store_to(A* out) const {
#pragma GCC unroll 16
    for (int m = 0; m < count; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(out + m * kColumns + v * W, at[m][v]);
    }
  }
};

template <class S, int count>
void gemm_apart(const S* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent, const S* b,
                int64_t apart, bool add, Compute<S>* out, const void* next, int64_t bytes) {
  constexpr int kStep = Multiply<S>::kStep;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(next) + i, 0, 2);
  const int64_t skip = apart - extent * Sums<S>::kColumns;
  Sums<S, count> sums(add, out);
  for (int64_t s = 0; s < segment_count; ++s, b += skip) {
    const S* at = a + segments[s];
    for (int64_t k = 0; k < extent; k += kStep, at += kStep, b += kStep * Sums<S>::kColumns) sums.step(at, rows, b);
  }
  sums.store_to(out);
}

template <class S, int count>
void gemm(const S* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent, const S* b,
          bool add, Compute<S>* out) {
  gemm_apart<S, count>(a, rows, segments, segment_count, extent, b, extent * Sums<S>::kColumns, add, out, nullptr, 0);
}

template <class S, int count>
void gemm_rows(const S* a, int64_t distance, int64_t extent, const S* b, bool add, Compute<S>* out) {
  // A line of a row serves this many steps, in which a line of each of the next tile's rows is asked for: left to itself the
  // hardware sees rows that are too short to be worth its attention.
  constexpr int kLine = 16;
  static_assert(count <= kLine);
  int64_t rows[count], next[kLine];
  for (int m = 0; m < count; ++m) rows[m] = m * distance;
  for (int i = 0; i < kLine; ++i) next[i] = (count + std::min(i, count - 1)) * distance;
  Sums<S, count> sums(add, out);
  for (int64_t k = 0; k < extent; ++k, ++a, b += Sums<S, count>::kColumns) {
    __builtin_prefetch(a + next[k % kLine]);
    sums.step(a, rows, b);
  }
  sums.store_to(out);
}

template <class S>
void gemm_columns(const S* a, const int64_t* rows, int64_t extent, const S* b, bool add, Compute<S>* out) {
  constexpr int kColumns = Sums<S>::kColumns, kAhead = 12;  // steps that a last-level cache takes to answer
  Sums<S> sums(add, out);
  for (int64_t k = 0; k < extent; ++k, a += kColumns, b += kColumns) {
    __builtin_prefetch(a + rows[0] + kAhead * kColumns);
    __builtin_prefetch(a + rows[kRows - 1] + kAhead * kColumns);
    sums.step(a, rows, b);
  }
  sums.store_to(out);
}

template <class S, int count>
constexpr TileRows<S> rows() {
  if constexpr (Multiply<S>::kStep == 1) return {count, gemm<S, count>, gemm_rows<S, count>};
  return {count, gemm<S, count>};
}

template <class S>
constexpr Tile<S> tile() {
  Tile<S> tile{rows<S, kRows>(), kLanes<Compute<S>> * kVectors, Multiply<S>::kStep, Multiply<S>::kStep,
               {rows<S, kSmaller[0]>(), rows<S, kSmaller[1]>()}};
  if constexpr (Multiply<S>::kStep == 1) tile.gemm_columns = gemm_columns<S>;
  tile.gemm_apart = gemm_apart<S, kRows>;
  return tile;
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

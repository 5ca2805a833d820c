// What becomes of products: outputs with bias and activation, a scatter's rows, a weight's gradient.
// Included only by *_kernels.cpp (see common/vec.h).
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/vec.h"
#include "conv/pack.h"
#include "conv/tile.h"
#include "conv/turn.h"

namespace fastgan::conv {
namespace {

template <class A>
inline void add(const A* __restrict from, int64_t count, A* __restrict to) {
  int64_t i = 0;
  const auto some = [&](auto lanes) {
    using V = VecN<A, decltype(lanes)::value>;
    const V sum = load_raw<V>(to + i) + load_raw<V>(from + i);
    std::memcpy(to + i, &sum, sizeof(sum));
    i += lanes;
  };
  while (i + kLanes<A> <= count) some(std::integral_constant<int, kLanes<A>>{});
  if constexpr (kLanes<A> > 4) {  // two taps of an image's channels are six numbers
    while (i + 4 <= count) some(std::integral_constant<int, 4>{});
  }
  if (i + 2 <= count) some(std::integral_constant<int, 2>{});
  if (i < count) to[i] += from[i];
}

template <class A>
void add_row(const ScatteredRow& row, const A* products, A* sums) {
  // In groups of as many taps as the stride, so that successive pixels write side by side.
  for (int64_t first = 0; first < row.taps; first += row.stride) {
    const int64_t group = std::min(row.stride, row.taps - first);
    for (int64_t x = 0; x < row.pixels; ++x) {
      const int64_t left = x * row.stride + first - row.padding;
      const int64_t begin = std::max<int64_t>(0, -left) * row.channels;
      const int64_t end = std::min(group, row.width - left) * row.channels;
      add(products + x * row.line + first * row.channels + begin, end - begin, sums + left * row.channels + begin);
    }
  }
}

#if defined(__AVX512F__)
// Where a pixel's products fit a vector: it adds them to what the pixels before left, and hands on what later ones still add to.
inline void add_rows_in_vectors(const ScatteredRow& row, const float* const* products, int64_t count, const float* bias, float* sums) {
  constexpr int64_t W = kLanes<float>;
  const int64_t length = row.taps * row.channels, some = row.stride * row.channels, end = row.width * row.channels;
  const auto all = static_cast<__mmask16>((1u << length) - 1);
  VecN<int32_t, W> next;
  Vec<float> biases;
  for (int64_t lane = 0; lane < W; ++lane) {
    next[lane] = static_cast<int32_t>(std::min(lane + some, 2 * W - 1));
    biases[lane] = bias[lane % row.channels];
  }
  Vec<float> sum{};
  int64_t at = -row.padding * row.channels;
  for (int64_t from = 0; from < row.pixels * row.line; from += row.line, at += some) {
    for (int64_t i = 0; i < count; ++i) sum += bits_as<Vec<float>>(_mm512_maskz_loadu_ps(all, products[i] + from));
    store(sums + at, sum + biases);
    sum = __builtin_shuffle(sum, Vec<float>{}, next);
  }
  for (; at < end; at += some) {
    store(sums + at, sum + biases);
    sum = __builtin_shuffle(sum, Vec<float>{}, next);
  }
}
#endif

template <class A>
void add_rows(const ScatteredRow& row, const A* const* products, int64_t count, const A* bias, A* sums) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, float>) {
    static_assert(2 * kLanes<A> <= kSpareSums);
    if (row.taps * row.channels <= kLanes<A> && row.stride <= row.taps && row.padding < row.taps) {
      return add_rows_in_vectors(row, products, count, bias, sums);
    }
  }
#endif
  for (int64_t x = 0; x < row.width; ++x) std::copy_n(bias, row.channels, sums + x * row.channels);
  for (int64_t i = 0; i < count; ++i) add_row(row, products[i], sums);
}

template <class T, class A>
inline void narrow(const A* from, int64_t n, T* to) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int64_t i = 0; i < n; i += 32) {
      const auto packed = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i));
      std::memcpy(to + i, &packed, sizeof(packed));
    }
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i) to[i] = from_compute<T>(from[i]);
}

// Pixels that lie evenly spaced in memory, `length` at a time: those of a row of a tile.
struct Spacing {
  int64_t length, step;  // step 0: they are not
};
inline Spacing spacing_of(const int64_t* offsets, int64_t count) {
  if (count < 2) return {1, 0};
  const int64_t step = offsets[1] - offsets[0];
  int64_t length = 2;
  while (length < count && offsets[length] - offsets[length - 1] == step) ++length;
  for (int64_t i = length + 1; i < count; ++i) {
    if (i % length != 0 && offsets[i] - offsets[i - 1] != step) return {1, 0};
  }
  return {count % length == 0 ? length : 1, step};
}

// The first `count` numbers of a line, `step` (1 or 2) apart. What lies between belongs to other pixels, and maybe to another thread.
inline void store_spaced(float* to, const float* line, int64_t count, int64_t step) {
#if defined(__AVX512F__)
  constexpr int64_t kHalf = kLanes<float> / 2;
  for (; step == 2 && count > 0; count -= kHalf, line += kHalf, to += kLanes<float>) {
    const auto every_second = static_cast<__mmask16>(0x5555u & ((1u << 2 * std::min(count, kHalf)) - 1));
    const auto half = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << std::min(count, kHalf)) - 1), line);
    _mm512_mask_storeu_ps(to, every_second, _mm512_maskz_expand_ps(every_second, half));
  }
#endif
  if (step == 1) std::memcpy(to, line, count * sizeof(float));
}

// Columns to planes of evenly spaced pixels, in squares; false where they are others.
inline bool store_squares(const float* lines, int64_t columns, int64_t row_count, int64_t column_count, const int64_t* offsets,
                          int64_t column_stride, float* out) {
  constexpr int64_t W = kLanes<float>, kMostStep = sizeof(Vec<float>) == 64 ? 2 : 1;
  const auto [length, step] = spacing_of(offsets, row_count);
  const int64_t some = std::min(length, W);
  if (step < 1 || step > kMostStep || some < 4 || row_count % W != 0 || length % some != 0 || W % some != 0) return false;
  for (int64_t n = 0; n < column_count; n += W) {
    for (int64_t m = 0; m < row_count; m += W) {
      Vec<float> square[W];
      float turned[W][W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) square[i] = load(lines + (m + i) * columns + n);
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(turned[i], square[i]);
      for (int64_t i = 0; i < std::min(W, column_count - n); ++i) {
        float* const plane = out + (n + i) * column_stride;
        for (int64_t at = 0; at < W; at += some) {
          store_spaced(plane + offsets[m + at], turned[i] + at, some, step);
        }
      }
    }
  }
  return true;
}

#if defined(__AVX512BF16__)
// Whole lines of a tile.
template <Activation kind>
void store_lines(const float* tile, int64_t row_count, const float* bias, float slope, const int64_t* offsets, BFloat16* out) {
  const auto slopes = Vec<float>{} + slope;
  constexpr int W = kLanes<float>;
  const auto left = bias ? load(bias) : Vec<float>{}, right = bias ? load(bias + W) : Vec<float>{};
  for (int64_t m = 0; m < row_count; ++m, tile += 2 * W) {
    const auto a = activate<kind>(load(tile) + left, slopes), b = activate<kind>(load(tile + W) + right, slopes);
    const auto packed = _mm512_cvtne2ps_pbh(bits_as<__m512>(b), bits_as<__m512>(a));
    std::memcpy(out + offsets[m], &packed, sizeof(packed));
  }
}
#endif

template <class T, class S, Activation kind, class A = Compute<S>>
void store_tile(const A* tile, int64_t columns, int64_t row_count, int64_t column_count, const A* bias, A slope,
                const int64_t* offsets, int64_t column_stride, T* out) {
  constexpr int W = kLanes<A>;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, BFloat16> && std::is_same_v<A, float>) {
    if (column_stride == 1 && column_count == 2 * W && columns == 2 * W) return store_lines<kind>(tile, row_count, bias, slope, offsets, out);
  }
#endif
  const auto slopes = Vec<A>{} + slope;
  const bool direct = column_stride == 1 && column_count == columns;
  [[maybe_unused]] A line[kMaxTileColumns];
  T narrowed[kMaxStoredRows * kMaxTileColumns];
  for (int64_t m = 0; m < row_count; ++m, tile += columns) {
    T* const to = direct ? out + offsets[m] : narrowed + m * columns;
    for (int64_t n = 0; n < columns; n += W) {
      const Vec<A> z = bias ? load(tile + n) + load(bias + n) : load(tile + n);
      if constexpr (std::is_same_v<T, A>) {
        store(to + n, activate<kind>(z, slopes));
      } else {
        store(line + n, activate<kind>(z, slopes));
      }
    }
    if constexpr (!std::is_same_v<T, A>) narrow(line, columns, to);
  }
  if (direct) return;
  if (column_stride == 1) {
    for (int64_t m = 0; m < row_count; ++m) std::copy_n(narrowed + m * columns, column_count, out + offsets[m]);
    return;
  }
  if constexpr (std::is_same_v<T, float>) {
    if (store_squares(narrowed, columns, row_count, column_count, offsets, column_stride, out)) return;
  }
  // A column after the other, because neighbouring rows are neighbouring pixels, and share a cache line.
  for (int64_t n = 0; n < column_count; ++n) {
    T* const to = out + n * column_stride;
    for (int64_t m = 0; m < row_count; ++m) to[offsets[m]] = narrowed[m * columns + n];
  }
}

// Squares of taps and columns change sides: for a weight whose taps lie together. numbers: where a tap's sums are.
template <class T>
void turn_taps(const float* sums, const int64_t* numbers, int64_t tap_count, int64_t apart, int64_t column_count, T* out) {
  constexpr int W = kLanes<float>;
  for (int64_t n = 0; n < column_count; n += W) {
    const auto some = static_cast<int>(std::min<int64_t>(W, column_count - n));
    for (int64_t tap = 0; tap < tap_count; tap += W) {
      Vec<float> square[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) square[i] = load(sums + numbers[tap + i] * apart + n);
      transpose(square);
      for (int i = 0; i < some; ++i) store(out + (n + i) * tap_count + tap, square[i]);
    }
  }
}

template <class T, class S>
void taps(const Compute<S>* sums, int64_t tap_count, int64_t rows, int64_t columns, int64_t row_count, int64_t column_count,
          const int64_t* places, int64_t row_stride, int64_t column_stride, T* out) {
  using A = Compute<S>;
  constexpr int64_t kMostTurned = 64;
  int64_t numbers[kMostTurned];
  const bool turns = std::is_same_v<A, float> && column_stride == tap_count && tap_count % kLanes<float> == 0 &&
                     tap_count <= kMostTurned && std::all_of(places, places + tap_count, [&](int64_t place) { return place < tap_count; });
  for (int64_t tap = 0; turns && tap < tap_count; ++tap) numbers[places[tap]] = tap;
  // Row by row, because rows of the gradient are pages apart; the next one's lines are asked for ahead.
  for (int64_t m = 0; m < row_count; ++m, sums += columns, out += row_stride) {
    if constexpr (std::is_same_v<A, float>) {
      if (turns) {
        turn_taps(sums, numbers, tap_count, rows * columns, column_count, out);
        continue;
      }
    }
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      const A* const from = sums + tap * rows * columns;
      T* const to = out + places[tap];
      if (column_stride == 1 && column_count % kLanes<A> == 0) {
        if (m + 1 < row_count) {
          for (int64_t n = 0; n < column_count; n += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(to + row_stride + n, 1);
        }
        for (int64_t n = 0; n < column_count; n += kLanes<A>) store(to + n, load(from + n));
      } else {
        for (int64_t n = 0; n < column_count; ++n) to[n * column_stride] = from_compute<T>(static_cast<Compute<T>>(from[n]));
      }
    }
  }
}

}  // namespace
}  // namespace fastgan::conv

// The right operands of products: rows of k, `step` of them side by side in each column.
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

#if defined(__AVX512BF16__)
// Sixteen numbers of each, rounded: those of `low`, then those of `high`.
inline VecN<uint16_t, 32> narrow_both(const float* low, const float* high) {
  const __m512 above = high ? _mm512_loadu_ps(high) : _mm512_setzero_ps();
  return bits_as<VecN<uint16_t, 32>>(_mm512_cvtne2ps_pbh(above, _mm512_loadu_ps(low)));
}
#endif

// Two rows of k, side by side: out[column][2].
template <class T, class S>
inline void pair_rows(const T* even, const T* odd, int64_t count, S* out) {
  int64_t n = 0;
#if defined(__AVX512BW__)
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, S>) {
    using Line = VecN<uint16_t, 32>;
    Line low, high;
    for (int lane = 0; lane < 32; ++lane) {
      low[lane] = lane / 2 + lane % 2 * 32;
      high[lane] = low[lane] + 16;
    }
    for (; n + 32 <= count; n += 32) {
      const auto a = load_raw<Line>(even + n), b = odd ? load_raw<Line>(odd + n) : Line{};
      const Line first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
      std::memcpy(out + 2 * n, &first, sizeof(first));
      std::memcpy(out + 2 * n + 32, &second, sizeof(second));
    }
    if (n < count) {
      const int64_t left = count - n;
      const auto some = static_cast<__mmask32>((uint64_t{1} << left) - 1);
      const auto a = bits_as<Line>(_mm512_maskz_loadu_epi16(some, even + n));
      const auto b = odd ? bits_as<Line>(_mm512_maskz_loadu_epi16(some, odd + n)) : Line{};
      const uint64_t wanted = (uint64_t{1} << 2 * left) - 1;
      _mm512_mask_storeu_epi16(out + 2 * n, static_cast<__mmask32>(wanted), bits_as<__m512i>(__builtin_shuffle(a, b, low)));
      if (left > 16) {
        _mm512_mask_storeu_epi16(out + 2 * n + 32, static_cast<__mmask32>(wanted >> 32),
                                 bits_as<__m512i>(__builtin_shuffle(a, b, high)));
      }
      return;
    }
  }
#endif
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, float> && std::is_same_v<S, BFloat16>) {
    VecN<uint16_t, 32> pairs;
    for (int lane = 0; lane < 32; ++lane) pairs[lane] = lane / 2 + lane % 2 * 16;
    for (; n + 16 <= count; n += 16) {
      const auto both = narrow_both(even + n, odd ? odd + n : nullptr);
      const auto line = __builtin_shuffle(both, pairs);
      std::memcpy(out + 2 * n, &line, sizeof(line));
    }
  }
#endif
  for (; n < count; ++n) {
    out[2 * n] = convert<S>(even[n]);
    out[2 * n + 1] = odd ? convert<S>(odd[n]) : S{};
  }
}

// Elements of k in a row for a lane each: `step` of them, side by side.
template <class T, class S>
inline Vec<float> load_lanes(const T* from) {
#if defined(__AVX512BF16__)
  if constexpr (!std::is_same_v<T, S>) return bits_as<Vec<float>>(narrow_both(from, from + 16));
#endif
  return load_raw<Vec<float>>(from);
}

template <class T, class S>
constexpr bool kLanesLoad = std::is_same_v<T, S>;
#if defined(__AVX512BF16__)
template <>
constexpr bool kLanesLoad<float, BFloat16> = true;
#endif

// Whole steps of k that lie side by side, for whole vectors of columns; returns how many of k that was.
template <class T, class S, int step>
int64_t turn_columns(const T* from, int64_t k_count, int64_t column_count, int64_t column_stride, int64_t columns, S* out) {
  constexpr int W = kLanes<float>;
  if constexpr (step * sizeof(S) == sizeof(float) && kLanesLoad<T, S>) {
    if (column_count % W != 0) return 0;
    const int64_t done = k_count - k_count % (W * step);
    for (int64_t k = 0; k < done; k += W * step, out += W * step * columns) {
      for (int64_t n = 0; n < column_count; n += W) {
        Vec<float> lines[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) lines[i] = load_lanes<T, S>(from + (n + i) * column_stride + k);
        transpose(lines);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) std::memcpy(out + (i * columns + n) * step, &lines[i], sizeof(lines[i]));
      }
    }
    return done;
  }
  return 0;
}

template <class T, class S, int step>
void columns_of(const T* in, const int64_t* segments, int64_t segment_count, int64_t k_count, int64_t k_stride,
                int64_t column_count, int64_t column_stride, int64_t extent, int64_t columns, S* out) {
  for (int64_t s = 0; s < segment_count; ++s, out += extent * columns) {
    const T* const from = in + segments[s];
    if (k_count < extent || column_count < columns) std::fill_n(out, extent * columns, S{});
    int64_t k = k_stride == 1 ? turn_columns<T, S, step>(from, k_count, column_count, column_stride, columns, out) : 0;
    for (; k < k_count; k += step) {
      const T* const at = from + k * k_stride;
      S* const to = out + k * columns;
      const bool whole = k + step <= k_count;
      if constexpr (step == 2) {
        if (column_stride == 1) {
          pair_rows(at, whole ? at + k_stride : nullptr, column_count, to);
          continue;
        }
      }
      for (int64_t n = 0; n < column_count; ++n) {
        to[n * step] = convert<S>(at[n * column_stride]);
        if constexpr (step == 2) {
          if (whole) to[n * step + 1] = convert<S>(at[n * column_stride + k_stride]);
        }
      }
    }
  }
}

template <class T, class S>
void columns(const T* in, const int64_t* segments, int64_t segment_count, int64_t k_count, int64_t k_stride,
             int64_t column_count, int64_t column_stride, int64_t extent, int64_t columns, int step, S* out) {
  const auto pack = step == 2 ? columns_of<T, S, 2> : columns_of<T, S, 1>;
  pack(in, segments, segment_count, k_count, k_stride, column_count, column_stride, extent, columns, out);
}

constexpr int64_t kSegmentsAhead = 2;  // asked for ahead of their use: they may lie pages apart

template <class T, class S, int step>
void columns_within_of(const T* in, const int64_t* segments, int64_t segment_count, int64_t begin, int64_t end, int64_t k_stride,
                       int64_t column_count, int64_t extent, int64_t columns, S* out) {
  static constexpr T kZeros[kMaxTileColumns] = {};
  if (column_count < columns) std::fill_n(out, segment_count * extent * columns, S{});
  for (int64_t s = 0; s < segment_count; ++s, out += extent * columns) {
    if (segments[s] == kNoSegment) {
      std::fill_n(out, extent * columns, S{});
      continue;
    }
    const auto row = [&](int64_t k) { return k >= begin && k < end ? in + (segments[s] + k * k_stride) : kZeros; };
    if (s + kSegmentsAhead < segment_count && segments[s + kSegmentsAhead] != kNoSegment) {
      for (int64_t k = begin; k < end; ++k) __builtin_prefetch(in + (segments[s + kSegmentsAhead] + k * k_stride));
    }
    int64_t k = 0;
    const auto some = [&](int64_t until) {
      for (; k < until; k += step) {
        if constexpr (step == 2) {
          pair_rows(row(k), row(k + 1), column_count, out + k * columns);
        } else {
          copy(row(k), column_count, out + k * columns);
        }
      }
    };
    if constexpr (step == 2) {  // whole lines without a question asked: segments may be one step long
      if (column_count == kMaxTileColumns) {
        some(std::min(begin, extent));
        const T* from = in + (segments[s] + k * k_stride);
        for (; k + step <= end; k += step, from += step * k_stride) {
          pair_rows(from, from + k_stride, kMaxTileColumns, out + k * kMaxTileColumns);
        }
      }
    }
    some(extent);
  }
}

template <class T, class S>
void columns_within(const T* in, const int64_t* segments, int64_t segment_count, int64_t begin, int64_t end, int64_t k_stride,
                    int64_t column_count, int64_t extent, int64_t columns, int step, S* out) {
  const auto pack = step == 2 ? columns_within_of<T, S, 2> : columns_within_of<T, S, 1>;
  pack(in, segments, segment_count, begin, end, k_stride, column_count, extent, columns, out);
}

// What is asked for ahead of its use, in rows of k: such rows may lie pages apart, where the hardware does not look ahead.
constexpr int64_t kRowsAhead = 8;

template <class T, class S, int step>
void runs_of(const T* in, int64_t k_count, int64_t k_stride, const Run* runs, int64_t run_count, int64_t extent,
             int64_t columns, S* out) {
  for (int64_t k = 0; k < extent; k += step, in += step * k_stride, out += columns * step) {
    const int64_t rows = std::clamp<int64_t>(k_count - k, 0, step);
    for (const Run* run = runs; run < runs + run_count; ++run) {
      const T* const from = in + run->from;
      S* const to = out + run->to;
      if (rows == 0) {
        std::fill_n(to, run->length * step, S{});
        continue;
      }
      for (int64_t row = kRowsAhead; row < kRowsAhead + step; ++row) {
        const T* const ahead = from + row * k_stride;
        for (int64_t i = 0; i < run->length; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(ahead + i);
      }
      if constexpr (step == 2) {
        pair_rows(from, rows == step ? from + k_stride : nullptr, run->length, to);
      } else if constexpr (std::is_same_v<T, S> && std::is_same_v<T, Compute<T>>) {
        int64_t i = 0;
        for (; i + kLanes<S> <= run->length; i += kLanes<S>) store(to + i, load(from + i));
        for (; i < run->length; ++i) to[i] = from[i];
      } else {
        copy(from, run->length, to);
      }
    }
  }
}

template <class T, class S>
void runs(const T* in, int64_t k_count, int64_t k_stride, const Run* runs, int64_t run_count, int64_t extent,
          int64_t columns, int step, S* out) {
  (step == 2 ? runs_of<T, S, 2> : runs_of<T, S, 1>)(in, k_count, k_stride, runs, run_count, extent, columns, out);
}

}  // namespace
}  // namespace fastgan::conv

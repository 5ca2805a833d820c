#include <algorithm>
#include <type_traits>

#include "common/vec.h"
#include "conv/pack.h"
#include "conv/tile.h"
#include "conv/turn.h"

namespace fastgan::conv {
namespace {

template <class T, class S>
inline void copy(const T* from, int64_t n, S* to) {
  if constexpr (std::is_same_v<T, S>) {  // by hand, or the compiler would call memmove for a few numbers
    constexpr int64_t kSome = kVectorBytes / sizeof(S);
    int64_t i = 0;
    for (; i + kSome <= n; i += kSome) {
      const auto some = load_raw<VecN<uint8_t, kVectorBytes>>(from + i);
      std::memcpy(to + i, &some, sizeof(some));
    }
    for (; i < n; ++i) to[i] = from[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i) to[i] = convert<S>(from[i]);
}

template <class T, class S>
void pixels(const T* image, const Image& of, const Window& window, int64_t channels, S* out) {
  const int64_t line = window.width * channels;
  const int64_t begin = std::clamp<int64_t>(window.left, 0, window.width);
  const int64_t end = std::clamp<int64_t>(window.left + of.width, begin, window.width);
  for (int64_t y = 0; y < window.height; ++y, out += line) {
    const int64_t row = window.first + y - window.top;
    if (row < 0 || row >= of.height || begin == end) {
      std::fill_n(out, line, S{});
      continue;
    }
    std::fill_n(out, begin * channels, S{});
    std::fill(out + end * channels, out + line, S{});
    const T* from = image + row * of.row_stride + (begin - window.left) * of.pixel_stride;
    S* to = out + begin * channels;
    // One piece where the channels need no padding. (Between those of a slice lie as many of somebody else's.)
    if (of.channels == channels && of.channel_stride == 1 && of.pixel_stride == channels) {
      copy(from, (end - begin) * channels, to);
      continue;
    }
    if (of.channels < channels) std::fill(to, out + end * channels, S{});
    if (of.channel_stride == 1) {
      for (int64_t x = begin; x < end; ++x, from += of.pixel_stride, to += channels) copy(from, of.channels, to);
    } else {
      interleave(from, of.channel_stride, of.pixel_stride, end - begin, of.channels, channels, to);
    }
  }
}

template <class S>
void deal(const S* line, int64_t count, int64_t channels, int64_t ways, int64_t way, int64_t apart, S* out) {
  constexpr int64_t W = 64 / sizeof(S);
  for (int64_t i = 0; i < std::min(ways, count); ++i) {
    S* to = out + i * way;
    for (int64_t x = i; x < count; x += ways, to += apart) {
      const S* const from = line + x * channels;
      int64_t c = 0;
      for (; c + W <= channels; c += W) std::memcpy(to + c, from + c, W * sizeof(S));
      for (; c < channels; ++c) to[c] = from[c];
    }
  }
}

template <class S>
void patches(const S* pixels, int64_t count, int64_t step, const int64_t* starts, int64_t start_count, int64_t length,
             int64_t extent, int64_t apart, S* out) {
  // Moved at a time: what is too much of one run, the next or the zeros overwrite. Not of the last runs, if the line ends before.
  constexpr int64_t W = kSparePatch;
  struct Some {
    S at[W];
  };
  const int64_t end = start_count * length, whole = (length + W - 1) / W * W;
  int64_t fast = 0;
  while (fast < start_count && fast * length + whole <= extent) ++fast;
  const bool is_wide = end + W <= extent;
  for (int64_t x = 0; x < count; ++x, pixels += step, out += apart) {
    S* to = out;
    for (int64_t i = 0; i < fast; ++i, to += length) {
      const S* const from = pixels + starts[i];
      for (int64_t k = 0; k < length; k += W) std::memcpy(to + k, from + k, sizeof(Some));
    }
    for (int64_t i = fast; i < start_count; ++i, to += length) {
      for (int64_t k = 0; k < length; ++k) to[k] = pixels[starts[i] + k];
    }
    constexpr Some kZeros = {};
    for (int64_t k = end; is_wide && k < extent; k += W) std::memcpy(out + std::min(k, extent - W), &kZeros, sizeof(Some));
    for (int64_t k = end; !is_wide && k < extent; ++k) out[k] = S{};
  }
}

template <class T, class S>
void lines(const T* in, const int64_t* segments, int64_t segment_count, int64_t k_count, int64_t k_stride, int64_t channel_count,
           int64_t channel_stride, int64_t extent, int64_t line, S* out) {
  int64_t c = 0;
  if constexpr (kTurns<T, S>) {
    using Square = Turn<T, S>;
    int64_t s = 0, k = 0;
    const T *rows[Square::kRows], *next[Square::kRows];  // null where zeros belong
    const auto advance = [&] {
      for (auto& row : next) {
        row = s < segment_count && k < k_count ? in + segments[s] + k * k_stride : nullptr;
        if (++k == extent) ++s, k = 0;
      }
    };
    advance();
    for (int64_t first = 0; channel_stride == 1 && first < segment_count * extent; first += Square::kRows) {
      std::copy_n(next, Square::kRows, rows);
      advance();
      const auto count = static_cast<int>(std::min<int64_t>(Square::kRows, segment_count * extent - first));
      for (c = 0; c + Square::kColumns <= channel_count; c += Square::kColumns) {
        if (c * sizeof(T) % 64 == 0) {
          for (const T* row : next) __builtin_prefetch(row ? row + c : row);
        }
        const Square square([&](int row) { return rows[row] ? rows[row] + c : nullptr; });
#pragma GCC unroll 16
        for (int i = 0; i < Square::kColumns; ++i) store_first(out + (c + i) * line + first, square.lines[i], count);
      }
    }
  }
  for (; c < channel_count; ++c) {
    S* to = out + c * line;
    for (int64_t s = 0; s < segment_count; ++s, to += extent) {
      const T* const from = in + segments[s] + c * channel_stride;
      if (k_stride == 1) {
        copy(from, k_count, to);
      } else {
        for (int64_t k = 0; k < k_count; ++k) to[k] = convert<S>(from[k * k_stride]);
      }
      std::fill(to + k_count, to + extent, S{});
    }
  }
}

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

template <class T, class S>
constexpr Packing<T, S> table() {
  return {pixels<T, S>,
          deal<S>,
          patches<S>,
          lines<T, S>,
          columns<T, S>,
          columns_within<T, S>,
          runs<T, S>,
          taps<T, S>,
          add_rows<Compute<S>>,
          {store_tile<T, S, Activation::none>, store_tile<T, S, Activation::relu>,
           store_tile<T, S, Activation::leaky_relu>, store_tile<T, S, Activation::tanh>,
           store_tile<T, S, Activation::sigmoid>}};
}

}  // namespace

#define FASTGAN_PACKING_NAME_(T, S, isa) packing_##T##_##S##_##isa
#define FASTGAN_PACKING_NAME(T, S, isa) FASTGAN_PACKING_NAME_(T, S, isa)
#define FASTGAN_PACKING(T, S) extern const Packing<T, S> FASTGAN_PACKING_NAME(T, S, FASTGAN_ISA) = table<T, S>();
FASTGAN_PACKING(float, float)
FASTGAN_PACKING(double, double)
FASTGAN_PACKING(BFloat16, BFloat16)
FASTGAN_PACKING(BFloat16, float)
FASTGAN_PACKING(float, BFloat16)
FASTGAN_PACKING(Half, float)

}  // namespace fastgan::conv

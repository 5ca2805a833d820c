// The left operands of products: pixels by channels, and channels by pixels.
// Included only by *_kernels.cpp (see common/vec.h).
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/vec.h"
#include "conv/pack.h"
#include "conv/turn.h"

namespace fastgan::conv {
namespace {

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

template <class S>
void strands(const S* line, int64_t count, int64_t step, S* out) {
  int64_t k = 0;
  if constexpr (kTurns<S, S>) {
    using Square = Turn<S, S>;
    for (; k + Square::kRows <= count; k += Square::kRows) {
      for (int64_t first = 0; first < step; first += Square::kColumns) {
        const Square square([&](int row) { return line + (k + row) * step + first; });
        const auto some = static_cast<int>(std::min<int64_t>(Square::kColumns, step - first));
#pragma GCC unroll 16
        for (int i = 0; i < Square::kColumns; ++i) {
          if (i < some) std::memcpy(out + (first + i) * count + k, &square.lines[i], sizeof(square.lines[i]));
        }
      }
    }
  }
  for (; k < count; ++k) {
    for (int64_t i = 0; i < step; ++i) out[i * count + k] = line[k * step + i];
  }
}

template <class S>
void pieces(const S* strands, const int64_t* starts, int64_t count, int64_t length, int64_t extent, int64_t apart, S* out) {
  for (int64_t i = 0; i < count; ++i, out += apart) {
    copy(strands + starts[i], length, out);
    for (int64_t k = length; k < extent; ++k) out[k] = S{};
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

}  // namespace
}  // namespace fastgan::conv

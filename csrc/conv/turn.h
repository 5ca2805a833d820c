// Elements that change their type, runs that are copied, and squares that change rows and columns in registers: between planes of
// channels and pixels side by side.
// Included only by *_kernels.cpp (see common/vec.h).
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/vec.h"

namespace fastgan::conv {
namespace {

template <class S, class T>
inline S convert(T value) {
  if constexpr (std::is_same_v<S, T>) {
    return value;
  } else {
    return from_compute<S>(to_compute(value));
  }
}

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

template <class T>
inline Vec<float> load_floats(const T* from) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto halves = load_raw<VecN<uint16_t, kLanes<float>>>(from);
    return bits_as<Vec<float>>(__builtin_convertvector(halves, VecN<uint32_t, kLanes<float>>) << 16);
  } else {
    return load(from);
  }
}

// rows[i][j] becomes rows[j][i]: blocks of `half` lanes change places, for ever smaller halves.
template <int half = kLanes<float> / 2>
inline void transpose(Vec<float>* rows) {
  constexpr int W = kLanes<float>;
  using Lanes = VecN<int32_t, W>;
  Lanes low, high;
  for (int lane = 0; lane < W; ++lane) {
    low[lane] = lane & half ? W + lane - half : lane;
    high[lane] = lane & half ? W + lane : lane + half;
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & half) continue;
    const Vec<float> a = rows[i], b = rows[i + half];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + half] = __builtin_shuffle(a, b, high);
  }
  if constexpr (half > 1) transpose<half / 2>(rows);
}

// Squares that turn in registers: kRows rows of kColumns neighbours become kColumns lines. `at` gives a row's address, or null
// for one of zeros.
template <class T, class S>
struct Turn;

template <class T>
struct Turn<T, float> {
  static constexpr int kRows = kLanes<float>, kColumns = kLanes<float>;
  using Line = Vec<float>;
  Line lines[kColumns];  // of kRows elements

  template <class At>
  explicit Turn(const At& at) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T* const row = at(i);
      lines[i] = row ? load_floats(row) : Line{};
    }
    transpose(lines);
  }
};

#if defined(__AVX512BF16__)
template <>
struct Turn<BFloat16, BFloat16> {  // two rows side by side are rows of pairs
  static constexpr int kRows = 2 * kLanes<float>, kColumns = kLanes<float>;
  using Line = Vec<float>;
  Line lines[kColumns];

  template <class At>
  explicit Turn(const At& at) {
    const auto load = [&](int i) {
      using Wide = VecN<uint32_t, kColumns>;
      const BFloat16* const row = at(i);
      return row ? __builtin_convertvector(load_raw<VecN<uint16_t, kColumns>>(row), Wide) : Wide{};
    };
#pragma GCC unroll 16
    for (int i = 0; i < kColumns; ++i) lines[i] = bits_as<Line>(load(2 * i) | load(2 * i + 1) << 16);
    transpose(lines);
  }
};
#endif

template <class T, class S>
constexpr bool kTurns = std::is_same_v<S, float> && !std::is_same_v<T, double>;
#if defined(__AVX512BF16__)
template <>
constexpr bool kTurns<BFloat16, BFloat16> = true;
#endif

// The first `count` elements of a line, in pieces of fixed sizes: each is a move, where one of any size would be a call.
template <class S, class Line>
inline void store_first(S* to, const Line& line, int count) {
  if (count * sizeof(S) >= sizeof(line)) {
    std::memcpy(to, &line, sizeof(line));
    return;
  }
  const char* from = reinterpret_cast<const char*>(&line);
  char* at = reinterpret_cast<char*>(to);
  size_t left = count * sizeof(S);
  const auto some = [&](auto size) {
    if (left < size()) return;
    std::memcpy(at, from, size());
    at += size(), from += size(), left -= size();
  };
  some(std::integral_constant<size_t, 32>{});
  some(std::integral_constant<size_t, 16>{});
  some(std::integral_constant<size_t, 8>{});
  some(std::integral_constant<size_t, 4>{});
  some(std::integral_constant<size_t, 2>{});
}

// A run of pixels whose channels lie in planes: out[x][channel].
template <class T, class S>
void interleave(const T* from, int64_t plane, int64_t pixel_stride, int64_t count, int64_t channel_count, int64_t channels,
                S* out) {
  int64_t c = 0;
  if constexpr (kTurns<T, S>) {
    using Square = Turn<T, S>;
    if (pixel_stride == 1 && count >= Square::kColumns) {
      for (; c + Square::kRows <= channel_count; c += Square::kRows) {
        for (int64_t begin = 0; begin < count; begin += Square::kColumns) {
          const int64_t x = std::min(begin, count - Square::kColumns);  // the last ones again, rather than one by one
          const Square square([&](int row) { return from + (c + row) * plane + x; });
#pragma GCC unroll 16
          for (int i = 0; i < Square::kColumns; ++i) store_first(out + (x + i) * channels + c, square.lines[i], Square::kRows);
        }
      }
    }
  }
  for (; c < channel_count; ++c) {
    const T* const at = from + c * plane;
    for (int64_t x = 0; x < count; ++x) out[x * channels + c] = convert<S>(at[x * pixel_stride]);
  }
}

}  // namespace
}  // namespace fastgan::conv

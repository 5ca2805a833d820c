// Where the CUDA convolution reads and writes: the two products that gather and wgrad are, as arithmetic for host and device.
//
//   out[m][n] = sum over k of  left(m, k) * right(n, k)
//
// Gather: m is an output pixel of one phase, n an output channel, k a tap and an input channel. Wgrad: m is a channel of the
// smaller map, n a tap and a channel of the larger one, k a pixel of the smaller map.
//
// Operands are read in chunks of 16 aligned bytes, of neighbouring channels: every map and packed weight has its channels padded
// with zeros to whole chunks (`padded`). What is not there, such as the padding around an image, is zeros too. An operand's place
// is made of a Position, of its m or n, which a thread works out once, and of a Counter, of its k, which goes on without a
// division.
#pragma once

#include <cstdint>
#include <utility>

#include "common/device.cuh"

namespace fastgan::conv {

using namespace cuda;

// Whether 0 <= value < size.
FASTGAN_HOST_DEVICE inline bool is_below(int value, int size) { return static_cast<unsigned>(value) < static_cast<unsigned>(size); }

// A number in mixed radix.
struct Radix {
  int low, middle, high;  // sizes: of low and of middle, which are at least 1, and of high
};
struct Counter {
  int low, middle, high;

  FASTGAN_HOST_DEVICE Counter(int64_t value, const Radix& radix)
      : low(static_cast<int>(value % radix.low)), middle(static_cast<int>(value / radix.low % radix.middle)),
        high(static_cast<int>(value / radix.low / radix.middle)) {}
  FASTGAN_HOST_DEVICE void advance(const Counter& by, const Radix& radix) {
    low += by.low;
    const bool carry = low >= radix.low;
    if (carry) low -= radix.low;
    middle += by.middle + carry;
    const bool carry_again = middle >= radix.middle;
    if (carry_again) middle -= radix.middle;
    high += by.high + carry_again;
  }
};

template <int count>
struct Counters {
  Counter values[count];

  template <class Make>
  FASTGAN_HOST_DEVICE explicit Counters(const Make& make) : Counters(make, std::make_integer_sequence<int, count>()) {}
  FASTGAN_HOST_DEVICE void advance(const Counter& by, const Radix& radix) {
    for (Counter& value : values) value.advance(by, radix);
  }

 private:
  template <class Make, int... i>
  FASTGAN_HOST_DEVICE Counters(const Make& make, std::integer_sequence<int, i...>) : values{make(i)...} {}
};

// One phase of one dimension (plan.h says what that is): tap j reads position `read * q + offset + j * offset_step` through
// the kernel's position `kernel + j * kernel_step`.
struct PhaseAxis {
  int start, count, taps;
  int kernel, kernel_step;
  int offset, offset_step;
};

constexpr int kMostTaps = 16;  // of a phase

// Bit j: whether tap j, from this position on, is inside.
FASTGAN_HOST_DEVICE inline unsigned taps_inside(int position, const PhaseAxis& phase, int size) {
  unsigned taps = 0;
  for (int j = 0; j < phase.taps; ++j) taps |= unsigned{is_below(position + j * phase.offset_step, size)} << j;
  return taps;
}

struct GatherAxis {
  int input, output, kernel, stride, padding, dilation;
  bool transposed;

  FASTGAN_HOST_DEVICE int phases() const { return !transposed ? 1 : stride < output ? stride : output; }
  FASTGAN_HOST_DEVICE int step() const { return transposed ? stride : 1; }  // between the outputs of a phase
  FASTGAN_HOST_DEVICE int read() const { return transposed ? 1 : stride; }
  FASTGAN_HOST_DEVICE PhaseAxis phase(int start) const {
    if (!transposed) return {0, output, kernel, 0, 1, -padding, dilation};
    PhaseAxis phase{start, (output - start + stride - 1) / stride, 0, 0, 0, 0, 0};
    for (int k = kernel; k-- > 0;) {
      const int distance = start + padding - k * dilation;
      if (distance % stride) continue;
      const int offset = distance / stride;
      if (phase.taps == 0) {
        phase.kernel = k;
        phase.offset = offset;
      } else if (phase.taps == 1) {
        phase.kernel_step = k - phase.kernel;
        phase.offset_step = offset - phase.offset;
      }
      ++phase.taps;
    }
    return phase;
  }
};

template <class T>
FASTGAN_HOST_DEVICE inline int padded(int channels) {
  return (channels + kPackWidth<T> - 1) / kPackWidth<T> * kPackWidth<T>;
}

// Where a chunk begins, counted from its operand's first element; where `inside` is false it is zeros.
struct Place {
  int64_t offset;
  bool inside;
};

// Normalise + activate, pending on an operand (cuda_prologue.cuh); where nothing is, `mean` is null.
template <class T>
struct Prologue {
  const Compute<T>*mean, *invstd;  // [groups, channels]
  const Compute<T>*weight, *bias;  // [channels] or null
  int channels;
  int images;  // of a group
  Activation activation;
  Compute<T> negative_slope;
};
// Whose of its parameters an element takes.
struct PrologueIndex {
  int group, channel;
};

// ---- gather -----------------------------------------------------------------------------------------------------------------

template <class T>
struct Gather {
  using Element = T;
  static constexpr bool k_major = true;  // neighbours in memory differ in k

  const T* input;   // [images, y.input, x.input, channels]
  const T* weight;  // of each part [outs, depth], part by part
  int images, channels, outs;  // channels: of the input, padded
  GatherAxis y, x;
  int64_t strides[4];  // of the output's images, channels, rows and columns
  Prologue<T> before;  // pending on the input

  struct Part {
    PhaseAxis y, x;
    int rows, columns, depth;  // m, n and k
    int group;                 // of images, that the rows are of
    int64_t weight;            // where the part's begins

    FASTGAN_HOST_DEVICE Radix radix(const Gather& g) const { return {g.channels, x.taps > 0 ? x.taps : 1, y.taps}; }
  };
  FASTGAN_HOST_DEVICE int parts() const { return y.phases() * x.phases(); }
  FASTGAN_HOST_DEVICE Part part(int index) const {
    const int number_y = index / x.phases(), number_x = index % x.phases();
    int taps = 0, taps_x = 0, taps_before = 0;  // of the parts before this one
    for (int i = 0; i < x.phases(); ++i) {
      if (i == number_x) taps_before = taps_x;
      taps_x += x.phase(i).taps;
    }
    for (int i = 0; i < number_y; ++i) taps += y.phase(i).taps * taps_x;
    const PhaseAxis along_y = y.phase(number_y), along_x = x.phase(number_x);
    taps += along_y.taps * taps_before;
    return {along_y, along_x, images * along_y.count * along_x.count, outs, along_y.taps * along_x.taps * channels, 0,
            int64_t{taps} * channels * outs};
  }

  struct Left {  // input pixels
    const Gather& g;
    const Part& part;

    struct Position {
      int pixel;      // tap 0's, in the image or beside it
      unsigned taps;  // bit j: whether tap j along y is in the image; bit kMostTaps + j: along x
    };
    FASTGAN_HOST_DEVICE const T* base() const { return g.input; }
    FASTGAN_HOST_DEVICE Position position(int m) const {
      const int q = m / part.x.count, image = q / part.y.count;
      const int y = q % part.y.count * g.y.read() + part.y.offset, x = m % part.x.count * g.x.read() + part.x.offset;
      const unsigned taps = taps_inside(y, part.y, g.y.input) | taps_inside(x, part.x, g.x.input) << kMostTaps;
      return {(image * g.y.input + y) * g.x.input + x, m < part.rows ? taps : 0};
    }
    FASTGAN_HOST_DEVICE Place at(const Position& p, const Counter& k) const {
      const int pixel = p.pixel + (k.high * part.y.offset_step * g.x.input + k.middle * part.x.offset_step);
      const bool inside = k.high < part.y.taps && (p.taps >> k.high & p.taps >> (k.middle + kMostTaps) & 1);
      return {int64_t{pixel} * g.channels + k.low, inside};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(const Position&, const Counter& k) const { return {part.group, k.low}; }
  };

  struct Right {  // the packed weight
    const Gather& g;
    const Part& part;

    using Position = int;  // n
    FASTGAN_HOST_DEVICE const T* base() const { return g.weight; }
    FASTGAN_HOST_DEVICE Position position(int n) const { return n; }
    FASTGAN_HOST_DEVICE Place at(Position n, const Counter& k) const {
      const int along = (k.high * part.x.taps + k.middle) * g.channels + k.low;
      return {part.weight + int64_t{n} * part.depth + along, n < part.columns && k.high < part.y.taps};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(Position, const Counter&) const { return {}; }  // nothing is pending on a weight
  };

  // out[m][n] belongs at the sum of both; at neither where one is negative.
  FASTGAN_HOST_DEVICE int64_t row_offset(const Part& part, int m) const {
    if (m >= part.rows) return -1;
    const int q = m / part.x.count, row = part.y.start + q % part.y.count * y.step();
    return q / part.y.count * strides[0] + row * strides[2] + (part.x.start + m % part.x.count * x.step()) * strides[3];
  }
  FASTGAN_HOST_DEVICE int64_t column_offset(const Part& part, int n) const { return n < part.columns ? n * strides[1] : -1; }
};

// ---- wgrad ------------------------------------------------------------------------------------------------------------------

// A convolution's smaller map is the gradient of its output and the larger its input; a transposed one's, the other way round.
struct WgradAxis {
  int small, large, kernel, stride, padding, dilation;
};

template <class T>
struct Wgrad {
  using Element = T;
  static constexpr bool k_major = false;

  const T* small;  // [images, y.small, x.small, small_padded]
  const T* large;  // [images, y.large, x.large, large_padded]
  int images, small_channels, small_padded, large_channels, large_padded;
  WgradAxis y, x;
  int64_t strides[4];  // of the gradient's small channels, large channels, rows and columns
  Prologue<T> before;  // pending on the convolution's input, one of the maps

  struct Part {
    int rows, columns, depth;
    int group;

    FASTGAN_HOST_DEVICE Radix radix(const Wgrad& g) const { return {g.x.small, g.y.small, g.images}; }
  };
  FASTGAN_HOST_DEVICE int parts() const { return 1; }
  FASTGAN_HOST_DEVICE Part part(int) const {
    return {small_channels, y.kernel * x.kernel * large_padded, images * y.small * x.small, 0};
  }
  FASTGAN_HOST_DEVICE int group(const Counter& k) const { return k.high / before.images; }

  struct Left {
    const Wgrad& g;
    const Part& part;

    using Position = int;  // m
    FASTGAN_HOST_DEVICE const T* base() const { return g.small; }
    FASTGAN_HOST_DEVICE Position position(int m) const { return m; }
    FASTGAN_HOST_DEVICE Place at(Position m, const Counter& k) const {
      const int pixel = (k.high * g.y.small + k.middle) * g.x.small + k.low;
      return {int64_t{pixel} * g.small_padded + m, m < g.small_padded && k.high < g.images};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(Position m, const Counter& k) const { return {g.group(k), m}; }
  };

  struct Right {
    const Wgrad& g;
    const Part& part;

    struct Position {
      int y, x, channel;  // of the tap, from the smaller map's pixel times the stride
    };
    FASTGAN_HOST_DEVICE const T* base() const { return g.large; }
    FASTGAN_HOST_DEVICE Position position(int n) const {
      constexpr int kNowhere = -(1 << 30);
      const int tap = n / g.large_padded;
      return {n < part.columns ? tap / g.x.kernel * g.y.dilation - g.y.padding : kNowhere,
              tap % g.x.kernel * g.x.dilation - g.x.padding, n % g.large_padded};
    }
    FASTGAN_HOST_DEVICE Place at(const Position& p, const Counter& k) const {
      const int y = k.middle * g.y.stride + p.y, x = k.low * g.x.stride + p.x;
      if (k.high >= g.images || !is_below(y, g.y.large) || !is_below(x, g.x.large)) return {0, false};
      const int pixel = (k.high * g.y.large + y) * g.x.large + x;
      return {int64_t{pixel} * g.large_padded + p.channel, true};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(const Position& p, const Counter& k) const { return {g.group(k), p.channel}; }
  };

  FASTGAN_HOST_DEVICE int64_t row_offset(const Part& part, int m) const { return m < part.rows ? m * strides[0] : -1; }
  FASTGAN_HOST_DEVICE int64_t column_offset(const Part& part, int n) const {
    const int tap = n / large_padded, channel = n % large_padded;
    if (n >= part.columns || channel >= large_channels) return -1;
    return channel * strides[1] + tap / x.kernel * strides[2] + tap % x.kernel * strides[3];
  }
};

}  // namespace fastgan::conv

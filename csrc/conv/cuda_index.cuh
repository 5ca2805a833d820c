// Where the CUDA convolution reads and writes: the two products that gather and wgrad are, as arithmetic for host and device.
//
//   out[m][n] = sum over k of  left(m, k) * right(n, k)
//
// Gather: m is an output pixel of one phase, n an output channel, k a tap and an input channel. Wgrad: m is a channel of the
// smaller map, n a tap and a channel of the larger one, k a pixel of the smaller map.
//
// Maps are read in chunks of 16 aligned bytes, of neighbouring channels, which are padded with zeros to whole chunks (`padded`). What
// is not there, such as the padding around an image, is zeros too. Where a chunk lies is the sum of a Position, of its m or n, which a
// thread works out once, and of an Along, of its k, which chunks share. k itself is a Counter, which goes on without a division. A
// weight is packed as its panels lie in shared memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/device.cuh"

namespace fastgan::conv {

using namespace cuda;

// Whether 0 <= value < size.
FASTGAN_HOST_DEVICE inline bool is_below(int value, int size) { return static_cast<unsigned>(value) < static_cast<unsigned>(size); }

// A number to divide by: numbers of at least 0 and below 2^31, by a multiplication in the place of some twenty instructions. Granlund
// and Montgomery, "Division by Invariant Integers using Multiplication", 1994.
class Divisor {
 public:
  Divisor() = default;
  FASTGAN_HOST_DEVICE Divisor(int value) : value_(value), multiplier_(0), shift_(0) {
    if (value <= 1) return;  // the number itself
    while (1u << shift_ < static_cast<unsigned>(value)) ++shift_;
    multiplier_ = static_cast<unsigned>(((uint64_t{1} << (31 + shift_)) + value - 1) / value);
    --shift_;
  }
  FASTGAN_HOST_DEVICE operator int() const { return value_; }
  FASTGAN_HOST_DEVICE int into(int n) const {
    return multiplier_ ? static_cast<int>((uint64_t{static_cast<unsigned>(n)} * multiplier_ >> 32) >> shift_) : n;
  }
  FASTGAN_HOST_DEVICE int rest(int n) const { return n - into(n) * value_; }

 private:
  int value_;
  unsigned multiplier_, shift_;
};

// A number in mixed radix.
struct Radix {
  Divisor low, middle;  // sizes of both, which are at least 1
};
struct Counter {
  int low, middle, high;

  FASTGAN_HOST_DEVICE Counter(int value, const Radix& radix) : low(radix.low.rest(value)) {
    const int rest = radix.low.into(value);
    middle = radix.middle.rest(rest);
    high = radix.middle.into(rest);
  }
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
  int start;
  Divisor count, taps;  // at least 1, but that taps may be 0
  int kernel, kernel_step;
  int offset, offset_step;
};

constexpr int kMostTaps = 15;  // of a phase

// Bit j: whether tap j, from this position on, is inside.
FASTGAN_HOST_DEVICE inline unsigned taps_inside(int position, const PhaseAxis& phase, int size) {
  if (phase.offset_step == 1) {  // a range of them
    const auto clamped = [](int value, int least, int most) { return value < least ? least : value < most ? value : most; };
    const int begin = clamped(-position, 0, phase.taps), end = clamped(size - position, begin, phase.taps);
    return (1u << end) - (1u << begin);
  }
  unsigned taps = 0;
  for (int j = 0; j < phase.taps; ++j) taps |= unsigned{is_below(position + j * phase.offset_step, size)} << j;
  return taps;
}

struct GatherAxis {
  int input, output, kernel;
  Divisor stride;
  int padding, dilation;
  bool transposed;
  static constexpr int kWorkedOut = 2;  // as many phases as strides of 1 and 2 have; a thread works out the others
  Divisor phases;
  PhaseAxis first[kWorkedOut];

  GatherAxis() = default;
  GatherAxis(int input, int output, int kernel, int stride, int padding, int dilation, bool transposed)
      : input(input), output(output), kernel(kernel), stride(stride), padding(padding), dilation(dilation), transposed(transposed),
        phases(!transposed ? 1 : stride < output ? stride : output) {
    for (int start = 0; start < kWorkedOut; ++start) first[start] = start < phases ? worked_out(start) : PhaseAxis{};
  }

  FASTGAN_HOST_DEVICE int step() const { return transposed ? int{stride} : 1; }  // between the outputs of a phase
  FASTGAN_HOST_DEVICE int read() const { return transposed ? 1 : int{stride}; }
  FASTGAN_HOST_DEVICE PhaseAxis phase(int start) const { return start < kWorkedOut ? first[start] : worked_out(start); }

 private:
  FASTGAN_HOST_DEVICE PhaseAxis worked_out(int start) const {
    if (!transposed) return {0, output, kernel, 0, 1, -padding, dilation};
    PhaseAxis phase{start, (output - start + stride - 1) / stride, 0, 0, 0, 0, 1};
    int taps = 0;
    for (int k = kernel; k-- > 0;) {
      const int distance = start + padding - k * dilation;
      if (distance % stride) continue;
      const int offset = distance / stride;
      if (taps == 0) {
        phase.kernel = k;
        phase.offset = offset;
      } else if (taps == 1) {
        phase.kernel_step = k - phase.kernel;
        phase.offset_step = offset - phase.offset;
      }
      ++taps;
    }
    phase.taps = taps;
    return phase;
  }
};

template <class T>
FASTGAN_HOST_DEVICE inline int padded(int channels) {
  return (channels + kPackWidth<T> - 1) / kPackWidth<T> * kPackWidth<T>;
}

// Addresses as numbers: they may be counted on beside a map, where nothing is read.
using Address = uintptr_t;

// Where a chunk begins; where `inside` is false it is zeros.
struct Place {
  Address address;
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

// What a gather's k is: taps and channels, phase by phase.
struct GatherTaps {
  Divisor channels;  // of the input, padded
  GatherAxis y, x;

  FASTGAN_HOST_DEVICE int parts() const { return y.phases * x.phases; }
  FASTGAN_HOST_DEVICE PhaseAxis phase_y(int part) const { return y.phase(x.phases.into(part)); }
  FASTGAN_HOST_DEVICE PhaseAxis phase_x(int part) const { return x.phase(x.phases.rest(part)); }
  FASTGAN_HOST_DEVICE Radix radix(const PhaseAxis& of_x) const { return {channels, of_x.taps > 0 ? of_x.taps : Divisor(1)}; }

  // The deepest part's, in stretches of so many.
  int steps(int depth) const {
    int most = 0;
    for (int part = 0; part < parts(); ++part) most = std::max(most, phase_y(part).taps * phase_x(part).taps * channels);
    return (most + depth - 1) / depth;
  }
};

template <class T>
struct Gather : GatherTaps {
  using Element = T;
  static constexpr bool k_major = true;  // neighbours in memory differ in k
  static constexpr bool has_epilogue = true;

  const T* input;   // [images, y.input, x.input, channels]
  const T* weight;  // panels [parts, tiles of columns, steps], each as it lies in shared memory
  int images, outs;
  int steps;           // stretches of k, of the deepest part
  int64_t strides[4];  // of the output's images, channels, rows and columns
  Prologue<T> before;  // pending on the input

  struct Part {
    PhaseAxis y, x;
    int rows, columns, depth;  // m, n and k
    int group;                 // of images, that the rows are of
    int index;

    FASTGAN_HOST_DEVICE Radix radix(const Gather& g) const { return g.GatherTaps::radix(x); }
  };
  FASTGAN_HOST_DEVICE Part part(int index) const {
    const PhaseAxis along_y = phase_y(index), along_x = phase_x(index);
    return {along_y, along_x, images * along_y.count * along_x.count, outs, along_y.taps * along_x.taps * channels, 0, index};
  }

  struct Left {  // input pixels
    const Gather& g;
    const Part& part;

    struct Position {
      Address pixel;  // tap 0's, in the image or beside it
      unsigned taps;  // bit j: whether tap j along x is in the image; bit 16 + j: along y
    };
    struct Along {
      Address bytes;
      int bit_x, bit_y;
    };
    FASTGAN_HOST_DEVICE Position position(int m) const {
      const int q = part.x.count.into(m), image = part.y.count.into(q);
      const int y = (q - image * part.y.count) * g.y.read() + part.y.offset;
      const int x = (m - q * part.x.count) * g.x.read() + part.x.offset;
      const unsigned taps = taps_inside(x, part.x, g.x.input) | taps_inside(y, part.y, g.y.input) << 16;
      const int64_t pixel = (int64_t{image} * g.y.input + y) * g.x.input + x;
      return {reinterpret_cast<Address>(g.input) + pixel * g.channels * sizeof(T), m < part.rows ? taps : 0};
    }
    FASTGAN_HOST_DEVICE Along along(const Counter& k) const {
      const int pixel = k.high * part.y.offset_step * g.x.input + k.middle * part.x.offset_step;
      return {static_cast<Address>((int64_t{pixel} * g.channels + k.low) * int64_t{sizeof(T)}), k.middle,
              16 + (k.high < kMostTaps ? k.high : kMostTaps)};
    }
    FASTGAN_HOST_DEVICE Place at(const Position& p, const Along& k) const {
      return {p.pixel + k.bytes, (p.taps >> k.bit_x & p.taps >> k.bit_y & 1) != 0};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(const Position&, const Counter& k) const { return {part.group, k.low}; }
  };

  // out[m][n] belongs at the sum of both; at neither where one is negative.
  FASTGAN_HOST_DEVICE int64_t row_offset(const Part& part, int m) const {
    if (m >= part.rows) return -1;
    const int q = part.x.count.into(m), image = part.y.count.into(q);
    const int row = part.y.start + (q - image * part.y.count) * y.step(), column = part.x.start + (m - q * part.x.count) * x.step();
    return image * strides[0] + row * strides[2] + column * strides[3];
  }
  FASTGAN_HOST_DEVICE int64_t column_offset(const Part& part, int n) const { return n < part.columns ? n * strides[1] : -1; }
};

// ---- wgrad ------------------------------------------------------------------------------------------------------------------

// A convolution's smaller map is the gradient of its output and the larger its input; a transposed one's, the other way round.
struct WgradAxis {
  Divisor small;
  int large;
  Divisor kernel;
  int stride, padding, dilation;
};

template <class T>
struct Wgrad {
  using Element = T;
  static constexpr bool k_major = false, has_epilogue = false;

  const T* small;  // [images, y.small, x.small, small_padded]
  const T* large;  // [images, y.large, x.large, large_padded]
  int images, small_channels, small_padded, large_channels;
  Divisor large_padded;
  WgradAxis y, x;
  int64_t strides[4];  // of the gradient's small channels, large channels, rows and columns
  Prologue<T> before;  // pending on the convolution's input, one of the maps

  struct Part {
    int rows, columns, depth;
    int group;

    FASTGAN_HOST_DEVICE Radix radix(const Wgrad& g) const { return {g.x.small, g.y.small}; }
  };
  FASTGAN_HOST_DEVICE int parts() const { return 1; }
  FASTGAN_HOST_DEVICE Part part(int) const {
    return {small_channels, y.kernel * x.kernel * large_padded, images * y.small * x.small, 0};
  }
  FASTGAN_HOST_DEVICE int group(const Counter& k) const { return k.high / before.images; }

  struct Left {
    const Wgrad& g;
    const Part& part;

    struct Position {
      Address from;
      int m;
    };
    struct Along {
      Address bytes;
      bool inside;
    };
    FASTGAN_HOST_DEVICE Position position(int m) const { return {reinterpret_cast<Address>(g.small) + m * sizeof(T), m}; }
    FASTGAN_HOST_DEVICE Along along(const Counter& k) const {
      const int pixel = (k.high * g.y.small + k.middle) * g.x.small + k.low;
      return {static_cast<Address>(pixel) * g.small_padded * sizeof(T), k.high < g.images};
    }
    FASTGAN_HOST_DEVICE Place at(const Position& p, const Along& k) const { return {p.from + k.bytes, k.inside && p.m < g.small_padded}; }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(const Position& p, const Counter& k) const { return {g.group(k), p.m}; }
  };

  struct Right {
    const Wgrad& g;
    const Part& part;

    static constexpr int kNowhere = -(1 << 30);
    struct Position {
      Address from;
      int y, x, channel;  // of the tap, from the smaller map's pixel times the stride
    };
    struct Along {
      Address bytes;
      int y, x;
    };
    FASTGAN_HOST_DEVICE Position position(int n) const {
      const int tap = g.large_padded.into(n), channel = n - tap * g.large_padded, row = g.x.kernel.into(tap);
      const int y = row * g.y.dilation - g.y.padding, x = (tap - row * g.x.kernel) * g.x.dilation - g.x.padding;
      const int64_t offset = (int64_t{y} * g.x.large + x) * g.large_padded + channel;
      return {reinterpret_cast<Address>(g.large) + offset * sizeof(T), n < part.columns ? y : kNowhere, x, channel};
    }
    FASTGAN_HOST_DEVICE Along along(const Counter& k) const {
      const int y = k.middle * g.y.stride, x = k.low * g.x.stride;
      const int64_t pixel = (int64_t{k.high} * g.y.large + y) * g.x.large + x;
      return {static_cast<Address>(pixel) * g.large_padded * sizeof(T), k.high < g.images ? y : kNowhere, x};
    }
    FASTGAN_HOST_DEVICE Place at(const Position& p, const Along& k) const {
      return {p.from + k.bytes, is_below(k.y + p.y, g.y.large) && is_below(k.x + p.x, g.x.large)};
    }
    FASTGAN_HOST_DEVICE PrologueIndex prologue_index(const Position& p, const Counter& k) const { return {g.group(k), p.channel}; }
  };

  FASTGAN_HOST_DEVICE int64_t row_offset(const Part& part, int m) const { return m < part.rows ? m * strides[0] : -1; }
  FASTGAN_HOST_DEVICE int64_t column_offset(const Part& part, int n) const {
    const int tap = large_padded.into(n), channel = n - tap * large_padded, row = x.kernel.into(tap);
    if (n >= part.columns || channel >= large_channels) return -1;
    return channel * strides[1] + row * strides[2] + (tap - row * x.kernel) * strides[3];
  }
};

}  // namespace fastgan::conv

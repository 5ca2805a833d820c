// Where the CUDA convolution reads and writes: the two products that gather and wgrad are, as arithmetic for host and device.
//
//   out[m][n] = sum over k of  left(m, k) * right(n, k)
//
// Gather: m is an output pixel of one phase, n an output channel, k a tap and an input channel. Wgrad: m is a channel of the
// smaller map, n a tap and a channel of the larger one, k a pixel of the smaller map. Operands are read in chunks of 16 bytes
// of neighbouring channels, so channels are counted as if padded to whole chunks (`padded`); what is not there reads as 0.
#pragma once

#include <cstdint>

#include "common/device.cuh"

namespace fastgan::conv {

using namespace cuda;

// One phase of one dimension (plan.h says what that is): tap j reads position `read * q + offset + j * offset_step` through
// the kernel's position `kernel + j * kernel_step`.
struct PhaseAxis {
  int start, count, taps;
  int kernel, kernel_step;
  int offset, offset_step;
};

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

// Neighbouring channels in memory: as many of a chunk as are there, the others being 0.
template <class T>
struct Chunk {
  const T* from;  // readable also where count is 0
  int count;
};

template <class T>
FASTGAN_HOST_DEVICE inline Chunk<T> chunk_of(const T* base, int64_t offset, int left) {
  return {base + offset, left < kPackWidth<T> ? left : kPackWidth<T>};
}

// Normalise + activate, pending on an operand (cuda_prologue.cuh); where nothing is, `table` is null.
template <class T>
struct Prologue {
  const Compute<T>* table;  // mean, scale and shift, each [groups, padded channels]
  int64_t total;            // of each
  int images;               // of a group
  Activation activation;
  Compute<T> negative_slope;
};

// ---- gather -----------------------------------------------------------------------------------------------------------------

template <class T>
struct Gather {
  using Element = T;
  const T* input;   // [images, y.input, x.input, ins]
  const T* weight;  // [outs, y.kernel, x.kernel, padded(ins)], aligned to chunks
  int images, ins, outs;
  GatherAxis y, x;
  bool aligned;                  // every chunk of the input lies whole on a multiple of 16 bytes
  int64_t strides[4];            // of the output's images, channels, rows and columns
  Prologue<T> before;            // pending on the input

  struct Part {
    PhaseAxis y, x;
    int rows, columns, depth;  // m, n and k
    int group;                 // of images, that the rows are of
  };
  FASTGAN_HOST_DEVICE int parts() const { return y.phases() * x.phases(); }
  FASTGAN_HOST_DEVICE Part part(int index) const {
    const PhaseAxis along_y = y.phase(index / x.phases()), along_x = x.phase(index % x.phases());
    return {along_y, along_x, images * along_y.count * along_x.count, outs, along_y.taps * along_x.taps * padded<T>(ins), 0};
  }

  struct Tap {
    int y, x, channel;  // numbers of taps along y and x
  };
  FASTGAN_HOST_DEVICE Tap tap(const Part& part, int k) const {
    const int number = k / padded<T>(ins);
    return {number / part.x.taps, number % part.x.taps, k % padded<T>(ins)};
  }

  struct Left {  // input pixels
    static constexpr bool k_major = true;
    const Gather& g;
    const Part& part;

    struct Position {
      int64_t image;  // its first pixel
      int y, x;       // of tap 0's pixel, but for the phase's offsets
      bool inside;
    };
    FASTGAN_HOST_DEVICE Position position(int m) const {
      const int q = m / part.x.count;
      return {int64_t{q / part.y.count} * g.y.input * g.x.input, q % part.y.count * g.y.read() + part.y.offset,
              m % part.x.count * g.x.read() + part.x.offset, m < part.rows};
    }
    FASTGAN_HOST_DEVICE Chunk<T> at(const Position& p, int k) const {
      if (!p.inside || k >= part.depth) return {g.input, 0};
      const Tap tap = g.tap(part, k);
      const int y = p.y + tap.y * part.y.offset_step, x = p.x + tap.x * part.x.offset_step;
      if (y < 0 || y >= g.y.input || x < 0 || x >= g.x.input) return {g.input, 0};
      return chunk_of(g.input, (p.image + int64_t{y} * g.x.input + x) * g.ins + tap.channel, g.ins - tap.channel);
    }
    FASTGAN_HOST_DEVICE bool aligned() const { return g.aligned; }
    FASTGAN_HOST_DEVICE int prologue_index(const Position&, int k) const {
      return part.group * padded<T>(g.ins) + k % padded<T>(g.ins);
    }
  };

  struct Right {  // the packed weight
    static constexpr bool k_major = true;
    const Gather& g;
    const Part& part;

    using Position = int;
    FASTGAN_HOST_DEVICE Position position(int n) const { return n; }
    FASTGAN_HOST_DEVICE Chunk<T> at(Position n, int k) const {
      if (n >= part.columns || k >= part.depth) return {g.weight, 0};
      const Tap tap = g.tap(part, k);
      const int y = part.y.kernel + tap.y * part.y.kernel_step, x = part.x.kernel + tap.x * part.x.kernel_step;
      const int64_t row = (int64_t{n} * g.y.kernel + y) * g.x.kernel + x;
      return {g.weight + row * padded<T>(g.ins) + tap.channel, kPackWidth<T>};
    }
    FASTGAN_HOST_DEVICE bool aligned() const { return true; }
  };

  // Where out[m][n] belongs, or -1.
  FASTGAN_HOST_DEVICE int64_t index(const Part& part, int m, int n) const {
    if (m >= part.rows || n >= part.columns) return -1;
    const int q = m / part.x.count, row = part.y.start + q % part.y.count * y.step();
    const int column = part.x.start + m % part.x.count * x.step();
    return q / part.y.count * strides[0] + n * strides[1] + row * strides[2] + column * strides[3];
  }
};

// ---- wgrad ------------------------------------------------------------------------------------------------------------------

// A convolution's smaller map is the gradient of its output and the larger its input; a transposed one's, the other way round.
struct WgradAxis {
  int small, large, kernel, stride, padding, dilation;
};

template <class T>
struct Wgrad {
  using Element = T;
  const T* small;  // [images, y.small, x.small, small_channels]
  const T* large;  // [images, y.large, x.large, large_channels]
  int images, small_channels, large_channels;
  WgradAxis y, x;
  bool small_aligned, large_aligned;
  int64_t strides[4];  // of the gradient's small channels, large channels, rows and columns
  Prologue<T> before;  // pending on the convolution's input, one of the maps

  struct Part {
    int rows, columns, depth;
    int group;
  };
  FASTGAN_HOST_DEVICE int group(int k) const { return k / (y.small * x.small) / before.images; }
  FASTGAN_HOST_DEVICE int parts() const { return 1; }
  FASTGAN_HOST_DEVICE Part part(int) const {
    return {small_channels, y.kernel * x.kernel * padded<T>(large_channels), images * y.small * x.small, 0};
  }

  struct Left {
    static constexpr bool k_major = false;
    const Wgrad& g;
    const Part& part;

    using Position = int;
    FASTGAN_HOST_DEVICE Position position(int m) const { return m; }
    FASTGAN_HOST_DEVICE Chunk<T> at(Position m, int k) const {
      if (m >= part.rows || k >= part.depth) return {g.small, 0};
      return chunk_of(g.small, int64_t{k} * g.small_channels + m, g.small_channels - m);
    }
    FASTGAN_HOST_DEVICE bool aligned() const { return g.small_aligned; }
    FASTGAN_HOST_DEVICE int prologue_index(Position m, int k) const { return g.group(k) * padded<T>(g.small_channels) + m; }
  };

  struct Right {
    static constexpr bool k_major = false;
    const Wgrad& g;
    const Part& part;

    struct Position {
      int y, x, channel;  // of the tap, from the smaller map's pixel times the stride
      bool inside;
    };
    FASTGAN_HOST_DEVICE Position position(int n) const {
      const int channels = padded<T>(g.large_channels), tap = n / channels;
      return {tap / g.x.kernel * g.y.dilation - g.y.padding, tap % g.x.kernel * g.x.dilation - g.x.padding, n % channels,
              n < part.columns};
    }
    FASTGAN_HOST_DEVICE Chunk<T> at(const Position& p, int k) const {
      if (!p.inside || k >= part.depth) return {g.large, 0};
      const int row = k / g.x.small;
      const int y = row % g.y.small * g.y.stride + p.y, x = k % g.x.small * g.x.stride + p.x;
      if (y < 0 || y >= g.y.large || x < 0 || x >= g.x.large) return {g.large, 0};
      const int64_t pixel = (int64_t{row / g.y.small} * g.y.large + y) * g.x.large + x;
      return chunk_of(g.large, pixel * g.large_channels + p.channel, g.large_channels - p.channel);
    }
    FASTGAN_HOST_DEVICE bool aligned() const { return g.large_aligned; }
    FASTGAN_HOST_DEVICE int prologue_index(const Position& p, int k) const {
      return g.group(k) * padded<T>(g.large_channels) + p.channel;
    }
  };

  FASTGAN_HOST_DEVICE int64_t index(const Part& part, int m, int n) const {
    const int channels = padded<T>(large_channels), tap = n / channels, channel = n % channels;
    if (m >= part.rows || n >= part.columns || channel >= large_channels) return -1;
    return m * strides[0] + channel * strides[1] + tap / x.kernel * strides[2] + tap % x.kernel * strides[3];
  }
};

}  // namespace fastgan::conv

// What brings operands into the form that the tiles read (tile.h), and takes their results out of it. Compiled once for each
// instruction set (pack_kernels.cpp).
//
// T is the tensor's element type, S the packed one (tile.h). Strides are in elements.
#pragma once

#include <cstdint>
#include <limits>

#include "common/activation.h"
#include "common/element.h"

namespace fastgan::conv {

inline constexpr int kMaxStoredRows = 64;
inline constexpr int kSparePatch = 16;
inline constexpr int kSpareSums = 64;

// One image of a batch.
struct Image {
  int64_t channels, height, width;
  int64_t channel_stride, row_stride, pixel_stride;
};

// A window of an image with zeros around it: rows [first, first + height) and `width` columns, counted from `top` rows above
// and `left` columns before the image.
struct Window {
  int64_t top, left, first, height, width;
};

// Columns of right operands that are neighbours in memory too: where they lie, and where their first step goes.
struct Run {
  int64_t from, to, length;
};

inline constexpr int64_t kNoSegment = std::numeric_limits<int64_t>::min();

// A row of a scatter's products, [pixels][taps][channels] with `line` elements from pixel to pixel, and where they fall.
struct ScatteredRow {
  int64_t pixels, taps, channels, line;
  int64_t stride, padding, width;  // width: of the larger image
};

template <class T, class S>
struct Packing {
  using A = Compute<S>;

  // The left operand of a convolution, pixels by channels: out[y][x][channel], channels padded with zeros to `channels`.
  void (*pixels)(const T* image, const Image&, const Window&, int64_t channels, S* out);

  // Deals a line of pixels out: out[x % ways * way + x / ways * apart + channel] from line[x][channel].
  void (*deal)(const S* line, int64_t count, int64_t channels, int64_t ways, int64_t way, int64_t apart, S* out);

  // Lines of all that an output pixel reads: out[x * apart + i * length + k] from pixels[starts[i] + x * step + k] for k < length, padded
  // with zeros to `extent`. May read kSparePatch elements beyond the last.
  void (*patches)(const S* pixels, int64_t count, int64_t step, const int64_t* starts, int64_t start_count, int64_t length,
                  int64_t extent, int64_t apart, S* out);

  // Takes a line of elements apart into `step` strands: out[i * count + k] from line[k * step + i] for k < count. May read
  // kSparePatch elements beyond the last.
  void (*strands)(const S* line, int64_t count, int64_t step, S* out);

  // Pieces of them, one under the other: out[i * apart + k] from strands[starts[i] + k] for k < length, padded with zeros to `extent`.
  void (*pieces)(const S* strands, const int64_t* starts, int64_t count, int64_t length, int64_t extent, int64_t apart, S* out);

  // The left operand of a weight gradient, channels by pixels: out[channel * line + segment * extent + k] from
  // in[segments[s] + k * k_stride + channel * channel_stride], padded with zeros to `extent`.
  void (*lines)(const T* in, const int64_t* segments, int64_t segment_count, int64_t k_count, int64_t k_stride,
                int64_t channel_count, int64_t channel_stride, int64_t extent, int64_t line, S* out);

  // The right operand: out[segment][k / step][column][step] from in[segments[s] + k * k_stride + column * column_stride],
  // padded with zeros to `extent` and to `columns` columns.
  void (*columns)(const T* in, const int64_t* segments, int64_t segment_count, int64_t k_count, int64_t k_stride,
                  int64_t column_count, int64_t column_stride, int64_t extent, int64_t columns, int step, S* out);

  // The same for neighbouring columns and part of each segment's k, [begin, end); what lies before and behind is zeros, and so is
  // a segment of kNoSegment. `in` and segments may be offset, as long as what is read lies in the tensor.
  void (*columns_within)(const T* in, const int64_t* segments, int64_t segment_count, int64_t begin, int64_t end,
                         int64_t k_stride, int64_t column_count, int64_t extent, int64_t columns, int step, S* out);

  // The same for runs of columns: out[run.to + (k / step * columns + i) * step + k % step] from in[k * k_stride + run.from + i],
  // padded with zeros to `extent`; other columns are left as they are.
  void (*runs)(const T* in, int64_t k_count, int64_t k_stride, const Run* runs, int64_t run_count, int64_t extent,
               int64_t columns, int step, S* out);

  // A weight's gradient from its sums, [taps][rows][columns]: out[row * row_stride + places[tap] + column * column_stride]. `rows` and
  // `columns` are what is there of each, and some of it is wanted.
  void (*taps)(const A* sums, int64_t tap_count, int64_t rows, int64_t columns, int64_t row_count, int64_t column_count,
               const int64_t* places, int64_t row_stride, int64_t column_stride, T* out);

  // sums[x * stride + tap - padding][channel] = bias[channel] + products[i][x][tap][channel] over all that meet there and i < count.
  // May write kSpareSums elements more on either side.
  void (*add_rows)(const ScatteredRow&, const A* const* products, int64_t count, const A* bias, A* sums);

  // out[offsets[m] + n * column_stride] = activation(tile[m][n] + bias[n]), where there is a bias. Of at most kMaxStoredRows
  // rows.
  void (*store[kActivations])(const A* tile, int64_t columns, int64_t row_count, int64_t column_count, const A* bias,
                              A negative_slope, const int64_t* offsets, int64_t column_stride, T* out);
};

template <class T, class S>
const Packing<T, S>& packing();  // for the instruction set in use

}  // namespace fastgan::conv

// The operands of a weight's gradient (correlation.h), a chunk at a time.
#pragma once

#include <algorithm>
#include <vector>

#include "conv/correlation.h"
#include "conv/fetch.h"
#include "conv/prologue.h"

namespace fastgan::conv {

// Channels of small by k.
template <class T, class S>
void pack_channels(const Correlation& c, const Chunk& chunk, const Tensor& small, const Prologue<S>& prologue, S* out) {
  const auto lines = [&](auto* from, int64_t image_stride, int64_t row_stride, int64_t pixel_stride, int64_t channel_stride) {
    std::vector<int64_t> segments;
    const int64_t count = c.images_last ? c.small.width : chunk.images, stride = c.images_last ? pixel_stride : image_stride;
    for (int64_t y = 0; y < chunk.rows; ++y) {
      for (int64_t i = 0; i < count; ++i) segments.push_back(y * row_stride + i * stride);
    }
    packing<std::decay_t<decltype(*from)>, S>().lines(
        from, segments.data(), segments.size(), c.images_last ? chunk.images : c.small.width,
        c.images_last ? image_stride : pixel_stride, c.small.channels, channel_stride, c.extent, c.line(), out);
  };
  const int64_t padded = c.row_blocks * c.tile_rows;
  if (!prologue) {
    return lines(data<T>(small) + chunk.first_image * small.stride(0) + chunk.first_row * c.small.row_stride, small.stride(0),
                 c.small.row_stride, c.small.pixel_stride, c.small.channel_stride);
  }
  const Window window{0, 0, chunk.first_row, chunk.rows, c.small.width};
  const int64_t row_size = c.small.width * padded, image_size = chunk.rows * row_size;
  S* const pixels = scratch<S, 1>(chunk.images * image_size);
  const int64_t image_stride = small.stride(0);
  const T* const from = data<T>(small) + chunk.first_image * image_stride;
  for (int64_t i = 0; i < chunk.images; ++i) {
    prologue.pack(from + i * image_stride, chunk.first_image + i, c.small, window, pixels + i * image_size);
  }
  lines(static_cast<const S*>(pixels), image_size, row_size, padded, 1);
}

// Patches of large by k: rows are [tap][channel]. A line of pixels is taken apart into strands first, one for each channel and place
// within a stride, so that what a tap reads of a line is a piece of one.
template <class T, class S>
void pack_patches(const Correlation& c, const Chunk& chunk, const Tensor& large, const Prologue<S>& prologue, S* out) {
  const auto& pack = packing<T, S>();
  const Sliding& of = c.large;
  const Window window = of.window(chunk.first_row, chunk.rows, c.small.width);
  const int64_t channels = of.image.channels, step = of.stride[1] * channels;
  const int64_t strand = divide_up(window.width, of.stride[1]), line = step * strand;
  S* const pixels = scratch<S, 2>(window.height * window.width * channels + step + kSparePatch);
  S* const apart = scratch<S, 8>(window.height * line);
  std::vector<int64_t> starts;
  for (int64_t y = 0; y < of.kernel[0]; ++y) {
    for (int64_t x = 0; x < of.kernel[1]; ++x) {
      const int64_t column = x * of.dilation[1], first = column % of.stride[1] * channels;
      for (int64_t channel = 0; channel < channels; ++channel) {
        starts.push_back(y * of.dilation[0] * line + (first + channel) * strand + column / of.stride[1]);
      }
    }
  }
  for (int64_t i = 0; i < chunk.images; ++i) {
    prologue.pack(data<T>(large) + (chunk.first_image + i) * large.stride(0), chunk.first_image + i, of.image, window, pixels);
    for (int64_t y = 0; y < window.height; ++y) {
      pack.strands(pixels + y * window.width * channels, strand, step, apart + y * line);
    }
    for (int64_t y = 0; y < chunk.rows; ++y) {
      pack.pieces(apart + y * of.stride[0] * line, starts.data(), starts.size(), c.small.width, c.extent, c.line(),
                  out + (y * chunk.images + i) * c.extent);
    }
  }
}

// k by channels: [blocks][planes][row][column][image / step][columns][step].
template <class T, class S>
class Right {
 public:
  Right(const Correlation& c, const Tensor& tensor, const Pending& pending, int64_t first_block)
      : c_(c), of_(c.columns), tensor_(tensor), first_block_(first_block),
        blocks_(std::min(c.column_unit, c.column_blocks - first_block)),
        prologue_(pending, first_block * c.tile_columns, c.channels()) {}

  int64_t blocks() const { return blocks_; }

  void pack(const Chunk& chunk) {
    planes_.clear();
    size_ = 0;
    for (const auto& y : c_.residues[0]) {
      for (const auto& x : c_.residues[1]) {
        const int64_t row = c_.row_depth(chunk.images) + (c_.images_last ? x.more * c_.extent : 0);
        planes_.push_back({size_, row * c_.tile_columns});
        size_ += (chunk.rows + y.more) * row * c_.tile_columns;
      }
    }
    data_ = scratch<S, 3>(blocks_ * size_);
    if (!prologue_ && of_.image.channel_stride == 1) return pack_columns_as_they_lie(chunk);
    pack_window(chunk);
    pack_columns(chunk);
  }

  // What packing this chunk will read.
  Fetch source(const Chunk& chunk) const {
    const Window window = of_.window(chunk.first_row, chunk.rows, c_.small.width);
    return {tensor_, of_.image, chunk.first_image, chunk.images, window.first - window.top, window.height,
            first_block_ * c_.tile_columns, blocks_ * c_.tile_columns};
  }

  // From a row of k to the next.
  int64_t apart(const TapView& tap) const { return plane(tap).row; }
  const S* panel(int64_t block, const TapView& tap) const {
    return data_ + block * size_ + plane(tap).at + tap.skip[0] * plane(tap).row + tap.skip[1] * c_.extent * c_.tile_columns;
  }

 private:
  struct Plane {
    int64_t at, row;  // of elements
  };
  const Plane& plane(const TapView& tap) const { return planes_[tap.residue[0] * c_.residues[1].size() + tap.residue[1]]; }

  void pack_window(const Chunk& chunk) {
    const int64_t channels = c_.channels(), first = first_block_ * c_.tile_columns;
    const Window window = of_.window(chunk.first_row, chunk.rows, c_.small.width);
    row_size_ = window.width * channels;
    image_size_ = window.height * row_size_;
    window_ = scratch<S, 2>(chunk.images * image_size_);
    Image some = of_.image;
    some.channels = std::min(channels, of_.image.channels - first);
    const int64_t image_stride = tensor_.stride(0);
    const T* const from = data<T>(tensor_) + chunk.first_image * image_stride + first * of_.image.channel_stride;
    for (int64_t i = 0; i < chunk.images; ++i) {
      prologue_.pack(from + i * image_stride, chunk.first_image + i, some, window, window_ + i * image_size_);
    }
  }

  // Calls pack(plane, x) for each plane with its segments: where the first k of each lies from the top left pixel that small's first
  // one reads, or kNoSegment for rows, and for columns that are a segment each, of which inside(row) or inside(column) does not hold.
  template <class Rows, class Columns, class Pack>
  void for_planes(const Chunk& chunk, int64_t image_stride, int64_t row_stride, int64_t pixel_stride, const Rows& row_is_inside,
                  const Columns& column_is_inside, const Pack& pack) {
    const Plane* plane = planes_.data();
    for (const auto& y : c_.residues[0]) {
      for (const auto& x : c_.residues[1]) {
        const int64_t count = c_.images_last ? c_.small.width + x.more : chunk.images;
        segments_.clear();
        for (int64_t i = 0; i < chunk.rows + y.more; ++i) {
          const int64_t row = i * of_.stride[0] + y.first;
          const bool inside = row_is_inside(row);
          for (int64_t j = 0; j < count; ++j) {
            const int64_t column = c_.images_last ? j * of_.stride[1] + x.first : x.first;
            const int64_t at = row * row_stride + column * pixel_stride + (c_.images_last ? 0 : j * image_stride);
            segments_.push_back(inside && (!c_.images_last || column_is_inside(column)) ? at : kNoSegment);
          }
        }
        pack(*plane++, x);
      }
    }
  }

  // Neighbouring channels, without the window.
  void pack_columns_as_they_lie(const Chunk& chunk) {
    const auto& tile = tile_of<S>();
    const int64_t top = chunk.first_row * of_.stride[0] - of_.padding[0], left = -of_.padding[1];
    const T* const from = data<T>(tensor_) + chunk.first_image * tensor_.stride(0) + top * of_.image.row_stride + left * of_.image.pixel_stride;
    for_planes(
        chunk, tensor_.stride(0), of_.image.row_stride, of_.image.pixel_stride,
        [&](int64_t row) { return top + row >= 0 && top + row < of_.image.height; },
        [&](int64_t column) { return left + column >= 0 && left + column < of_.image.width; },
        [&](const Plane& plane, const Residue& x) {
          int64_t begin = 0, end = chunk.images, stride = tensor_.stride(0);
          if (!c_.images_last) {
            const int64_t first = left + x.first;  // of the first k
            begin = first < 0 ? divide_up(-first, of_.stride[1]) : 0;
            end = std::min(c_.small.width, divide_up(of_.image.width - first, of_.stride[1]));
            stride = of_.stride[1] * of_.image.pixel_stride;
          }
          for (int64_t block = 0; block < blocks_; ++block) {
            const int64_t channel = (first_block_ + block) * tile.columns;
            packing<T, S>().columns_within(from + channel, segments_.data(), segments_.size(), begin, end, stride,
                                           std::min<int64_t>(tile.columns, of_.image.channels - channel), c_.extent, tile.columns,
                                           tile.step, data_ + block * size_ + plane.at);
          }
        });
  }

  void pack_columns(const Chunk& chunk) {
    const auto& tile = tile_of<S>();
    const auto everywhere = [](int64_t) { return true; };
    for_planes(chunk, image_size_, row_size_, c_.channels(), everywhere, everywhere, [&](const Plane& plane, const Residue&) {
      for (int64_t block = 0; block < blocks_; ++block) {
        packing<S, S>().columns(window_ + block * tile.columns, segments_.data(), segments_.size(),
                                c_.images_last ? chunk.images : c_.small.width,
                                c_.images_last ? image_size_ : of_.stride[1] * c_.channels(), tile.columns, 1, c_.extent,
                                tile.columns, tile.step, data_ + block * size_ + plane.at);
      }
    });
  }

  const Correlation& c_;
  const Sliding& of_;
  const Tensor& tensor_;
  const int64_t first_block_, blocks_;
  const Prologue<S> prologue_;
  std::vector<Plane> planes_;
  std::vector<int64_t> segments_;
  int64_t size_ = 0, row_size_ = 0, image_size_ = 0;  // size_: of a block's planes
  S *data_ = nullptr, *window_ = nullptr;
};

// Left operands: packed before by all threads, or, where one unit alone reads them, by that.
template <class T, class S>
struct Left {
  const Correlation& c;
  const Tensor& tensor;
  const Prologue<S>& prologue;
  S* packed = nullptr;
  int64_t first = 0;  // chunk of what is packed

  void pack(int64_t chunk, S* out) const {
    const auto& pack_rows = c.in_patches ? pack_patches<T, S> : pack_channels<T, S>;
    pack_rows(c, chunk_at(c, chunk), tensor, prologue, out);
  }
  const S* rows(int64_t chunk) const {
    if (packed) return packed + (chunk - first) * c.left_size();
    S* const out = scratch<S, 7>(c.left_size());
    pack(chunk, out);
    return out;
  }
  // What rows() will read.
  Fetch source(const Chunk& chunk) const {
    if (packed) return {};
    if (!c.in_patches) return {tensor, c.small, chunk.first_image, chunk.images, chunk.first_row, chunk.rows, 0, c.small.channels};
    const Window window = c.large.window(chunk.first_row, chunk.rows, c.small.width);
    return {tensor, c.large.image, chunk.first_image, chunk.images, window.first - window.top, window.height, 0, c.large.image.channels};
  }
};

}  // namespace fastgan::conv

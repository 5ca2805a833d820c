// The weight's gradient is a product of the two images that the convolution connects: `small` has a pixel for each position of
// the kernel, `large` is what the kernel slides over. weight: [small's channels, large's channels, kH, kW].
//
// It is computed in chunks of some pixels of small, the k of one product for each tap: small's channels are rows, large's are
// columns. k goes over [row][column][image], so that a tap that reads large further down or to the right reads the same packed
// plane from further on: there is one for each place within a stride, a few rows and columns larger than small. Images are as many
// as a row of k takes to fill whole steps of a tile. Where there are not so many, k goes over [row][image][column], and taps that
// read further to the right have planes of their own. Of a large image with few channels the product is the other way round: rows are
// its patches, one for each tap and channel, and columns are small's channels.
#pragma once

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "conv/engine.h"
#include "conv/packed.h"

namespace fastgan::conv {

inline constexpr int64_t kChunkDepth = 256;        // k of a chunk, about: a tile's two operands stay in a first-level cache
inline constexpr int64_t kSumBytes = 1 << 20;      // of the sums that a chunk adds to: in a second-level cache
inline constexpr int64_t kLeastUnits = 8;          // of work for threads: small's and large's channels in blocks, chunks in parts,
inline constexpr int64_t kMostParts = 32;          // whose sums are added up at the end
inline constexpr int64_t kPartBytes = 2 << 20;     // of all parts' sums, where there are units enough
inline constexpr int64_t kPackedBatchBytes = 64 << 20;  // of packed left operands at a time

// Rows or columns of large from `first` on that lie a stride apart, and how many more than small has a chunk reads.
struct Residue {
  int64_t first, more;
};
// Where a tap reads: the plane of two residues, and how many of its rows and columns it skips. `place` is its number in the weight.
struct TapView {
  int64_t residue[2], skip[2], place;
};

// An image that a kernel slides over, by rows and by columns.
struct Sliding {
  Image image;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int64_t reach(int dim) const { return (kernel[dim] - 1) * dilation[dim]; }
  // What some positions of it read.
  Window window(int64_t first_row, int64_t rows, int64_t columns) const {
    return {padding[0], padding[1], first_row * stride[0], (rows - 1) * stride[0] + reach(0) + 1, (columns - 1) * stride[1] + reach(1) + 1};
  }
  int64_t taps() const { return kernel[0] * kernel[1]; }
};

struct Correlation {
  Image small;
  Sliding large;
  Sliding columns;                          // what the columns read: large, or, if the rows are its patches, small as it is
  int64_t batch;
  bool in_patches;
  bool images_last;                         // k goes over [row][column][image], otherwise over [row][image][column]
  int64_t extent;                           // of the last of them, padded
  int64_t images, rows, groups, bands;      // of a chunk; how many there are along the batch, and along an image
  std::vector<Residue> residues[2];
  std::vector<TapView> taps;
  int64_t tile_rows, tile_columns;
  int64_t row_blocks, column_blocks;
  int64_t row_unit, column_unit;            // blocks that a unit takes at a time
  int64_t parts, part_chunks;               // of the chunks; of each

  int64_t chunks() const { return groups * bands; }
  int64_t row_depth(int64_t some_images) const { return (images_last ? small.width : some_images) * extent; }
  int64_t depth() const { return rows * row_depth(images); }
  int64_t line() const { return depth() + 64 / 2; }  // of left operands: not a power of two, which would share few cache sets
  int64_t left_size() const { return row_blocks * tile_rows * line(); }  // of a chunk
  int64_t sums_size() const { return row_unit * column_unit * static_cast<int64_t>(taps.size()) * tile_rows * tile_columns; }
  int64_t units_down() const { return divide_up(row_blocks, row_unit); }
  int64_t units_across() const { return divide_up(column_blocks, column_unit); }
  int64_t row_count() const { return in_patches ? large.taps() * large.image.channels : small.channels; }
  int64_t channels() const { return column_unit * tile_columns; }  // of what a unit's columns read
};

// How k goes, and what a chunk has of it.
template <class S>
void set_chunks(Correlation& c) {
  const auto& tile = tile_of<S>();
  const int64_t width = c.small.width, height = c.small.height;
  // So many images last that a row is whole steps of a tile.
  const int64_t fewest = std::lcm(tile.step, tile.depth / std::gcd<int64_t>(width, tile.depth));
  c.images_last = !c.in_patches && c.large.kernel[1] > 1 && c.small.channel_stride == 1 && fewest <= c.batch && width * fewest <= kChunkDepth;
  if (c.images_last) {
    c.images = std::min(fewest * std::max<int64_t>(1, kChunkDepth / (height * width * fewest)), c.batch / fewest * fewest);
    c.extent = c.images;
    c.rows = std::min(height, std::max<int64_t>(1, kChunkDepth / (width * c.images)));
  } else {
    c.extent = round_up(width, tile.step);
    c.images = std::clamp<int64_t>(kChunkDepth / (height * c.extent), 1, c.batch);
    c.rows = std::min(height, std::max<int64_t>(1, kChunkDepth / c.extent));
  }
  c.rows = divide_up(height, divide_up(height, c.rows));
  c.bands = divide_up(height, c.rows), c.groups = divide_up(c.batch, c.images);
}

template <class S>
Correlation correlation_of(const Tensor& small, const Tensor& large, const Tensor& weight, const Convolution& conv) {
  const auto& tile = tile_of<S>();
  Correlation c{};
  c.small = image_of(small), c.batch = small.size(0);
  c.large.image = image_of(large);
  for (int dim = 0; dim < 2; ++dim) {
    c.large.kernel[dim] = weight.size(2 + dim), c.large.stride[dim] = conv.stride[dim];
    c.large.padding[dim] = conv.padding[dim], c.large.dilation[dim] = conv.dilation[dim];
  }
  c.in_patches = c.large.taps() > 1 && 2 * c.large.image.channels <= tile.columns;
  c.columns = c.in_patches ? Sliding{c.small, {1, 1}, {1, 1}, {0, 0}, {1, 1}} : c.large;
  set_chunks<S>(c);
  c.tile_rows = tile.rows, c.tile_columns = tile.columns;
  c.row_blocks = divide_up(c.row_count(), tile.rows);
  c.column_blocks = divide_up(c.columns.image.channels, tile.columns);
  std::vector<TapView> views[2];  // of one dimension
  for (int dim = 0; dim < 2; ++dim) {
    const bool is_shared = dim == 0 || c.images_last;
    const int64_t stride = c.columns.stride[dim];
    for (int64_t k = 0; k < c.columns.kernel[dim]; ++k) {
      const int64_t at = k * c.columns.dilation[dim], skip = is_shared ? at / stride : 0, first = at - skip * stride;
      auto& residues = c.residues[dim];
      size_t residue = 0;
      while (residue < residues.size() && residues[residue].first != first) ++residue;
      if (residue == residues.size()) residues.push_back({first, 0});
      residues[residue].more = std::max(residues[residue].more, skip);
      views[dim].push_back({{static_cast<int64_t>(residue)}, {skip}, k});
    }
  }
  for (const auto& y : views[0]) {
    for (const auto& x : views[1]) {
      c.taps.push_back({{y.residue[0], x.residue[0]}, {y.skip[0], x.skip[0]}, y.place * c.columns.kernel[1] + x.place});
    }
  }

  // Those that read the same plane one after the other, while it is in cache.
  std::sort(c.taps.begin(), c.taps.end(), [](const TapView& a, const TapView& b) {
    return std::tie(a.residue[0], a.residue[1], a.skip[0], a.skip[1]) < std::tie(b.residue[0], b.residue[1], b.skip[0], b.skip[1]);
  });

  using A = Compute<S>;
  const int64_t block = static_cast<int64_t>(c.taps.size() * sizeof(A)) * tile.rows * tile.columns;
  c.row_unit = std::clamp<int64_t>(kSumBytes / block, 1, c.row_blocks);
  c.column_unit = std::clamp<int64_t>(kSumBytes / (block * c.row_unit * 2), 1, c.column_blocks);
  const int64_t units = c.units_down() * c.units_across();
  const int64_t bytes = block * c.row_blocks * c.column_blocks;
  c.parts = std::clamp<int64_t>(kPartBytes / bytes, divide_up(kLeastUnits, units), kMostParts);
  c.part_chunks = divide_up(c.chunks(), std::min(c.parts, c.chunks()));
  c.parts = divide_up(c.chunks(), c.part_chunks);
  return c;
}

// Some rows of some images.
struct Chunk {
  int64_t first_image, images, first_row, rows;
};
inline Chunk chunk_at(const Correlation& c, int64_t chunk) {
  const int64_t image = chunk / c.bands * c.images, row = chunk % c.bands * c.rows;
  return {image, std::min(c.images, c.batch - image), row, std::min(c.rows, c.small.height - row)};
}

}  // namespace fastgan::conv

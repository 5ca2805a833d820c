// The weight's gradient is a product of the two images that the convolution connects: `small` has a pixel for each position of
// the kernel, `large` is what the kernel slides over. weight: [small's channels, large's channels, kH, kW].
//
// It is computed in chunks of some pixels of small, the k of one product for each tap: small's channels are rows, large's are
// columns. k goes over [row][column][image], so that a tap that reads large further down or to the right reads the same packed
// plane from further on: there is one for each place within a stride, a few rows and columns larger than small. Images are as many
// as a row of k takes to fill whole steps of a tile. Where there are not so many, k goes over [row][image][column], and taps that
// read further to the right have planes of their own. A large image of few channels is one matrix of patches instead, with a column
// for each tap and channel.
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

struct Correlation {
  Image small, large;
  int64_t batch, kernel[2], stride[2], padding[2], dilation[2];
  bool patches;
  bool images_last;                         // k goes over [row][column][image], otherwise over [row][image][column]
  int64_t extent;                           // of the last of them, padded
  int64_t images, rows, groups, bands;      // of a chunk; how many there are along the batch, and along an image
  std::vector<Residue> residues[2];
  std::vector<TapView> taps;
  int64_t tile_rows, tile_columns;
  int64_t small_blocks, large_blocks;       // of rows and of columns
  int64_t small_unit, large_unit;           // blocks that a unit takes at a time
  int64_t parts, part_chunks;               // of the chunks; of each

  int64_t chunks() const { return groups * bands; }
  int64_t row_depth(int64_t some_images) const { return (images_last ? small.width : some_images) * extent; }
  int64_t depth() const { return rows * row_depth(images); }
  int64_t line() const { return depth() + 64 / 2; }  // of left operands: not a power of two, which would share few cache sets
  int64_t left_size() const { return small_blocks * tile_rows * line(); }  // of a chunk
  int64_t sums_size() const { return small_unit * large_unit * static_cast<int64_t>(taps.size()) * tile_rows * tile_columns; }
  int64_t units_down() const { return divide_up(small_blocks, small_unit); }
  int64_t units_across() const { return divide_up(large_blocks, large_unit); }
  // Of the window's, for one unit.
  int64_t channels() const { return patches ? large.channels : large_unit * tile_columns; }
  int64_t reach(int dim) const { return (kernel[dim] - 1) * dilation[dim]; }
};

// How k goes, and what a chunk has of it.
template <class S>
void set_chunks(Correlation& c) {
  const auto& tile = tile_of<S>();
  const int64_t width = c.small.width, height = c.small.height;
  // So many images last that a row is whole steps of a tile.
  const int64_t fewest = std::lcm(tile.step, tile.depth / std::gcd<int64_t>(width, tile.depth));
  c.images_last = !c.patches && c.kernel[1] > 1 && c.small.channel_stride == 1 && fewest <= c.batch && width * fewest <= kChunkDepth;
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
  c.small = image_of(small), c.large = image_of(large), c.batch = small.size(0);
  for (int dim = 0; dim < 2; ++dim) {
    c.kernel[dim] = weight.size(2 + dim), c.stride[dim] = conv.stride[dim];
    c.padding[dim] = conv.padding[dim], c.dilation[dim] = conv.dilation[dim];
  }
  const int64_t taps = c.kernel[0] * c.kernel[1];
  c.patches = taps > 1 && 2 * c.large.channels <= tile.columns;
  set_chunks<S>(c);
  c.tile_rows = tile.rows, c.tile_columns = tile.columns;
  c.small_blocks = divide_up(c.small.channels, tile.rows);
  c.large_blocks = divide_up(c.large.channels * (c.patches ? taps : 1), tile.columns);
  if (c.patches) {
    c.taps = {{}};
    c.residues[0] = c.residues[1] = {{0, 0}};
  } else {
    std::vector<TapView> views[2];  // of one dimension
    for (int dim = 0; dim < 2; ++dim) {
      const bool is_shared = dim == 0 || c.images_last;
      for (int64_t k = 0; k < c.kernel[dim]; ++k) {
        const int64_t at = k * c.dilation[dim], skip = is_shared ? at / c.stride[dim] : 0, first = at - skip * c.stride[dim];
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
        c.taps.push_back({{y.residue[0], x.residue[0]}, {y.skip[0], x.skip[0]}, y.place * c.kernel[1] + x.place});
      }
    }
  }

  // Those that read the same plane one after the other, while it is in cache.
  std::sort(c.taps.begin(), c.taps.end(), [](const TapView& a, const TapView& b) {
    return std::tie(a.residue[0], a.residue[1], a.skip[0], a.skip[1]) < std::tie(b.residue[0], b.residue[1], b.skip[0], b.skip[1]);
  });

  using A = Compute<S>;
  const int64_t block = static_cast<int64_t>(c.taps.size() * sizeof(A)) * tile.rows * tile.columns;
  c.small_unit = std::clamp<int64_t>(kSumBytes / block, 1, c.small_blocks);
  c.large_unit = std::clamp<int64_t>(kSumBytes / (block * c.small_unit * 2), 1, c.large_blocks);
  if (c.patches) c.large_unit = c.large_blocks;  // all are packed in one go
  const int64_t units = c.units_down() * c.units_across();
  const int64_t bytes = block * c.small_blocks * c.large_blocks;
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

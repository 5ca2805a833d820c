#include <algorithm>
#include <numeric>
#include <tuple>

#include "conv/engine.h"
#include "conv/fetch.h"
#include "conv/matmul.h"
#include "conv/packed.h"
#include "conv/prologue.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

// The weight's gradient is a product of the two images that the convolution connects: `small` has a pixel for each position of
// the kernel, `large` is what the kernel slides over. weight: [small's channels, large's channels, kH, kW].
//
// It is computed in chunks of some pixels of small, the k of one product for each tap: small's channels are rows, large's are
// columns. k goes over [row][column][image], so that a tap that reads large further down or to the right reads the same packed
// plane from further on: there is one for each place within a stride, a few rows and columns larger than small. Images are as many
// as a row of k takes to fill whole steps of a tile. Where there are not so many, k goes over [row][image][column], and taps that
// read further to the right have planes of their own. A large image of few channels is one matrix of patches instead, with a column
// for each tap and channel.
constexpr int64_t kDepth = 256;             // k of a chunk, about: a tile's two operands stay in a first-level cache
constexpr int64_t kSumBytes = 1 << 20;      // of the sums that a chunk adds to: in a second-level cache
constexpr int64_t kLeastUnits = 8;          // of work for threads: small's and large's channels in blocks, chunks in parts,
constexpr int64_t kMostParts = 32;          // whose sums are added up at the end
constexpr int64_t kPartBytes = 2 << 20;     // of all parts' sums, where there are units enough
constexpr int64_t kPackedBatchBytes = 64 << 20;  // of packed left operands at a time

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
  c.images_last = !c.patches && c.kernel[1] > 1 && c.small.channel_stride == 1 && fewest <= c.batch && width * fewest <= kDepth;
  if (c.images_last) {
    c.images = std::min(fewest * std::max<int64_t>(1, kDepth / (height * width * fewest)), c.batch / fewest * fewest);
    c.extent = c.images;
    c.rows = std::min(height, std::max<int64_t>(1, kDepth / (width * c.images)));
  } else {
    c.extent = round_up(width, tile.step);
    c.images = std::clamp<int64_t>(kDepth / (height * c.extent), 1, c.batch);
    c.rows = std::min(height, std::max<int64_t>(1, kDepth / c.extent));
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
Chunk chunk_at(const Correlation& c, int64_t chunk) {
  const int64_t image = chunk / c.bands * c.images, row = chunk % c.bands * c.rows;
  return {image, std::min(c.images, c.batch - image), row, std::min(c.rows, c.small.height - row)};
}

// Channels of small by k.
template <class T, class S>
void pack_left(const Correlation& c, const Chunk& chunk, const Tensor& small, const Prologue<S>& prologue, S* out) {
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
  const int64_t padded = c.small_blocks * c.tile_rows;
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

// k by channels of large: [blocks][planes][row][column][image / step][columns][step], or by patches: [blocks][row]...
template <class T, class S>
class Right {
 public:
  Right(const Correlation& c, const Tensor& large, const Pending& pending, int64_t first_block)
      : c_(c), large_(large), first_block_(first_block),
        blocks_(std::min(c.large_unit, c.large_blocks - first_block)),
        prologue_(pending, c.patches ? 0 : first_block * c.tile_columns, c.channels()) {}

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
    if (!c_.patches && !prologue_ && c_.large.channel_stride == 1) return pack_columns_as_they_lie(chunk);
    pack_window(chunk);
    c_.patches ? pack_patches(chunk) : pack_columns(chunk);
  }

  // What packing this chunk will read.
  Fetch source(const Chunk& chunk) const {
    const int64_t rows = (chunk.rows - 1) * c_.stride[0] + c_.reach(0) + 1;
    return {large_, c_.large, chunk.first_image, chunk.images, chunk.first_row * c_.stride[0] - c_.padding[0], rows,
            c_.patches ? 0 : first_block_ * c_.tile_columns, c_.patches ? c_.large.channels : blocks_ * c_.tile_columns};
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
    const int64_t channels = c_.channels(), first = c_.patches ? 0 : first_block_ * c_.tile_columns;
    const Window window{c_.padding[0], c_.padding[1], chunk.first_row * c_.stride[0],
                        (chunk.rows - 1) * c_.stride[0] + c_.reach(0) + 1, (c_.small.width - 1) * c_.stride[1] + c_.reach(1) + 1};
    row_size_ = window.width * channels;
    image_size_ = window.height * row_size_;
    window_ = scratch<S, 2>(chunk.images * image_size_);
    Image some = c_.large;
    some.channels = std::min(channels, c_.large.channels - first);
    const int64_t image_stride = large_.stride(0);
    const T* const from = data<T>(large_) + chunk.first_image * image_stride + first * c_.large.channel_stride;
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
          const int64_t row = i * c_.stride[0] + y.first;
          const bool inside = row_is_inside(row);
          for (int64_t j = 0; j < count; ++j) {
            const int64_t column = c_.images_last ? j * c_.stride[1] + x.first : x.first;
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
    const int64_t top = chunk.first_row * c_.stride[0] - c_.padding[0], left = -c_.padding[1];
    const T* const from = data<T>(large_) + chunk.first_image * large_.stride(0) + top * c_.large.row_stride + left * c_.large.pixel_stride;
    for_planes(
        chunk, large_.stride(0), c_.large.row_stride, c_.large.pixel_stride,
        [&](int64_t row) { return top + row >= 0 && top + row < c_.large.height; },
        [&](int64_t column) { return left + column >= 0 && left + column < c_.large.width; },
        [&](const Plane& plane, const Residue& x) {
          int64_t begin = 0, end = chunk.images, stride = large_.stride(0);
          if (!c_.images_last) {
            const int64_t first = left + x.first;  // of the first k
            begin = first < 0 ? divide_up(-first, c_.stride[1]) : 0;
            end = std::min(c_.small.width, divide_up(c_.large.width - first, c_.stride[1]));
            stride = c_.stride[1] * c_.large.pixel_stride;
          }
          for (int64_t block = 0; block < blocks_; ++block) {
            const int64_t channel = (first_block_ + block) * tile.columns;
            packing<T, S>().columns_within(from + channel, segments_.data(), segments_.size(), begin, end, stride,
                                           std::min<int64_t>(tile.columns, c_.large.channels - channel), c_.extent, tile.columns,
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
                                c_.images_last ? image_size_ : c_.stride[1] * c_.channels(), tile.columns, 1, c_.extent,
                                tile.columns, tile.step, data_ + block * size_ + plane.at);
      }
    });
  }

  void pack_patches(const Chunk& chunk) {
    const auto& tile = tile_of<S>();
    std::vector<Run> runs;
    const auto add_runs = [&](int64_t from, int64_t column, int64_t length) {  // a block's columns lie together
      for (; length > 0;) {
        const int64_t some = std::min(length, tile.columns - column % tile.columns);
        runs.push_back({from, column / tile.columns * size_ + column % tile.columns * tile.step, some});
        from += some, column += some, length -= some;
      }
    };
    const int64_t channels = c_.channels();
    for (int64_t y = 0; y < c_.kernel[0]; ++y) {
      for (int64_t x = 0; x < c_.kernel[1]; ++x) {
        const bool whole_row = c_.dilation[1] == 1;
        const int64_t from = y * c_.dilation[0] * row_size_ + x * c_.dilation[1] * channels;
        add_runs(from, (y * c_.kernel[1] + x) * channels, channels * (whole_row ? c_.kernel[1] : 1));
        if (whole_row) break;
      }
    }
    S* to = data_;
    for (int64_t y = 0; y < chunk.rows; ++y) {
      for (int64_t i = 0; i < chunk.images; ++i, to += c_.extent * tile.columns) {
        packing<S, S>().runs(window_ + i * image_size_ + y * c_.stride[0] * row_size_, c_.small.width, c_.stride[1] * channels,
                             runs.data(), runs.size(), c_.extent, tile.columns, tile.step, to);
      }
    }
  }

  const Correlation& c_;
  const Tensor& large_;
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
  const Tensor& small;
  const Prologue<S>& prologue;
  S* packed = nullptr;
  int64_t first = 0;  // chunk of what is packed

  const S* rows(int64_t chunk) const {
    if (packed) return packed + (chunk - first) * c.left_size();
    S* const out = scratch<S, 7>(c.left_size());
    pack_left<T, S>(c, chunk_at(c, chunk), small, prologue, out);
    return out;
  }
  // What rows() will read.
  Fetch source(const Chunk& chunk) const {
    if (packed) return {};
    return {small, c.small, chunk.first_image, chunk.images, chunk.first_row, chunk.rows, 0, c.small.channels};
  }
};

// sums: [small blocks][large blocks][taps][rows][columns], one after the other, overwritten by the first chunk unless `add`.
template <class T, class S>
void add_products(const Correlation& c, const Left<T, S>& left, int64_t first_small, int64_t begin, int64_t end, bool add,
                  Right<T, S>& right, Compute<S>* sums) {
  const auto& tile = tile_of<S>();
  int64_t reads[kMaxTileRows];
  std::vector<int64_t> segments(c.rows);
  for (int64_t m = 0; m < tile.rows; ++m) reads[m] = m * c.line();
  const int64_t blocks = std::min(c.small_unit, c.small_blocks - first_small);
  const int64_t block_size = tile.rows * c.line(), products = right.blocks() * static_cast<int64_t>(c.taps.size());
  for (int64_t at = begin; at < end; ++at, add = true) {
    const Chunk chunk = chunk_at(c, at);
    right.pack(chunk);
    const S* rows = left.rows(at) + first_small * block_size;
    const int64_t row = c.row_depth(chunk.images);
    // Rows of k are segments, where those of large have more between them.
    const int64_t segment_count = c.images_last ? chunk.rows : 1, extent = chunk.rows / segment_count * row;
    for (int64_t s = 0; s < segment_count; ++s) segments[s] = s * row;
    // While the processor multiplies, memory is idle: a few lines of the next chunk, and of the next block, before each product. Those
    // that mostly lie together the product asks for, some a step: of all at once the processor can keep track of but a few.
    Fetch next_left, next_right;
    if (at + 1 < end) next_left = left.source(chunk_at(c, at + 1)), next_right = right.source(chunk_at(c, at + 1));
    const int64_t left_share = divide_up(next_left.lines(), products * blocks);
    const int64_t right_share = divide_up(next_right.lines(), products * blocks), share = divide_up(block_size, products);
    Compute<S>* out = sums;
    for (int64_t block = 0; block < blocks; ++block, rows += block_size) {
      const S* next_rows = rows + block_size;
      for (int64_t other = 0; other < right.blocks(); ++other) {
        for (const auto& tap : c.taps) {
          const void* ahead = next_rows;
          int64_t bytes = share * static_cast<int64_t>(sizeof(S));
          if (left.packed) {
            next_right.ask(right_share);
          } else {
            std::tie(ahead, bytes) = next_right.take(right_share);
            next_right.ask(right_share - divide_up(bytes, kCacheLine));
            next_left.ask(left_share);
          }
          tile.gemm_apart(rows, reads, segments.data(), segment_count, extent, right.panel(other, tap), right.apart(tap), add, out,
                          ahead, bytes);
          next_rows += share;
          out += tile.rows * tile.columns;
        }
      }
    }
  }
}

// Adds up what all parts have for a block of small's channels and one of large's, and brings it to its place in the gradient.
template <class T, class S>
void store_sums(const Correlation& c, int64_t block, int64_t other, Compute<S>* sums, const Tensor& grad_weight) {
  const auto& tile = tile_of<S>();
  const int64_t size = tile.rows * tile.columns, taps = static_cast<int64_t>(c.taps.size()), width = c.kernel[1];
  const int64_t rows = std::min<int64_t>(tile.rows, c.small.channels - block * tile.rows), first = other * tile.columns;
  const int64_t row_stride = grad_weight.stride(0), channel_stride = grad_weight.stride(1);
  const int64_t unit = other / c.large_unit * c.large_unit, across = std::min(c.large_unit, c.large_blocks - unit);
  sums += (block / c.small_unit * c.units_across() + other / c.large_unit) * c.sums_size() +
          (block % c.small_unit * across + other - unit) * taps * size;
  for (int64_t part = 1; part < c.parts; ++part) {
    const Compute<S>* const more = sums + part * c.units_down() * c.units_across() * c.sums_size();
    for (int64_t i = 0; i < taps * size; ++i) sums[i] += more[i];
  }
  const auto place_of = [&](int64_t tap) { return tap / width * grad_weight.stride(2) + tap % width * grad_weight.stride(3); };
  dispatch_weight<T>(grad_weight, [&](auto tag) {
    using G = decltype(tag);
    G* const to = mutable_data<G>(grad_weight) + block * tile.rows * row_stride;
    if (!c.patches) {
      std::vector<int64_t> places;
      for (const auto& tap : c.taps) places.push_back(place_of(tap.place));
      packing<G, S>().taps(sums, taps, tile.rows, tile.columns, rows, std::min<int64_t>(tile.columns, c.large.channels - first),
                           places.data(), row_stride, channel_stride, to + first * channel_stride);
      return;
    }
    const int64_t columns = c.kernel[0] * width * c.large.channels;
    for (int64_t n = 0; n < std::min<int64_t>(tile.columns, columns - first); ++n) {
      G* const at = to + place_of((first + n) / c.large.channels) + (first + n) % c.large.channels * channel_stride;
      for (int64_t m = 0; m < rows; ++m) {
        at[m * row_stride] = from_compute<G>(static_cast<Compute<G>>(sums[m * tile.columns + n]));
      }
    }
  });
}

template <class T, class S>
void wgrad_typed(const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  using A = Compute<S>;
  const Pending &on_small = conv.transposed ? input : grad, &on_large = conv.transposed ? grad : input;
  const Tensor &small = on_small.input, &large = on_large.input;
  const auto c = correlation_of<S>(small, large, grad_weight, conv);
  const int64_t across = c.units_across(), units = c.units_down() * across;
  const Prologue<S> prologue(on_small, 0, c.small_blocks * c.tile_rows);
  // Left operands that one unit alone reads are packed by it. Of others as many chunks of every part at a time as fit.
  const bool is_shared = units > 1;
  const int64_t bytes = c.left_size() * static_cast<int64_t>(sizeof(S)) * c.parts;
  const int64_t some = is_shared ? std::clamp<int64_t>(kPackedBatchBytes / bytes, 1, c.part_chunks) : c.part_chunks;
  S* const packed = scratch<S, 5>(is_shared ? c.parts * some * c.left_size() : 0);
  A* const sums = scratch<A, 4>(c.parts * units * c.sums_size());
  for (int64_t first = 0; first < c.part_chunks; first += some) {
    const int64_t count = std::min(some, c.part_chunks - first);
    torch::stable::parallel_for(0, is_shared ? c.parts * count : 0, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i / count * c.part_chunks + first + i % count;
        if (chunk >= c.chunks()) continue;
        pack_left<T, S>(c, chunk_at(c, chunk), small, prologue, packed + i * c.left_size());
      }
    });
    torch::stable::parallel_for(0, c.parts * units, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i / units, unit = i % units, from = part * c.part_chunks + first;
        const int64_t to = std::min({from + count, (part + 1) * c.part_chunks, c.chunks()});
        const Left<T, S> left{c, small, prologue, is_shared ? packed + part * count * c.left_size() : nullptr, from};
        Right<T, S> right(c, large, on_large, unit % across * c.large_unit);
        add_products<T, S>(c, left, unit / across * c.small_unit, from, to, first > 0, right, sums + i * c.sums_size());
      }
    });
  }
  torch::stable::parallel_for(0, c.small_blocks * c.large_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) store_sums<T, S>(c, i / c.large_blocks, i % c.large_blocks, sums, grad_weight);
  });
}

}  // namespace

void wgrad(Engine engine, const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  if (engine == Engine::winograd) return winograd_wgrad(input, grad.input, conv, grad_weight);
  if (engine == Engine::matmul) return matmul_wgrad(input.input, grad.input, conv, grad_weight);
  dispatch_packed("conv", input.input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    wgrad_typed<T, S>(input, grad, conv, grad_weight);
  });
}

}  // namespace fastgan::conv

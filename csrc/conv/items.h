// The items in which a gather goes through its input, and how they are packed: the left operands of its products.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "conv/packed.h"
#include "conv/panels.h"
#include "conv/prologue.h"

namespace fastgan::conv {

inline constexpr int64_t kEven = 16;                // pixels that a tile wants evenly spaced
inline constexpr int64_t kLeftBytes = 1024 * 1024;  // of an item: in a second-level cache, beside what passes through it

// What is computed at a time: some whole images where they are small, a band of rows of some where they are not.
struct Items {
  int64_t images, rows;   // of one item
  int64_t bands;          // of an image
  int64_t count;
};

// Which images lie side by side changes no sum, so that the cache may decide it.
inline Items items_of(const Gather& g, int64_t batch, int64_t pixel_bytes, bool is_small_weight) {
  constexpr int64_t kPixels = 256, kLeastRows = 4;  // enough for a weight to be worth fetching; for bands not to overlap too much
  // For threads; of a large weight few, because all of it passes through the caches for each.
  const int64_t least_items = is_small_weight ? 8 : 4;
  const int64_t rows = g.y.most(), columns = g.x.most();
  const auto bytes = [&](int64_t images, int64_t rows) { return images * g.y.span(rows) * g.x.span(columns) * pixel_bytes; };
  // As many images as fill whole groups of pixels that lie evenly spaced (Layout), if they are not too large for it.
  const int64_t even = std::min(kEven / std::gcd(kEven, columns), batch);
  Items items{bytes(even, std::min(rows, kLeastRows)) > kLeftBytes ? 1 : even, rows, 1, 0};
  while (items.rows > 1 && bytes(items.images, items.rows) > kLeftBytes) items.rows = divide_up(items.rows, 2);
  if (items.rows == rows) {
    const int64_t few = std::clamp(divide_up(batch, least_items), divide_up(kMaxTileRows, rows * columns), divide_up(kPixels, rows * columns));
    const int64_t wanted = std::min(batch, round_up(few, even));
    items.images = std::clamp(kLeftBytes / bytes(1, rows) / even * even, items.images, wanted);
  }
  items.bands = divide_up(rows, items.rows);
  items.count = divide_up(batch, items.images) * items.bands;
  return items;
}

// Where the left operand's pixels lie: [row][column % read][column / read][image][channel]. The outputs of a row, image after image
// in each column, then read evenly spaced lines through every tap, which is what a tile likes best (tile_amx.cpp).
struct Layout {
  int64_t images, channels;
  int64_t read, columns;  // columns: of a remainder
  int64_t pixel() const { return images * channels; }
  int64_t remainder() const { return columns * pixel(); }
  int64_t row() const { return read * remainder(); }
  int64_t column(int64_t x) const { return x % read * remainder() + x / read * pixel(); }
  bool is_plain() const { return images == 1 && read == 1; }
};

template <class T, class S>
void pack_images(const Tensor& input, int64_t first, const Window& window, const Layout& to, const Prologue<S>& prologue, S* out) {
  const auto& pack = packing<T, S>();
  const Image shape = image_of(input);
  const int64_t image_stride = input.stride(0);
  const T* const from = data<T>(input) + first * image_stride;
  if (to.is_plain()) return prologue.pack(from, first, shape, window, out);
  S* const line = scratch<S, 13>(window.width * to.channels);
  for (int64_t y = 0; y < window.height; ++y, out += to.row()) {
    const Window one{window.top, window.left, window.first + y, 1, window.width};
    for (int64_t i = 0; i < to.images; ++i) {
      prologue.pack(from + i * image_stride, first + i, shape, one, line);
      pack.deal(line, window.width, to.channels, to.read, to.remainder(), to.pixel(), out + i * to.channels);
    }
  }
}

// The same for patches: `rows` rows of outputs from `first_row` on.
template <class T, class S>
void pack_patches(const Gather& whole, const Tensor& input, int64_t first, int64_t first_row, int64_t rows, const Layout& to,
                  const Prologue<S>& prologue, S* out) {
  const auto& pack = packing<T, S>();
  const Image shape = image_of(input);
  const auto &ys = whole.phase_y(0).taps, &xs = whole.phase_x(0).taps;
  const Window window{whole.y.before, whole.x.before, first_row * whole.y.read, whole.y.span(rows), whole.x.span(to.columns)};
  const int64_t line = window.width * shape.channels;
  std::vector<int64_t> starts;
  for (const auto& y : ys) starts.push_back((y.offset + whole.y.before) * line + (xs[0].offset + whole.x.before) * shape.channels);
  S* const pixels = scratch<S, 13>(window.height * line + kSparePatch);
  for (int64_t i = 0; i < to.images; ++i) {
    prologue.pack(data<T>(input) + (first + i) * input.stride(0), first + i, shape, window, pixels);
    for (int64_t y = 0; y < rows; ++y) {
      pack.patches(pixels + y * whole.y.read * line, to.columns, whole.x.read * shape.channels, starts.data(), ys.size(),
                   static_cast<int64_t>(xs.size()) * shape.channels, to.channels, to.pixel(), out + y * to.row() + i * to.channels);
    }
  }
}

// What of the left operand is packed: an item's window of the input.
template <class S>
struct Item {
  int64_t number = 0, first_image = 0, images = 0, first_row = 0, rows = 0;
  bool is_last_band = false;  // in which some phases may have fewer rows than others
  Window window;
  Layout layout;
  const S* data = nullptr;
};

template <class T, class S>
Item<S> pack_item(const Gather& whole, const Gather& g, const Items& items, int64_t item, int64_t channels, const Tensor& input,
                  const Prologue<S>& prologue) {
  Item<S> packed;
  packed.number = item;
  packed.first_image = item / items.bands * items.images;
  packed.images = std::min(items.images, input.size(0) - packed.first_image);
  packed.first_row = item % items.bands * items.rows;
  packed.rows = std::min(items.rows, g.y.most() - packed.first_row);
  packed.is_last_band = packed.first_row + packed.rows == g.y.most();
  packed.window = {g.y.before, g.x.before, packed.first_row * g.y.read, g.y.span(packed.rows), g.x.span(g.x.most())};
  packed.layout = {packed.images, channels, g.x.read, divide_up(packed.window.width, g.x.read)};
  // Spare rows of a last tile read on beyond the end.
  S* const data = scratch<S, 1>(packed.window.height * packed.layout.row() + kMaxTileRows * channels);
  if (g.in_patches) {
    pack_patches<T, S>(whole, input, packed.first_image, packed.first_row, packed.rows, packed.layout, prologue, data);
  } else {
    pack_images<T, S>(input, packed.first_image, packed.window, packed.layout, prologue, data);
  }
  packed.data = data;
  return packed;
}

}  // namespace fastgan::conv

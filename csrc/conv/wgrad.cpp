// The gradient of a convolution's weight, by chunks of pixels (correlation.h): their products, and where the sums go.
#include <algorithm>
#include <tuple>

#include "conv/correlation.h"
#include "conv/correlation_operands.h"
#include "conv/engine.h"
#include "conv/fetch.h"
#include "conv/matmul.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

// sums: [small blocks][large blocks][taps][rows][columns], one after the other, overwritten by the first chunk unless `add`.
template <class T, class S>
void add_products(const Correlation& c, const Left<T, S>& left, int64_t first_small, int64_t begin, int64_t end, bool add,
                  Right<T, S>& right, Compute<S>* sums) {
  const auto& tile = tile_of<S>();
  int64_t reads[kMaxTileRows];
  std::vector<int64_t> segments(c.rows);
  for (int64_t m = 0; m < tile.rows; ++m) reads[m] = m * c.line();
  const int64_t blocks = std::min(c.row_unit, c.row_blocks - first_small);
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
  const int64_t size = tile.rows * tile.columns, taps = static_cast<int64_t>(c.taps.size()), width = c.large.kernel[1];
  const int64_t first_row = block * tile.rows, rows = std::min<int64_t>(tile.rows, c.row_count() - first_row);
  const int64_t first = other * tile.columns, columns = std::min<int64_t>(tile.columns, c.columns.image.channels - first);
  const int64_t small_stride = grad_weight.stride(0), large_stride = grad_weight.stride(1);
  const int64_t unit = other / c.column_unit * c.column_unit, across = std::min(c.column_unit, c.column_blocks - unit);
  sums += (block / c.row_unit * c.units_across() + other / c.column_unit) * c.sums_size() +
          (block % c.row_unit * across + other - unit) * taps * size;
  for (int64_t part = 1; part < c.parts; ++part) {
    const Compute<S>* const more = sums + part * c.units_down() * c.units_across() * c.sums_size();
    for (int64_t i = 0; i < taps * size; ++i) sums[i] += more[i];
  }
  const auto place_of = [&](int64_t tap) { return tap / width * grad_weight.stride(2) + tap % width * grad_weight.stride(3); };
  dispatch_weight<T>(grad_weight, [&](auto tag) {
    using G = decltype(tag);
    G* const to = mutable_data<G>(grad_weight);
    if (!c.in_patches) {
      std::vector<int64_t> places;
      for (const auto& tap : c.taps) places.push_back(place_of(tap.place));
      packing<G, S>().taps(sums, taps, tile.rows, tile.columns, rows, columns, places.data(), small_stride, large_stride,
                           to + first_row * small_stride + first * large_stride);
      return;
    }
    for (int64_t m = 0; m < rows; ++m, sums += tile.columns) {
      const int64_t tap = (first_row + m) / c.large.image.channels, channel = (first_row + m) % c.large.image.channels;
      G* const at = to + place_of(tap) + channel * large_stride + first * small_stride;
      for (int64_t n = 0; n < columns; ++n) at[n * small_stride] = from_compute<G>(static_cast<Compute<G>>(sums[n]));
    }
  });
}

template <class T, class S>
void wgrad_typed(const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  using A = Compute<S>;
  const Pending &on_small = conv.transposed ? input : grad, &on_large = conv.transposed ? grad : input;
  const auto c = correlation_of<S>(on_small.input, on_large.input, grad_weight, conv);
  const Pending &on_rows = c.in_patches ? on_large : on_small, &on_columns = c.in_patches ? on_small : on_large;
  const int64_t across = c.units_across(), units = c.units_down() * across;
  const Prologue<S> prologue(on_rows, 0, c.in_patches ? c.large.image.channels : c.row_blocks * c.tile_rows);
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
        Left<T, S>{c, on_rows.input, prologue}.pack(chunk, packed + i * c.left_size());
      }
    });
    torch::stable::parallel_for(0, c.parts * units, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i / units, unit = i % units, from = part * c.part_chunks + first;
        const int64_t to = std::min({from + count, (part + 1) * c.part_chunks, c.chunks()});
        const Left<T, S> left{c, on_rows.input, prologue, is_shared ? packed + part * count * c.left_size() : nullptr, from};
        Right<T, S> right(c, on_columns.input, on_columns, unit % across * c.column_unit);
        add_products<T, S>(c, left, unit / across * c.row_unit, from, to, first > 0, right, sums + i * c.sums_size());
      }
    });
  }
  torch::stable::parallel_for(0, c.row_blocks * c.column_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) store_sums<T, S>(c, i / c.column_blocks, i % c.column_blocks, sums, grad_weight);
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

#include "conv/winograd_plan.h"

namespace fastgan::conv {
namespace {

constexpr int64_t kChunkBytes = 12 * 1024 * 1024;  // of transformed operands at a time: in a last-level cache
constexpr int64_t kBlock = 64;                     // channels of the larger image at a time
constexpr int64_t kTilesAtATime = 8;               // of products, that share a panel of the right operand in cache

// The gradient of the weight, a block of the larger image's channels at a time: (m + 1)^2 matrices, [phases * channels][tiles]
// times [tiles][channels of the smaller image]. Both operands are packed as a tile reads them, [panels][tiles][columns].
struct Correlation {
  const Winograd& winograd;
  TiledAxis y, x;               // of the larger image
  int64_t tiles_y, tiles_x;     // of one image
  int64_t block;                // channels of the larger image at a time, in whole panels
  int64_t small_channels;       // in whole panels

  int64_t m() const { return winograd.outputs; }
  int64_t count() const { return (m() + 1) * (m() + 1); }
  int64_t tiles() const { return tiles_y * tiles_x; }
  int64_t phases() const { return static_cast<int64_t>(y.phases.size() * x.phases.size()); }
};

// A tensor's tiles, transformed: [(m + 1)^2][panels][tiles][columns].
struct Operand {
  float* at;
  int64_t plane, tiles;  // distance of the matrices, tiles in one
  float* panel(int64_t index) const { return at + index * tiles * tile_of<float>().columns; }
};

template <class T>
void transform_small(const Correlation& c, const Tensor& small, int64_t image, int64_t tile, const Operand& out) {
  const int64_t m = c.m(), columns = tile_of<float>().columns;
  const int64_t height = c.tiles_y * m, width = c.tiles_x * m;
  float* const pixels = scratch<float, 1>(height * width * c.small_channels);
  packing<T, float>().pixels(data<T>(small) + image * small.stride(0), image_of(small), {0, 0, 0, height, width},
                             c.small_channels, pixels);
  for (int64_t t = 0; t < c.tiles(); ++t) {
    const int64_t y = t / c.tiles_x * m, x = t % c.tiles_x * m;
    c.winograd.grads(pixels + (y * width + x) * c.small_channels, width * c.small_channels, c.small_channels, columns,
                     c.small_channels / columns, columns, out.at + (tile + t) * columns, (m + 1) * out.plane, out.plane,
                     out.tiles * columns);
  }
}

template <class T>
void transform_large(const Correlation& c, const Tensor& large, int64_t image, int64_t channel, int64_t tile,
                     const Operand& out) {
  const int64_t m = c.m(), columns = tile_of<float>().columns, panels = c.block / columns;
  const int64_t height = c.y.span(c.tiles_y, m), width = c.x.span(c.tiles_x, m);
  float* const pixels = scratch<float, 1>(height * width * c.block);
  Image part = image_of(large);
  part.channels = std::min(c.block, part.channels - channel);
  packing<T, float>().pixels(data<T>(large) + image * large.stride(0) + channel * large.stride(1), part,
                             {c.y.before, c.x.before, 0, height, width}, c.block, pixels);
  int64_t panel = 0;
  for (const auto& py : c.y.phases) {
    for (const auto& px : c.x.phases) {
      for (int64_t t = 0; t < c.tiles(); ++t) {
        const int64_t y = py.read + t / c.tiles_x * m * c.y.read_step, x = px.read + t % c.tiles_x * m * c.x.read_step;
        c.winograd.inputs(pixels + (y * width + x) * c.block, c.y.read_step * width * c.block, c.x.read_step * c.block,
                          columns, panels, columns, out.panel(panel) + (tile + t) * columns, (m + 1) * out.plane, out.plane,
                          out.tiles * columns);
      }
      panel += panels;
    }
  }
}

// sums: [panels of small's channels][(m + 1)^2][rows][columns]; set by the first chunk, added to by the others.
void multiply(const Correlation& c, const Operand& large, const Operand& small, int64_t tiles, bool first, int64_t rows,
              float* sums) {
  const auto& tile = tile_of<float>();
  const int64_t all = c.phases() * c.block, row_tiles = rows / tile.rows;
  const int64_t units = divide_up(row_tiles, kTilesAtATime);
  torch::stable::parallel_for(0, c.small_channels / tile.columns * units, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> reads(tile.rows);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel = unit / units, from = unit % units * kTilesAtATime;
      for (int64_t i = 0; i < c.count(); ++i) {
        for (int64_t t = from; t < std::min(row_tiles, from + kTilesAtATime); ++t) {
          for (int64_t r = 0; r < tile.rows; ++r) {
            const int64_t row = std::min(t * tile.rows + r, all - 1);
            reads[r] = row / tile.columns * large.tiles * tile.columns + row % tile.columns;
          }
          float* const sum = sums + ((panel * c.count() + i) * rows + t * tile.rows) * tile.columns;
          tile.gemm_columns(large.at + i * large.plane, reads.data(), tiles, small.panel(panel) + i * small.plane, !first,
                            sum);
        }
      }
    }
  });
}

// Takes the sums of a block to the taps of the weight: [small's channels, large's channels, kH, kW].
template <class G>
void store_taps(const Correlation& c, const float* sums, int64_t rows, int64_t channel, const Tensor& grad_weight) {
  const int64_t columns = tile_of<float>().columns, channels = std::min(c.block, grad_weight.size(1) - channel);
  const int64_t stride_y = static_cast<int64_t>(c.y.phases.size()), stride_x = static_cast<int64_t>(c.x.phases.size());
  torch::stable::parallel_for(0, c.small_channels / columns * channels, 1, [&](int64_t begin, int64_t end) {
    float taps[4 * kMaxTileColumns];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / channels * columns, large = unit % channels;
      const int64_t count = std::min(columns, grad_weight.size(0) - first);
      G* const to = mutable_data<G>(grad_weight) + first * grad_weight.stride(0) + (channel + large) * grad_weight.stride(1);
      for (int64_t phase = 0; phase < c.phases(); ++phase) {
        c.winograd.tap_grads(sums + (unit / channels * c.count() * rows + phase * c.block + large) * columns,
                             (c.m() + 1) * rows * columns, rows * columns, 0, 1, columns, taps, 2 * columns, columns, 0);
        for (int64_t tap = 0; tap < 4; ++tap) {
          const int64_t y = tap / 2 * stride_y + phase / stride_x, x = tap % 2 * stride_x + phase % stride_x;
          G* const at = to + y * grad_weight.stride(2) + x * grad_weight.stride(3);
          for (int64_t n = 0; n < count; ++n) {
            at[n * grad_weight.stride(0)] = from_compute<G>(static_cast<Compute<G>>(taps[tap * columns + n]));
          }
        }
      }
    }
  });
}

template <class T>
void wgrad_typed(const Tensor& small, const Tensor& large, const Convolution& conv, const Tensor& grad_weight) {
  const auto& tile = tile_of<float>();
  const auto& winograd = winograd_for(small.size(2), small.size(3));
  const Correlation c{winograd,
                      axis_to_small(small.size(2), conv.stride[0], conv.padding[0]),
                      axis_to_small(small.size(3), conv.stride[1], conv.padding[1]),
                      divide_up(small.size(2), winograd.outputs),
                      divide_up(small.size(3), winograd.outputs),
                      round_up(std::min(kBlock, large.size(1)), tile.columns),
                      round_up(small.size(1), tile.columns)};
  const int64_t batch = small.size(0), large_columns = c.phases() * c.block;
  const int64_t bytes = c.count() * c.tiles() * (large_columns + c.small_channels) * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / bytes, 1, batch), tiles = chunk * c.tiles();
  const int64_t rows = round_up(large_columns, tile.rows);
  const auto operand = [&](float* at, int64_t channels) { return Operand{at, odd_lines(channels * tiles), tiles}; };
  const Operand left = operand(scratch<float, 5>(c.count() * odd_lines(large_columns * tiles)), large_columns);
  const Operand right = operand(scratch<float, 6>(c.count() * odd_lines(c.small_channels * tiles)), c.small_channels);
  float* const sums = scratch<float, 7>(c.small_channels * c.count() * rows);
  for (int64_t channel = 0; channel < large.size(1); channel += c.block) {
    for (int64_t first = 0; first < batch; first += chunk) {
      const int64_t images = std::min(chunk, batch - first);
      const bool keeps_small = channel > 0 && chunk == batch;  // transformed for the block before
      torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if (!keeps_small) transform_small<T>(c, small, first + i, i * c.tiles(), right);
          transform_large<T>(c, large, first + i, channel, i * c.tiles(), left);
        }
      });
      multiply(c, left, right, images * c.tiles(), first == 0, rows, sums);
    }
    dispatch_dtype("conv", grad_weight.scalar_type(), [&](auto tag) {
      store_taps<decltype(tag)>(c, sums, rows, channel, grad_weight);
    });
  }
}

}  // namespace

void winograd_wgrad(const Tensor& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight) {
  const Tensor &small = conv.transposed ? input : grad_output, &large = conv.transposed ? grad_output : input;
  dispatch_dtype("conv", input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>) wgrad_typed<T>(small, large, conv, grad_weight);
  });
}

}  // namespace fastgan::conv

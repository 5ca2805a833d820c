#include "conv/prologue.h"
#include "conv/winograd_plan.h"

namespace fastgan::conv {
namespace {

constexpr int64_t kChunkBytes = 8 * 1024 * 1024;  // of transformed operands at a time: in a last-level cache
constexpr int64_t kBlock = 64;                     // channels of the larger image at a time
constexpr int64_t kTilesAtATime = 8;               // of products: what they share of the right operand stays in cache

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
void transform_small(const Correlation& c, const Tensor& small, const Prologue<float>& prologue, int64_t image, int64_t tile,
                     const Operand& out) {
  const int64_t m = c.m(), columns = tile_of<float>().columns;
  const int64_t height = c.tiles_y * m, width = c.tiles_x * m;
  float* const pixels = scratch<float, 1>(height * width * c.small_channels);
  const Window window{0, 0, 0, height, width};
  prologue.pack(data<T>(small) + image * small.stride(0), image, image_of(small), window, pixels);
  for (int64_t t = 0; t < c.tiles(); ++t) {
    const int64_t y = t / c.tiles_x * m, x = t % c.tiles_x * m;
    c.winograd.grads(pixels + (y * width + x) * c.small_channels, width * c.small_channels, c.small_channels, columns,
                     c.small_channels / columns, columns, out.at + (tile + t) * columns, (m + 1) * out.plane, out.plane,
                     out.tiles * columns);
  }
}

template <class T>
void transform_large(const Correlation& c, const Tensor& large, const Prologue<float>& prologue, int64_t image,
                     int64_t channel, int64_t tile, const Operand& out) {
  const int64_t m = c.m(), columns = tile_of<float>().columns, panels = c.block / columns;
  const int64_t height = c.y.span(c.tiles_y, m), width = c.x.span(c.tiles_x, m);
  float* const pixels = scratch<float, 1>(height * width * c.block);
  Image part = image_of(large);
  part.channels = std::min(c.block, part.channels - channel);
  const Window window{c.y.before, c.x.before, 0, height, width};
  prologue.pack(data<T>(large) + image * large.stride(0) + channel * large.stride(1), image, part, window, pixels);
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

// What is computed at a time: some of the block's channels, in all phases, by one panel of small's channels. A row is a channel
// in a phase. Sums of one are [(m + 1)^2][rows][columns].
struct Units {
  int64_t channels;      // of large
  int64_t rows, plane;   // rows in whole tiles; distance of the matrices
  int64_t across, down;  // how many there are by small's channels, and by large's
  int64_t size(const Correlation& c) const { return c.count() * plane; }
};

Units units_of(const Correlation& c) {
  const auto& tile = tile_of<float>();
  const int64_t channels = std::clamp<int64_t>(kTilesAtATime * tile.rows / c.phases(), 1, c.block);
  const int64_t rows = round_up(channels * c.phases(), tile.rows);
  return {channels, rows, odd_lines(rows * tile.columns), c.small_channels / tile.columns, divide_up(c.block, channels)};
}

// The gradient as it lies in memory: [small's channels, large's channels, kH, kW].
template <class G>
struct Taps {
  int64_t outputs, channels;            // small's, large's
  int64_t output, channel;              // strides
  int64_t offsets[kMostPhases][4];      // of a phase's taps
  G* data;

  Taps(const Correlation& c, const Tensor& weight)
      : outputs(weight.size(0)), channels(weight.size(1)), output(weight.stride(0)), channel(weight.stride(1)),
        data(mutable_data<G>(weight)) {
    const int64_t height = static_cast<int64_t>(c.y.phases.size()), width = static_cast<int64_t>(c.x.phases.size());
    for (int64_t phase = 0; phase < c.phases(); ++phase) {
      for (int64_t tap = 0; tap < 4; ++tap) {
        offsets[phase][tap] = (phase / width + tap / 2 * height) * weight.stride(2) +
                              (phase % width + tap % 2 * width) * weight.stride(3);
      }
    }
  }

  // Of `block_channels` channels, whose sums lie phase by phase.
  void store(const Correlation& c, const Units& units, int64_t block_channels, const float* sums, int64_t first_channel,
             int64_t first_output) const {
    const int64_t columns = tile_of<float>().columns, count = std::min(columns, outputs - first_output);
    float taps[kMostPhases][4][kMaxTileColumns];
    for (int64_t i = 0; i < std::min(block_channels, channels - first_channel); ++i) {
      for (int64_t phase = 0; phase < c.phases(); ++phase) {
        c.winograd.tap_grads(sums + (phase * block_channels + i) * columns, (c.m() + 1) * units.plane, units.plane, 0, 1,
                             columns, taps[phase][0], 2 * kMaxTileColumns, kMaxTileColumns, 0);
      }
      for (int64_t n = 0; n < count; ++n) {
        G* const to = data + (first_output + n) * output + (first_channel + i) * channel;
        for (int64_t phase = 0; phase < c.phases(); ++phase) {
          for (int64_t tap = 0; tap < 4; ++tap) {
            to[offsets[phase][tap]] = from_compute<G>(static_cast<Compute<G>>(taps[phase][tap][n]));
          }
        }
      }
    }
  }
};

// Multiplies the operands of a chunk of images. Sums that go on in another chunk are kept in `sums`, a unit after the other.
template <class G>
void multiply(const Correlation& c, const Units& units, const Operand& large, const Operand& small, int64_t tiles, bool first,
              bool last, float* sums, int64_t channel, const Taps<G>& taps) {
  const auto& tile = tile_of<float>();
  torch::stable::parallel_for(0, units.across * units.down, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> reads(units.rows);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t panel = unit / units.down, from = unit % units.down * units.channels;
      float* const mine = first && last ? scratch<float, 8>(units.size(c)) : sums + unit * units.size(c);
      const int64_t channels = std::min(units.channels, c.block - from);  // the block's last unit has fewer
      const int64_t rows = round_up(channels * c.phases(), tile.rows);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t phase = std::min(row / channels, c.phases() - 1);
        const int64_t at = phase * c.block + from + row % channels;
        reads[row] = at / tile.columns * large.tiles * tile.columns + at % tile.columns;
      }
      for (int64_t i = 0; i < c.count(); ++i) {
        for (int64_t row = 0; row < rows; row += tile.rows) {
          tile.gemm_columns(large.at + i * large.plane, reads.data() + row, tiles, small.panel(panel) + i * small.plane, !first,
                            mine + i * units.plane + row * tile.columns);
        }
      }
      if (last) taps.store(c, units, channels, mine, channel + from, panel * tile.columns);
    }
  });
}

template <class T, class G>
void wgrad_typed(const Pending& pending_small, const Pending& pending_large, const Convolution& conv, const Tensor& grad_weight) {
  const Tensor &small = pending_small.input, &large = pending_large.input;
  const auto& tile = tile_of<float>();
  const auto& winograd = winograd_for(small.size(2), small.size(3), small.size(0));
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
  const Units units = units_of(c);
  const Taps<G> taps(c, grad_weight);
  const auto operand = [&](float* at, int64_t channels) { return Operand{at, odd_lines(channels * tiles), tiles}; };
  const Operand left = operand(scratch<float, 5>(c.count() * odd_lines(large_columns * tiles)), large_columns);
  const Operand right = operand(scratch<float, 6>(c.count() * odd_lines(c.small_channels * tiles)), c.small_channels);
  float* const sums = scratch<float, 7>(chunk < batch ? units.across * units.down * units.size(c) : 0);
  const Prologue<float> before_small(pending_small, 0, c.small_channels);
  for (int64_t channel = 0; channel < large.size(1); channel += c.block) {
    const Prologue<float> before_large(pending_large, channel, c.block);
    for (int64_t first = 0; first < batch; first += chunk) {
      const int64_t images = std::min(chunk, batch - first);
      const bool keeps_small = channel > 0 && chunk == batch;  // transformed for the block before
      torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if (!keeps_small) transform_small<T>(c, small, before_small, first + i, i * c.tiles(), right);
          transform_large<T>(c, large, before_large, first + i, channel, i * c.tiles(), left);
        }
      });
      multiply<G>(c, units, left, right, images * c.tiles(), first == 0, first + images == batch, sums, channel, taps);
    }
  }
}

}  // namespace

void winograd_wgrad(const Pending& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight) {
  const Pending grad = Pending::nothing_on(grad_output);
  const Pending &small = conv.transposed ? input : grad, &large = conv.transposed ? grad : input;
  dispatch_dtype("conv", grad_output.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>) {
      if (grad_weight.scalar_type() == grad_output.scalar_type()) return wgrad_typed<T, T>(small, large, conv, grad_weight);
      wgrad_typed<T, float>(small, large, conv, grad_weight);
    }
  });
}

}  // namespace fastgan::conv

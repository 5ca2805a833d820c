#include <algorithm>

#include "conv/engine.h"
#include "conv/matmul.h"
#include "conv/packed.h"
#include "conv/plan.h"
#include "conv/prologue.h"
#include "conv/scatter.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

// The right operands of all phases and column blocks, one after another.
template <class S>
struct Panels {
  const S* data;
  int64_t blocks, channels;  // column blocks; channels padded to whole steps
  std::vector<int64_t> at;   // [phases], of the phase's first block
  std::vector<int64_t> size;  // [phases], of one block
  const S* panel(int64_t phase, int64_t block) const { return data + at[phase] + block * size[phase]; }
};

struct Gather {
  Axis y, x;
  int out_dim;  // of the weight: that of the channels written
  int64_t phases() const { return static_cast<int64_t>(y.phases.size() * x.phases.size()); }
  const Phase& phase_y(int64_t phase) const { return y.phases[phase / x.phases.size()]; }
  const Phase& phase_x(int64_t phase) const { return x.phases[phase % x.phases.size()]; }
};

Gather gather_of(const Tensor& weight, const Convolution& conv, bool backward, const Tensor& output) {
  const bool transposed = conv.transposed != backward;
  const auto axis = transposed ? transposed_axis : convolution_axis;
  const auto along = [&](int dim) {
    return axis(output.size(2 + dim), weight.size(2 + dim), conv.stride[dim], conv.padding[dim], conv.dilation[dim]);
  };
  return {along(0), along(1), transposed ? 1 : 0};
}

template <class T, class S>
Panels<S> pack_weight(const Gather& g, const Tensor& weight) {
  const auto& tile = tile_of<S>();
  const int64_t outs = weight.size(g.out_dim), ins = weight.size(1 - g.out_dim);
  Panels<S> panels{nullptr, divide_up(outs, tile.columns), round_up(ins, tile.step), {}, {}};
  std::vector<std::vector<int64_t>> segments(g.phases());
  int64_t total = 0;
  for (int64_t phase = 0; phase < g.phases(); ++phase) {
    for (const auto& y : g.phase_y(phase).taps) {
      for (const auto& x : g.phase_x(phase).taps) {
        segments[phase].push_back(y.kernel * weight.stride(2) + x.kernel * weight.stride(3));
      }
    }
    panels.at.push_back(total);
    panels.size.push_back(static_cast<int64_t>(segments[phase].size()) * panels.channels * tile.columns);
    total += panels.size[phase] * panels.blocks;
  }
  S* const data = scratch<S, 0>(total);
  const T* const from = fastgan::data<T>(weight);
  torch::stable::parallel_for(0, g.phases() * panels.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t phase = i / panels.blocks, first = i % panels.blocks * tile.columns;
      packing<T, S>().columns(from + first * weight.stride(g.out_dim), segments[phase].data(), segments[phase].size(), ins,
                              weight.stride(1 - g.out_dim), std::min<int64_t>(tile.columns, outs - first),
                              weight.stride(g.out_dim), panels.channels, tile.columns, tile.step,
                              data + panels.at[phase] + i % panels.blocks * panels.size[phase]);
    }
  });
  panels.data = data;
  return panels;
}

// What is computed at a time: whole images where they are small, a band of rows of one where they are not.
struct Items {
  int64_t images, rows;   // of one item
  int64_t bands;          // of an image
  int64_t count;
};

Items items_of(const Gather& g, int64_t batch, int64_t pixel_bytes) {
  constexpr int64_t kPixels = 256, kLeastItems = 16;
  const int64_t rows = g.y.most(), columns = g.x.most();
  const auto bytes = [&](int64_t rows) { return g.y.span(rows) * g.x.span(columns) * pixel_bytes; };
  Items items{1, rows, 1, 0};
  if (bytes(rows) > kPackedBytes) {
    while (items.rows > 1 && bytes(items.rows) > kPackedBytes) items.rows = divide_up(items.rows, 2);
  } else {
    const int64_t wanted = divide_up(kPixels, rows * columns), spread = std::max<int64_t>(1, batch / kLeastItems);
    items.images = std::max<int64_t>(1, std::min({kPackedBytes / bytes(rows), wanted, spread}));
  }
  items.bands = divide_up(rows, items.rows);
  items.count = divide_up(batch, items.images) * items.bands;
  return items;
}

template <class T, class S>
void gather_item(const Gather& g, const Items& items, int64_t item, const Tensor& input, const Prologue<S>& prologue,
                 const Panels<S>& panels, const std::vector<Compute<S>>& bias, const Epilogue& epilogue, const Tensor& output) {
  using A = Compute<S>;
  const auto& tile = tile_of<S>();
  const int64_t first_image = item / items.bands * items.images;
  const int64_t images = std::min(items.images, input.size(0) - first_image);
  const int64_t first_row = item % items.bands * items.rows;
  const int64_t rows = std::min(items.rows, g.y.most() - first_row);
  const Window window{g.y.before, g.x.before, first_row * g.y.read, g.y.span(rows), g.x.span(g.x.most())};
  const int64_t image_size = window.height * window.width * panels.channels;

  S* const left = scratch<S, 1>(images * image_size);
  for (int64_t i = 0; i < images; ++i) {
    packing<T, S>().pixels(data<T>(input) + (first_image + i) * input.stride(0), image_of(input), window, panels.channels,
                           left + i * image_size);
    prologue.apply(first_image + i, image_of(input), window, left + i * image_size);
  }

  const auto store = packing<T, S>().store[epilogue.activation];
  std::vector<int64_t> reads, writes, segments;
  alignas(64) A result[kMaxTileRows * kMaxTileColumns];
  for (int64_t phase = 0; phase < g.phases(); ++phase) {
    const Phase &py = g.phase_y(phase), &px = g.phase_x(phase);
    reads.clear(), writes.clear(), segments.clear();
    for (int64_t i = 0; i < images; ++i) {
      for (int64_t y = 0; y < std::min(rows, py.count - first_row); ++y) {
        for (int64_t x = 0; x < px.count; ++x) {
          reads.push_back(i * image_size + (y * g.y.read * window.width + x * g.x.read) * panels.channels);
          writes.push_back((first_image + i) * output.stride(0) +
                           (py.start + (first_row + y) * g.y.step) * output.stride(2) +
                           (px.start + x * g.x.step) * output.stride(3));
        }
      }
    }
    // Neighbouring taps of a row read neighbouring pixels: one longer segment.
    const bool joined = px.is_consecutive() && !px.taps.empty();
    const int64_t extent = panels.channels * (joined ? static_cast<int64_t>(px.taps.size()) : 1);
    for (const auto& y : py.taps) {
      for (const auto& x : px.taps) {
        segments.push_back(((y.offset + g.y.before) * window.width + x.offset + g.x.before) * panels.channels);
        if (joined) break;
      }
    }
    const auto pixels = static_cast<int64_t>(reads.size());
    reads.resize(round_up(pixels, tile.rows), 0);  // what the last tile's spare rows read is not stored
    for (int64_t block = 0; block < panels.blocks; ++block) {
      const int64_t channel = block * tile.columns;
      for (int64_t p = 0; p < pixels; p += tile.rows) {
        tile.gemm(left, reads.data() + p, segments.data(), segments.size(), extent, panels.panel(phase, block), false,
                  result);
        store(result, tile.columns, std::min<int64_t>(tile.rows, pixels - p),
              std::min<int64_t>(tile.columns, output.size(1) - channel), bias.empty() ? nullptr : bias.data() + channel,
              static_cast<A>(epilogue.negative_slope), writes.data() + p, output.stride(1),
              mutable_data<T>(output) + channel * output.stride(1));
      }
    }
  }
}

}  // namespace

static void gather(Engine engine, const Pending& pending, const Tensor& weight, const Convolution& conv, bool backward,
                   const Epilogue& epilogue, const Tensor& output) {
  if (engine == Engine::winograd) return winograd_gather(pending, weight, conv, backward, epilogue, output);
  if (engine == Engine::matmul) return matmul_gather(pending.input, weight, conv, backward, epilogue.bias, output);
  if (engine == Engine::scatter) return scatter(pending, weight, conv, epilogue, output);
  const Tensor& input = pending.input;
  dispatch_packed("conv", input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    using A = Compute<S>;
    const Gather g = gather_of(weight, conv, backward, output);
    const Panels<S> panels = pack_weight<T, S>(g, weight);
    std::vector<A> bias;
    if (epilogue.bias) bias = values<A>(epilogue.bias, output.size(1), A(0));
    if (!bias.empty()) bias.resize(panels.blocks * tile_of<S>().columns);
    const Items items = items_of(g, input.size(0), panels.channels * sizeof(S));
    const Prologue<S> prologue(pending, 0, panels.channels);
    torch::stable::parallel_for(0, items.count, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      for (int64_t item = begin; item < end; ++item) {
        gather_item<T, S>(g, items, item, input, prologue, panels, bias, epilogue, output);
      }
    });
  });
}

void gather(Engine engine, const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward,
            const Epilogue& epilogue, const Tensor& output) {
  gather(engine, Pending::nothing_on(input), weight, conv, backward, epilogue, output);
}

OptionalTensor gather(Engine engine, const Pending& input, const Tensor& weight, const Convolution& conv,
                      const Epilogue& epilogue, int64_t, const Tensor& output) {
  gather(engine, input, weight, conv, false, epilogue, output);
  return std::nullopt;  // the statistics are a pass of their own
}

}  // namespace fastgan::conv

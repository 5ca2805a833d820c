// A convolution's forward and its data gradient: every output pixel from the input pixels under the kernel.
//
// An item of the input, some images or a band of one, is packed; its pixels are multiplied with a block of output channels after
// the other, for some hundreds of k at a time.
#include <algorithm>
#include <tuple>

#include "conv/engine.h"
#include "conv/fetch.h"
#include "conv/items.h"
#include "conv/matmul.h"
#include "conv/packed.h"
#include "conv/panels.h"
#include "conv/prologue.h"
#include "conv/reduction.h"
#include "conv/scatter.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

constexpr int64_t kRightBytes = 1024 * 1024;  // of weights that stay in a second-level cache, beside an item (items.h)

// Some successive k of a phase: parts of taps, each of `extent` channels from `channel` on.
struct Chunk {
  int64_t first, count;  // taps
  int64_t channel, extent;
};

// Of about `depth` elements.
std::vector<Chunk> chunks_of(int64_t taps, int64_t channels, int64_t depth, int64_t step) {
  std::vector<Chunk> chunks;
  if (taps == 0) {
    chunks.push_back({0, 0, 0, channels});  // a sum of nothing
  } else if (channels <= depth) {
    const int64_t count = divide_up(taps, depth / channels), some = divide_up(taps, count);
    for (int64_t first = 0; first < taps; first += some) chunks.push_back({first, std::min(some, taps - first), 0, channels});
  } else {
    const int64_t some = round_up(divide_up(channels, divide_up(channels, depth)), step);
    for (int64_t first = 0; first < taps; ++first) {
      for (int64_t k = 0; k < channels; k += some) chunks.push_back({first, 1, k, std::min(some, channels - k)});
    }
  }
  return chunks;
}

// The output's channels, and what happens to them.
template <class S>
struct Output {
  int64_t channels, channel_stride, activation;
  Compute<S> negative_slope;
  std::vector<Compute<S>> bias;  // empty, or in whole blocks
  const Compute<S>* bias_of(int64_t channel) const { return bias.empty() ? nullptr : bias.data() + channel; }
};

// Where a phase's pixels of an item read and write, from where the item itself does.
struct Places {
  std::vector<int64_t> reads, writes;  // reads: for whole tiles; what the spare ones read is not stored
  std::vector<int64_t> segments;       // of the taps
  std::vector<Chunk> chunks;
};

template <class S>
Places places_of(const Gather& g, int64_t phase, const Item<S>& item, int64_t depth, const Tensor& output) {
  const auto& tile = tile_of<S>();
  const Phase &py = g.phase_y(phase), &px = g.phase_x(phase);
  const Layout& layout = item.layout;
  const int64_t image = output.stride(0), row = output.stride(2), column = output.stride(3);
  Places places;
  const int64_t rows = std::min(item.rows, py.count - item.first_row), pixels = std::max<int64_t>(0, rows) * px.count * item.images;
  places.reads.reserve(round_up(pixels, tile.rows));
  places.writes.reserve(pixels);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t x = 0; x < px.count; ++x) {
      const int64_t from = y * g.y.read * layout.row() + x * layout.pixel();
      const int64_t to = (py.start + y * g.y.step) * row + (px.start + x * g.x.step) * column;
      for (int64_t i = 0; i < item.images; ++i) {
        places.reads.push_back(from + i * layout.channels);
        places.writes.push_back(to + i * image);
      }
    }
  }
  while (static_cast<int64_t>(places.reads.size()) % tile.rows != 0) places.reads.push_back(places.reads.back() + layout.channels);
  for (const auto& y : py.taps) {
    for (const auto& x : px.taps) {
      places.segments.push_back((y.offset + g.y.before) * layout.row() + layout.column(x.offset + g.x.before));
    }
  }
  places.chunks = chunks_of(static_cast<int64_t>(places.segments.size()), layout.channels, depth, tile.step);
  return places;
}

// The order of a phase's products. Either way the operands of some in succession stay in the first-level cache.
struct Order {
  // Where the weight stays in the second-level cache: a tile of pixels with all blocks of channels, then the next; so they are also
  // written in the order that they lie in. Otherwise: a block of channels with all pixels of the item, while the next part of the
  // weight is fetched.
  bool is_by_pixels;
  int64_t depth() const { return is_by_pixels ? 512 : 256; }  // of k at a time
};

// The next item's images, asked for a few lines before each product: memory is idle while the processor multiplies.
struct Ahead {
  Fetch images;
  int64_t share;
};

// One phase of an item, for blocks of output channels. `out`: where the item's output begins.
template <class T, class S>
class PhaseProducts {
 public:
  PhaseProducts(const Places& places, const S* left, const Output<S>& output, T* out, Ahead& ahead)
      : places_(places), left_(left), output_(output), out_(out), ahead_(ahead), pixels_(static_cast<int64_t>(places.writes.size())) {}

  void run(const Order& order, const Panels<S>& panels, int64_t phase, int64_t first_block, int64_t last_block) const {
    const int64_t blocks = order.is_by_pixels ? last_block - first_block : 1;
    const int64_t rows = order.is_by_pixels ? tile_.rows : round_up(pixels_, tile_.rows);
    A* const sums = scratch<A, 14>(blocks * rows * tile_.columns);
    for (int64_t block = first_block; block < last_block; block += blocks) {
      for (int64_t pixel = 0; pixel < pixels_; pixel += rows) {
        const S* right = panels.panel(phase, block);
        for (const Chunk& chunk : places_.chunks) {
          const int64_t size = chunk.count * chunk.extent * tile_.columns, ahead = divide_up(size * tile_.rows, rows);
          for (int64_t i = 0; i < blocks; ++i) {
            for (int64_t p = 0; p < std::min(rows, pixels_ - pixel); p += tile_.rows) {
              const void* next = right + size + p / tile_.rows * ahead;
              int64_t bytes = ahead * static_cast<int64_t>(sizeof(S)), others = ahead_.share;
              if (order.is_by_pixels) {  // images, as many as lie together
                std::tie(next, bytes) = ahead_.images.take(ahead_.share);
                others -= divide_up(bytes, kCacheLine);
              }
              ahead_.images.ask(others);
              add(chunk, right + i * panels.size[phase], pixel + p, (block + i) * tile_.columns,
                  sums + (i * rows + p) * tile_.columns, next, bytes);
            }
          }
          right += size;
        }
      }
    }
  }

 private:
  using A = Compute<S>;

  // A tile's products of some k, while `bytes` from `next` on are fetched; with the last ones, its sums are stored.
  void add(const Chunk& chunk, const S* right, int64_t pixel, int64_t channel, A* sums, const void* next,
           int64_t bytes) const {
    const bool is_first = &chunk == &places_.chunks.front(), is_last = &chunk == &places_.chunks.back();
    const int64_t pixels = std::min<int64_t>(tile_.rows, pixels_ - pixel);
    const int64_t* const writes = places_.writes.data() + pixel;
    T* const to = out_ + channel * output_.channel_stride;
    tile_.gemm_apart(left_ + chunk.channel, places_.reads.data() + pixel, places_.segments.data() + chunk.first, chunk.count,
                     chunk.extent, right, chunk.extent * tile_.columns, !is_first, sums, next, bytes);
    if (is_last) {
      packing_.store[output_.activation](sums, tile_.columns, pixels, std::min<int64_t>(tile_.columns, output_.channels - channel),
                                         output_.bias_of(channel), output_.negative_slope, writes, output_.channel_stride, to);
    }
  }

  const Tile<S>& tile_ = tile_of<S>();
  const Packing<T, S>& packing_ = packing<T, S>();
  const Places& places_;
  const S* const left_;
  const Output<S>& output_;
  T* const out_;
  Ahead& ahead_;
  const int64_t pixels_;
};

}  // namespace

static OptionalTensor gather_directly(const Pending& pending, const Tensor& weight, const Convolution& conv, bool backward,
                                      const Epilogue& epilogue, const Reduction& reduction, const Tensor& output) {
  const Tensor& input = pending.input;
  OptionalTensor result;
  dispatch_packed("conv", input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    using A = Compute<S>;
    const Gather whole = gather_of(weight, conv, backward, output);
    const bool in_patches = suit_patches(whole, input.size(1), tile_of<S>().depth);
    const Gather g = in_patches ? patches_of(whole) : whole;
    Panels<S> panels;
    dispatch_weight<T>(weight, [&](auto tag) {
      using W = decltype(tag);
      panels = in_patches ? pack_patch_weight<W, S>(whole, weight) : pack_weight<W, S>(whole, weight);
    });
    Output<S> to{output.size(1), output.stride(1), epilogue.activation, static_cast<A>(epilogue.negative_slope), {}};
    if (epilogue.bias) to.bias = values<A>(epilogue.bias, to.channels, A(0));
    if (!to.bias.empty()) to.bias.resize(panels.blocks * tile_of<S>().columns);
    const Prologue<S> prologue(pending, 0, in_patches ? input.size(1) : panels.channels);
    const Order order{panels.bytes <= kRightBytes};
    const Items items = items_of(g, input.size(0), panels.channels * sizeof(S), order.is_by_pixels);
    // Where items are few, those of one share it by blocks of channels.
    constexpr int64_t kLeastUnits = 16;
    const int64_t shares = std::min(panels.blocks, divide_up(kLeastUnits, items.count));
    const int64_t share = divide_up(panels.blocks, shares);
    ItemReduction<T, S> reduced(reduction, g, items, shares, output);
    torch::stable::parallel_for(0, items.count * shares, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      Item<S> item;
      Ahead ahead{};
      std::vector<Places> places;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % shares * share, last = std::min(panels.blocks, first + share);
        if (unit == begin || first == 0) {
          const Item<S> before = item;
          item = pack_item<T, S>(whole, g, items, unit / shares, panels.channels, input, prologue);
          if (item.images != before.images || item.rows != before.rows || item.is_last_band != before.is_last_band) {
            places.clear();
            for (int64_t phase = 0; phase < g.phases(); ++phase) places.push_back(places_of(g, phase, item, order.depth(), output));
          }
          ahead = {};
          if (unit + shares < end) {
            const int64_t next = unit / shares + 1, image = next / items.bands * items.images, row = next % items.bands * items.rows;
            ahead.images = {input, image_of(input), image, std::min(items.images, input.size(0) - image),
                            row * whole.y.read - whole.y.before, whole.y.span(items.rows), 0, input.size(1)};
            int64_t products = 0;
            for (const Places& phase : places) {
              products += static_cast<int64_t>(phase.reads.size() * phase.chunks.size()) / tile_of<S>().rows * (last - first);
            }
            ahead.share = divide_up(ahead.images.lines(), std::max<int64_t>(1, products));
          }
        }
        T* const out = mutable_data<T>(output) + item.first_image * output.stride(0) + item.first_row * g.y.step * output.stride(2);
        for (int64_t phase = 0; phase < g.phases(); ++phase) {
          PhaseProducts<T, S>(places[phase], item.data, to, out, ahead).run(order, panels, phase, first, last);
        }
        reduced.take(item);
      }
    });
    result = reduced.result();
  });
  return result;
}

// From one pixel to as many as the kernel has: every weight is read once, as that of one pixel with so many more channels.
static bool is_wide(const Pending& input, const Tensor& weight, const Convolution& conv, bool backward, const Tensor& output) {
  const bool has_taps = weight.size(2) * weight.size(3) > 1;
  return has_taps && conv.transposed != backward && matmul_suits(backward ? output : input.input, weight, conv);
}

static OptionalTensor gather_widely(const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                                    const Epilogue& epilogue, const Tensor& output) {
  const auto format = format_of(output);
  const auto as_pixel = [&](const Tensor& tensor) {
    return torch::stable::reshape(rows_of(tensor, format), {tensor.size(0), tensor.numel() / tensor.size(0), 1, 1});
  };
  Convolution one = conv;
  one.stride = {1, 1}, one.output_padding = {0, 0};
  Epilogue at_end = epilogue;
  if (epilogue.bias) at_end.bias = repeated(*epilogue.bias, output, format);
  return gather_directly(input, as_pixel(weight), one, backward, at_end, {}, as_pixel(output));
}

OptionalTensor gather(const Planned& planned, const Pending& input, const Tensor& weight, const Epilogue& epilogue,
                      const Reduction& reduction, const Tensor& output) {
  const Engine engine = planned.engine;
  const Convolution& conv = *planned.conv;
  const bool backward = planned.pass == Pass::dgrad;
  if (engine == Engine::direct) {
    if (is_wide(input, weight, conv, backward, output)) return gather_widely(input, weight, conv, backward, epilogue, output);
    return gather_directly(input, weight, conv, backward, epilogue, reduction, output);
  }
  if (engine == Engine::winograd) winograd_gather(input, weight, conv, backward, epilogue, output);
  if (engine == Engine::matmul) matmul_gather(input.input, weight, conv, backward, epilogue.bias, output);
  if (engine == Engine::scatter) scatter(input, weight, conv, epilogue, output);
  return std::nullopt;  // what would be reduced is a pass of its own
}

}  // namespace fastgan::conv

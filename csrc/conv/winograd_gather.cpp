#include "conv/prologue.h"
#include "conv/winograd_plan.h"

namespace fastgan::conv {

FASTGAN_DECLARE_KERNELS(Winograds, winograds)
const Winograds& winograds() { return FASTGAN_KERNELS_IN_USE(winograds); }

bool winograd_suits(const Outline& input, const Tensor& weight, const Convolution& conv) {
  // Fewer channels do not fill a panel; fewer pixels do not pay for the weight's transformation, whose result is 9 / 4 to 25 / 4
  // times as large as the weight (measured at 1 to 64 images of 4x4 to 16x16).
  constexpr int64_t kLeastChannels = 32, kLeastPixels = 16;
  for (int dim = 0; dim < 2; ++dim) {
    const int64_t stride = conv.stride[dim];
    if (conv.dilation[dim] != 1 || weight.size(2 + dim) != 2 * stride || stride > kMostStride) return false;
  }
  return conv.groups == 1 && input.scalar_type() != ScalarType::Double &&
         std::min(weight.size(0), weight.size(1)) >= kLeastChannels && smaller_pixels(input, weight, conv) >= kLeastPixels;
}

namespace {

constexpr int64_t kChunkBytes = 16 * 1024 * 1024;  // of transformed inputs at a time: in a last-level cache
constexpr int64_t kTilesAtATime = 112;            // of them, whose products stay in a second-level cache
constexpr int64_t kDepthAtATime = 256;            // products summed at a time, whose weights do too

// The products of one convolution: [groups][(m + 1)^2] matrices, [tiles][depth] times [depth][output channels]. Towards the
// smaller image phases add up, so they lie side by side in `depth`; towards the larger each makes outputs of its own.
struct Products {
  const Winograd& winograd;
  TiledAxis y, x;
  bool to_large;
  int64_t tiles_y, tiles_x;
  int64_t channels;            // of the input, padded to whole panels
  int64_t groups, depth, row;  // row: distance of successive rows

  int64_t m() const { return winograd.outputs; }
  int64_t count() const { return (m() + 1) * (m() + 1); }
  int64_t tiles() const { return tiles_y * tiles_x; }
  int64_t phases() const { return static_cast<int64_t>(y.phases.size() * x.phases.size()); }
  const TiledPhase& phase_y(int64_t phase) const { return y.phases[phase / x.phases.size()]; }
  const TiledPhase& phase_x(int64_t phase) const { return x.phases[phase % x.phases.size()]; }
};

Products products_of(const Tensor& input, const Convolution& conv, bool backward, const Tensor& output) {
  const bool to_large = conv.transposed != backward;
  const auto along = [&](int dim) {
    return (to_large ? axis_to_large : axis_to_small)(output.size(2 + dim), conv.stride[dim], conv.padding[dim]);
  };
  const TiledAxis y = along(0), x = along(1);
  const auto& winograd = winograd_for(y.most(), x.most(), input.size(0));
  Products p{winograd, y, x, to_large, divide_up(y.most(), winograd.outputs), divide_up(x.most(), winograd.outputs),
             round_up(input.size(1), tile_of<float>().columns), 0, 0, 0};
  p.groups = to_large ? p.phases() : 1;
  p.depth = p.channels * (to_large ? 1 : p.phases());
  p.row = odd_lines(p.depth);
  return p;
}

// Transformed inputs of some images: [groups][(m + 1)^2][images][tiles][depth], successive ones of the second `plane` apart.
template <class T>
void transform_inputs(const Products& p, const Tensor& input, const Prologue<float>& prologue, int64_t first_image,
                      int64_t images, int64_t plane, float* out) {
  const int64_t m = p.m(), columns = tile_of<float>().columns;
  const int64_t width = p.x.span(p.tiles_x, m), row_bytes = width * p.channels * static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::clamp<int64_t>(kPackedBytes / (row_bytes * m * p.y.read_step), 1, p.tiles_y);  // of tiles, a band
  const int64_t bands = divide_up(p.tiles_y, rows), image_stride = input.stride(0);
  const Image shape = image_of(input);
  torch::stable::parallel_for(0, images * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / bands, first = item % bands * rows, last = std::min(p.tiles_y, first + rows);
      const Window window{p.y.before, p.x.before, first * m * p.y.read_step, p.y.span(last - first, m), width};
      float* const pixels = scratch<float, 1>(window.height * width * p.channels);
      prologue.pack(data<T>(input) + (first_image + image) * image_stride, first_image + image, shape, window, pixels);
      for (int64_t phase = 0; phase < p.phases(); ++phase) {
        float* const to = out + (p.to_large ? phase * p.count() * plane : phase * p.channels);
        for (int64_t ty = first; ty < last; ++ty) {
          const int64_t y = p.phase_y(phase).read + (ty - first) * m * p.y.read_step;
          for (int64_t tx = 0; tx < p.tiles_x; ++tx) {
            const int64_t x = p.phase_x(phase).read + tx * m * p.x.read_step;
            p.winograd.inputs(pixels + (y * width + x) * p.channels, p.y.read_step * width * p.channels,
                              p.x.read_step * p.channels, columns, p.channels / columns, columns,
                              to + (image * p.tiles() + ty * p.tiles_x + tx) * p.row, (m + 1) * plane, plane, columns);
          }
        }
      }
    }
  });
}

// The weight as the products read it, dimension by dimension.
struct Taps {
  int64_t channels, outputs;           // of the weight
  int64_t channel, output, y, x;       // strides
  int64_t stride_y, stride_x;          // of the convolution
  bool reversed;                       // whether a phase's second tap meets the earlier input: towards the larger image
  int64_t phases() const { return stride_y * stride_x; }
};

Taps taps_of(const Products& p, const Tensor& weight) {
  const int out = p.to_large ? 1 : 0, in = 1 - out;
  return {weight.size(in), weight.size(out), weight.stride(in), weight.stride(out), weight.stride(2), weight.stride(3),
          static_cast<int64_t>(p.y.phases.size()), static_cast<int64_t>(p.x.phases.size()), p.to_large};
}

// Which of the phases are transformed at a time.
struct Phases {
  int64_t first, count;
};

// The taps of some channels by a panel of outputs, each a line of `columns` outputs, and the distances of such lines.
struct TapLines {
  const float* at;
  int64_t channel, y, x;
};

constexpr int64_t kChannels = 16;  // whose taps are brought into lines at a time: then they are in a first-level cache

// The taps of a weight lie a page apart and more, where the hardware does not look ahead. So each is asked for this many channels
// before its use, into the second-level cache: page by page they fall into the same few places of the first. Inlined by force,
// because to gcc a function that does nothing else has no effect, and is not called.
constexpr int64_t kAhead = 16;
template <class T>
[[gnu::always_inline]] inline void prefetch_line(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i, 0, 2);
}

// Lines for `channels` channels from `from` on, with zeros to `padded`: in `block`, unless they can be read as they lie.
template <class T>
TapLines tap_lines(const Taps& taps, Phases phases, const T* from, int64_t channels, int64_t padded, int64_t outputs,
                   int64_t columns, float* block) {
  if constexpr (std::is_same_v<T, float>) {
    if (taps.output == 1 && outputs == columns && channels == padded) return {from, taps.channel, taps.y, taps.x};
  }
  const int64_t height = 2 * taps.stride_y, width = 2 * taps.stride_x;
  if (taps.x == 1 && taps.y == width) {  // all taps of an output lie side by side
    const Image lines{outputs, 1, height * width, taps.output, 0, 1};
    for (int64_t c = 0; c < padded; ++c) {
      float* const to = block + c * height * width * columns;
      if (c >= channels) {
        std::fill_n(to, height * width * columns, 0.f);
        continue;
      }
      const T* const at = from + c * taps.channel;
      for (int64_t n = 0; n < outputs; ++n) prefetch_line(at + kAhead * taps.channel + n * taps.output, 1);
      packing<T, float>().pixels(at, lines, {0, 0, 0, 1, height * width}, columns, to);
    }
    return {block, height * width * columns, width * columns, columns};
  }
  const int64_t line = padded * columns;
  const Image lines{outputs, 1, channels, taps.output, 0, taps.channel};
  for (int64_t phase = phases.first; phase < phases.first + phases.count; ++phase) {
    for (int64_t tap = 0; tap < 4; ++tap) {
      const int64_t y = phase / taps.stride_x + tap / 2 * taps.stride_y, x = phase % taps.stride_x + tap % 2 * taps.stride_x;
      const T* const at = from + y * taps.y + x * taps.x;
      if (taps.channel == 1) {  // a line of the cache holds kChannels of them
        for (int64_t n = 0; n < outputs; ++n) prefetch_line(at + kAhead + n * taps.output, 1);
      }
      packing<T, float>().pixels(at, lines, {0, 0, 0, 1, padded}, columns, block + (y * width + x) * line);
    }
  }
  return {block, columns, width * line, line};
}

// Where transformed taps go: [phases][(m + 1)^2][channels][columns], and the distances of the first two. (Towards the smaller
// image phases add up: there the channels of one follow those of another.)
struct TransformedTaps {
  float* at;
  int64_t phase, plane;
};

// `count` channels from `first` on, by one panel of outputs.
template <class T>
void transform_weight(const Products& p, const Taps& taps, const T* weight, Phases phases, int64_t first_output, int64_t first,
                      int64_t count, const TransformedTaps& out) {
  const int64_t columns = tile_of<float>().columns, outputs = std::min(columns, taps.outputs - first_output);
  const int64_t padded = std::min(kChannels, columns);  // whole panels are multiples of it
  float* const block = scratch<float, 12>(4 * taps.phases() * padded * columns);
  for (int64_t begin = 0; begin < count; begin += padded) {
    const int64_t channels = std::clamp<int64_t>(taps.channels - first - begin, 0, padded);
    const T* const from = weight + (first + begin) * taps.channel + first_output * taps.output;
    const TapLines lines = tap_lines(taps, phases, from, channels, padded, outputs, columns, block);
    const int64_t y = taps.stride_y * lines.y, x = taps.stride_x * lines.x;
    for (int64_t i = 0; i < phases.count; ++i) {
      const int64_t phase = phases.first + i;
      const int64_t at = phase / taps.stride_x * lines.y + phase % taps.stride_x * lines.x + (taps.reversed ? y + x : 0);
      float* const to = out.at + i * out.phase + begin * columns;
      for (int64_t c = 0; c < padded; ++c) {
        const float* const nearest = lines.at + c * lines.channel + at;
        if (lines.at != block) {
          const float* const ahead = nearest + kAhead * lines.channel;
          for (const int64_t step : {int64_t(0), x, y, y + x}) prefetch_line(ahead + (taps.reversed ? -step : step), columns);
        }
        p.winograd.taps(nearest, taps.reversed ? -y : y, taps.reversed ? -x : x, 0, 1, columns, to + c * columns,
                        (p.m() + 1) * out.plane, out.plane, 0);
      }
    }
  }
}

// Takes the products of a run of tiles, all in one row of an image, to the pixels of the output.
template <class T>
struct Outputs {
  const Products& p;
  const Epilogue& epilogue;
  std::vector<float> bias;  // in whole panels
  int64_t channels, image, channel, y, x;  // strides but the first
  T* data;

  Outputs(const Products& products, const Epilogue& at_end, const Tensor& output)
      : p(products), epilogue(at_end), channels(output.size(1)), image(output.stride(0)), channel(output.stride(1)),
        y(output.stride(2)), x(output.stride(3)), data(mutable_data<T>(output)) {
    if (epilogue.bias) bias = values<float>(epilogue.bias, channels, 0.f);
    if (!bias.empty()) bias.resize(round_up(channels, tile_of<float>().columns));
  }

  static constexpr int64_t kTiles = 4;  // at a time

  void store(int64_t phase, int64_t in_image, int64_t tile, int64_t tiles, const float* products, int64_t plane,
             int64_t first_channel) const {
    const int64_t m = p.m(), columns = tile_of<float>().columns;
    const TiledPhase &py = p.phase_y(phase), &px = p.phase_x(phase);
    const int64_t top = tile / p.tiles_x * m, left = tile % p.tiles_x * m;
    const int64_t height = std::min(m, py.count - top), width = std::min(tiles * m, px.count - left);
    if (height <= 0 || width <= 0) return;
    float pixels[kMostOutputs * kTiles * kMostOutputs * kMaxTileColumns];  // [height][width][columns], without gaps
    int64_t offsets[kMostOutputs * kTiles * kMostOutputs];
    const bool whole = height == m && width == tiles * m;
    for (int64_t t = 0; t * m < width; ++t) {
      float part[kMostOutputs * kMostOutputs * kMaxTileColumns];
      float* const to = whole ? pixels + t * m * columns : part;
      const int64_t row = (whole ? width : m) * columns;
      p.winograd.products(products + t * columns, (m + 1) * plane, plane, 0, 1, columns, to, row, columns, 0);
      if (whole) continue;
      for (int64_t i = 0; i < height; ++i) {
        std::copy_n(part + i * row, std::min(m, width - t * m) * columns, pixels + (i * width + t * m) * columns);
      }
    }
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        offsets[i * width + j] =
            (py.write + (top + i) * p.y.write_step) * y + (px.write + (left + j) * p.x.write_step) * x;
      }
    }
    packing<T, float>().store[epilogue.activation](
        pixels, columns, height * width, std::min(columns, channels - first_channel),
        bias.empty() ? nullptr : bias.data() + first_channel, static_cast<float>(epilogue.negative_slope), offsets, channel,
        data + in_image * image + first_channel * channel);
  }
};
static_assert(Outputs<float>::kTiles * kMostOutputs * kMostOutputs <= kMaxStoredRows);

// The order of the work: a part of the rows, by a panel of outputs, for some of the groups. For few rows most of the time goes
// to the weight, whose taps then are fetched once for all groups.
struct Order {
  int64_t groups;         // at a time
  int64_t channels;       // of the weight, at a time
  int64_t part, share;    // rows: of products in cache at a time, and that one unit of work computes
};

Order order_of(const Products& p, const Taps& taps, int64_t rows, int64_t panels) {
  const auto& tile = tile_of<float>();
  const int64_t threads = torch::stable::get_num_threads();  // no sum depends on how the parts are shared out
  const int64_t weights = p.count() * kDepthAtATime * tile.columns * static_cast<int64_t>(sizeof(float));
  const bool few = weights <= kPackedBytes && rows <= kTilesAtATime && panels >= threads;
  Order order{few ? p.groups : 1, 0, 0, 0};
  const int64_t phases = p.to_large ? order.groups : taps.phases();
  order.channels = std::min(p.channels, round_up(kDepthAtATime / phases, kChannels));
  const int64_t parts = divide_up(rows, kTilesAtATime), wanted = divide_up(2 * threads, p.groups / order.groups * panels);
  order.part = round_up(divide_up(rows, parts), tile.rows);
  order.share = divide_up(parts, std::min(parts, wanted)) * order.part;
  return order;
}

template <class T>
void gather_typed(const Products& p, const Pending& pending, const Tensor& weight, const Outputs<T>& outputs) {
  const Tensor& input = pending.input;
  const Prologue<float> prologue(pending, 0, p.channels);
  const auto& tile = tile_of<float>();
  const int64_t panels = divide_up(outputs.channels, tile.columns), batch = input.size(0);
  const Taps taps = taps_of(p, weight);
  const int64_t image_bytes = p.groups * p.count() * p.tiles() * p.row * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = std::clamp<int64_t>(kChunkBytes / image_bytes, 1, batch);
  const int64_t plane = odd_lines(chunk * p.tiles() * p.row);
  float* const inputs = scratch<float, 5>(p.groups * p.count() * plane + tile.rows * p.row);  // the last tile may be ragged
  for (int64_t first = 0; first < batch; first += chunk) {
    const int64_t rows = std::min(chunk, batch - first) * p.tiles();
    transform_inputs<T>(p, input, prologue, first, std::min(chunk, batch - first), plane, inputs);

    const Order order = order_of(p, taps, rows, panels);
    const int64_t shares = divide_up(rows, order.share), sets = p.groups / order.groups;
    const int64_t product_plane = odd_lines(order.part * tile.columns), products_size = p.count() * product_plane;
    const bool in_one = order.channels == p.channels;  // then a part's products are done with before the next part's
    const int64_t segments = p.to_large ? 1 : taps.phases();  // of a row's depth
    const int64_t weight_plane = odd_lines(segments * order.channels * tile.columns);
    torch::stable::parallel_for(0, sets * panels * shares, 1, [&](int64_t begin, int64_t end) {
      float* const weights = scratch<float, 6>(order.groups * p.count() * weight_plane);
      float* const products = scratch<float, 7>((in_one ? 1 : order.share / order.part) * order.groups * products_size);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first_group = unit / shares / panels * order.groups, channel = unit / shares % panels * tile.columns;
        const int64_t first_row = unit % shares * order.share, last_row = std::min(rows, first_row + order.share);
        for (int64_t from = 0; from < p.channels; from += order.channels) {
          const int64_t extent = std::min(order.channels, p.channels - from);
          const bool last = from + extent == p.channels;
          const Phases phases = p.to_large ? Phases{first_group, order.groups} : Phases{0, taps.phases()};
          transform_weight<T>(p, taps, data<T>(weight), phases, channel, from, extent,
                              {weights, p.to_large ? p.count() * weight_plane : extent * tile.columns, weight_plane});
          for (int64_t at = first_row; at < last_row; at += order.part) {
            const int64_t until = std::min(last_row, at + order.part);
            float* const sums = products + (in_one ? 0 : (at - first_row) / order.part) * order.groups * products_size;
            for (int64_t i = 0; i < order.groups * p.count(); ++i) {
              const float* const left = inputs + (first_group * p.count() + i) * plane + from;
              const float* const right = weights + i * weight_plane;
              for (int64_t row = at; row < until;) {
                const auto& some = tile.next(until - row);
                float* const to = sums + i * product_plane + (row - at) * tile.columns;
                if (in_one) {
                  some.gemm_rows(left + row * p.row, p.row, segments * extent, right, false, to);
                } else {
                  for (int64_t s = 0; s < segments; ++s) {
                    some.gemm_rows(left + row * p.row + s * p.channels, p.row, extent, right + s * extent * tile.columns,
                                   from > 0 || s > 0, to);
                  }
                }
                row += some.rows;
              }
            }
            if (!last) continue;
            for (int64_t g = 0; g < order.groups; ++g) {
              for (int64_t row = at, tiles; row < until; row += tiles) {
                tiles = std::min({Outputs<T>::kTiles, until - row, p.tiles_x - row % p.tiles_x});
                outputs.store(p.to_large ? first_group + g : 0, first + row / p.tiles(), row % p.tiles(), tiles,
                              sums + g * products_size + (row - at) * tile.columns, product_plane, channel);
              }
            }
          }
        }
      }
    });
  }
}

}  // namespace

void winograd_gather(const Pending& pending, const Tensor& weight, const Convolution& conv, bool backward,
                     const Epilogue& epilogue, const Tensor& output) {
  const Products p = products_of(pending.input, conv, backward, output);
  dispatch_dtype("conv", pending.input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, double>) gather_typed<T>(p, pending, weight, Outputs<T>(p, epilogue, output));
  });
}

}  // namespace fastgan::conv

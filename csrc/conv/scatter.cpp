#include "conv/scatter.h"

#include <algorithm>

#include "conv/fetch.h"
#include "conv/packed.h"
#include "conv/prologue.h"

namespace fastgan::conv {

constexpr int64_t kFewChannels = 4;  // an image's

// Rows of the smaller image whose operands and products, `row_bytes` each, stay in a second-level cache beside a weight.
static int64_t rows_at_a_time(int64_t row_bytes, int64_t weight_bytes) {
  return std::max<int64_t>(1, (2 * kPackedBytes - std::min(weight_bytes, kPackedBytes)) / row_bytes);
}

bool scatter_suits(const Outline& input, const Tensor& weight, const Convolution& conv, bool backward) {
  const bool to_large = conv.transposed != backward;
  if (!to_large || conv.dilation[0] != 1 || conv.dilation[1] != 1) return false;
  if (weight.size(1) <= kFewChannels) {
    // Rows beside a band are multiplied again for it: under large kernels on wide images more than is saved (measured on images of 64
    // to 512 pixels under kernels of 3 to 9).
    const int64_t beside = divide_up(weight.size(2) - conv.stride[0], conv.stride[0]);
    const int64_t line = weight.size(0) + round_up(weight.size(1) * weight.size(2) * weight.size(3), kMaxTileColumns);
    return beside <= 2 * rows_at_a_time(smaller_size(input, weight, conv, 1) * line * static_cast<int64_t>(sizeof(float)), 0);
  }
  // With few pixels the time is the weight's. aten first brings it into an order of its own, and for that turns a contiguous one
  // (measured at 1 to 8 images of 4x4 to 16x16).
  constexpr int64_t kFewPixels = 32, kFewWhereTurned = 256;
  const bool is_turned = input.scalar_type() == ScalarType::BFloat16 && weight.is_contiguous();
  return smaller_pixels(input, weight, conv) <= (is_turned ? kFewWhereTurned : kFewPixels);
}

namespace {

// How the weight, [input's channels, output's channels, kH, kW] both ways, is cut into right operands: a block of output
// channels at a time, all their taps side by side.
struct Taps {
  int64_t height, width, channels;  // of the weight
  int64_t slots;                    // channels of a block
  int64_t blocks, panels;           // panels: of a block
  int64_t depth;                    // the input's channels in whole steps
  int64_t rows_in_panel;            // of the kernel; 0 where panels are filled without regard to them
  bool channels_first;              // whether a block's columns are [channel][tap], as they lie in memory, or [tap][channel]

  int64_t count() const { return height * width; }
  int64_t in_block(int64_t block) const { return std::min(slots, channels - block * slots); }
  int64_t column(int64_t tap, int64_t channel, int64_t panel_columns) const {
    if (channels_first) return channel * count() + tap;
    const int64_t in_row = tap % width * slots + channel, row = tap / width;
    if (rows_in_panel == 0) return row * width * slots + in_row;
    return row / rows_in_panel * panel_columns + row % rows_in_panel * width * slots + in_row;
  }
};

template <class T, class S>
Taps taps_of(const Tensor& weight) {
  const auto& tile = tile_of<S>();
  constexpr int64_t kLine = 64 / sizeof(T);
  Taps taps{weight.size(2), weight.size(3), weight.size(1), 0, 0, 0, round_up(weight.size(0), tile.depth), 0, false};
  taps.slots = taps.channels <= kFewChannels ? taps.channels : kLine;
  taps.blocks = divide_up(taps.channels, taps.slots);
  taps.panels = divide_up(taps.count() * taps.slots, tile.columns);
  // Where whole rows of the kernel fit panels, a panel's products may stay as a tile leaves them.
  const int64_t fitting = taps.channels <= kFewChannels ? tile.columns / (taps.width * taps.slots) : 0;
  if (fitting > 0 && divide_up(taps.height, fitting) <= taps.panels) taps.rows_in_panel = fitting;
  taps.channels_first = taps.channels > kFewChannels && weight.stride(3) == 1 && weight.stride(2) == taps.width &&
                        weight.stride(1) == taps.count();
  return taps;
}

// One block: [panels][depth / step][columns][step].
template <class T, class S>
void pack_block(const Taps& taps, const Tensor& weight, int64_t block, S* out) {
  const auto& tile = tile_of<S>();
  const int64_t channels = taps.in_block(block), panel = taps.depth * tile.columns;
  std::vector<Run> runs;
  const auto add = [&](int64_t tap, int64_t channel) {
    const int64_t column = taps.column(tap, channel, tile.columns);
    const int64_t from = channel * weight.stride(1) + tap / taps.width * weight.stride(2) + tap % taps.width * weight.stride(3);
    const int64_t to = column / tile.columns * panel + column % tile.columns * tile.step;
    const bool joins = !runs.empty() && from == runs.back().from + runs.back().length &&
                       to == runs.back().to + runs.back().length * tile.step;
    if (joins) {
      ++runs.back().length;
    } else {
      runs.push_back({from, to, 1});
    }
  };
  for (int64_t i = 0; i < taps.count() * channels; ++i) {
    taps.channels_first ? add(i % taps.count(), i / taps.count()) : add(i / channels, i % channels);
  }
  if (taps.count() * channels < taps.panels * tile.columns) std::fill_n(out, taps.panels * panel, S{});
  packing<T, S>().runs(data<T>(weight) + block * taps.slots * weight.stride(1), weight.size(0), weight.stride(0), runs.data(),
                       static_cast<int64_t>(runs.size()), taps.depth, tile.columns, tile.step, out);
}

// What is computed at a time of a block: some whole images, or, where they are large, a band of output rows of one.
struct Plan {
  int64_t stride[2], padding[2];
  int64_t images, rows;
  int64_t bands, count;  // of an image; of the batch

  // Input pixels that add to these rows of the output lie in rows [first, first + count).
  struct Range {
    int64_t first, count;
  };
  Range reaching(int64_t first, int64_t last, int64_t taps, int64_t height) const {
    const int64_t top = std::clamp<int64_t>(divide_up(first + padding[0] - taps + 1, stride[0]), 0, height);
    return {top, std::clamp<int64_t>((last - 1 + padding[0]) / stride[0] + 1, top, height) - top};
  }
};

template <class S>
Plan plan_of(const Convolution& conv, const Taps& taps, const Tensor& input, const Tensor& output) {
  constexpr int64_t kLeastItems = 16;
  Plan plan{{conv.stride[0], conv.stride[1]}, {conv.padding[0], conv.padding[1]}, 1, output.size(2), 1, 0};
  const int64_t line = taps.panels * tile_of<S>().columns, batch = input.size(0);
  const int64_t row_bytes = input.size(3) * static_cast<int64_t>(taps.depth * sizeof(S) + line * sizeof(Compute<S>));
  const int64_t weight_bytes = taps.depth * line * static_cast<int64_t>(sizeof(S));
  const int64_t rows = rows_at_a_time(row_bytes, weight_bytes);
  if (rows < input.size(2)) {
    plan.rows = std::min(plan.rows, rows * plan.stride[0]);
    plan.bands = divide_up(output.size(2), plan.rows);
  } else {
    plan.images = std::clamp<int64_t>(batch * taps.blocks / kLeastItems, 1, std::min(batch, rows / input.size(2)));
  }
  plan.count = divide_up(batch, plan.images) * plan.bands;
  return plan;
}

// A block's products: [pixel][panel][column], or, where panels hold whole rows of the kernel, [panel][pixel][column].
template <class S>
struct Products {
  using A = Compute<S>;
  A* data;
  int64_t line, panel;  // from a pixel to the next, from a panel to the next

  Products(const Taps& taps, int64_t pixels) {
    const int64_t columns = tile_of<S>().columns;
    line = taps.rows_in_panel > 0 ? columns : taps.panels * columns;
    panel = taps.rows_in_panel > 0 ? (pixels + kMaxTileRows) * columns : columns;  // a last tile has spare rows
    data = scratch<A, 8>(taps.panels * columns * (pixels + kMaxTileRows));
  }
  const A* at(const Taps& taps, int64_t pixel, int64_t row) const {
    const int64_t length = taps.width * taps.slots;
    if (taps.rows_in_panel == 0) return data + pixel * line + row * length;
    return data + row / taps.rows_in_panel * panel + pixel * line + row % taps.rows_in_panel * length;
  }
};

// Lines of `left` that do not exist are not read.
template <class S>
void multiply(const Taps& taps, const S* left, int64_t pixels, const S* right, const Products<S>& out) {
  const auto& tile = tile_of<S>();
  const int64_t segment = 0;
  alignas(64) Compute<S> result[kMaxTileRows * kMaxTileColumns];
  int64_t reads[kMaxTileRows];
  // A tile of pixels with all panels of a small weight, or all pixels with a panel of a large one: of the two, the one is read once.
  const int64_t group = taps.rows_in_panel > 0 ? taps.panels : 1;
  for (int64_t first = 0; first < taps.panels; first += group) {
    for (int64_t at = 0; at < pixels;) {
      const auto& some = tile.next(pixels - at);
      const int64_t count = std::min<int64_t>(some.rows, pixels - at);
      for (int64_t m = 0; m < some.rows; ++m) reads[m] = std::min(m, count - 1) * taps.depth;
      const S* const lines = left + at * taps.depth;
      if (first == 0) fetch(lines + count * taps.depth, count * taps.depth * sizeof(S));
      for (int64_t panel = first; panel < first + group; ++panel) {
        auto* const to = out.data + panel * out.panel + at * out.line;
        const bool is_in_place = out.line == tile.columns;
        some.gemm(lines, reads, &segment, 1, taps.depth, right + panel * taps.depth * tile.columns, false, is_in_place ? to : result);
        for (int64_t m = 0; !is_in_place && m < count; ++m) std::copy_n(result + m * tile.columns, tile.columns, to + m * out.line);
      }
      at += some.rows;
    }
  }
}

// Where a block's sums go, a row of the output at a time.
template <class T, class S>
struct Outputs {
  using A = Compute<S>;
  const Taps& taps;
  const Epilogue& epilogue;
  const Tensor& output;
  const Packing<T, S>& pack = packing<T, S>();
  int64_t width;
  int64_t image_stride, channel_stride, row_stride, pixel_stride;
  T* data;
  std::vector<A> bias;  // in whole blocks

  Outputs(const Taps& of, const Epilogue& at_end, const Tensor& to) : taps(of), epilogue(at_end), output(to), width(to.size(3)) {
    image_stride = to.stride(0), channel_stride = to.stride(1), row_stride = to.stride(2), pixel_stride = to.stride(3);
    data = mutable_data<T>(to);
    bias.resize(taps.blocks * taps.slots);
    if (epilogue.bias) {
      const auto given = values<A>(epilogue.bias, taps.channels, A(0));
      std::copy(given.begin(), given.end(), bias.begin());
    }
  }

  const A* bias_of(int64_t block) const { return bias.data() + block * taps.slots; }

  // sums: [pixels][slots].
  void store(int64_t block, int64_t image, int64_t y, const A* sums) const {
    const int64_t pixel = pixel_stride, channel = channel_stride;
    T* const to = data + image * image_stride + y * row_stride + block * taps.slots * channel;
    if (taps.channels > kFewChannels) {
      int64_t offsets[kMaxStoredRows];
      for (int64_t first = 0; first < width; first += kMaxStoredRows) {
        const int64_t pixels = std::min<int64_t>(kMaxStoredRows, width - first);
        for (int64_t x = 0; x < pixels; ++x) offsets[x] = (first + x) * pixel;
        store_lines(sums + first * taps.slots, taps.slots, pixels, taps.in_block(block), offsets, channel, to);
      }
    } else if (channel == 1 && pixel == taps.slots) {  // one run of numbers
      store_run(sums, width * taps.slots, 1, to);
    } else {
      A* const plane = scratch<A, 10>(round_up(width, kMaxTileColumns));
      for (int64_t c = 0; c < taps.slots; ++c) {
        for (int64_t x = 0; x < width; ++x) plane[x] = sums[x * taps.slots + c];
        store_run(plane, width, pixel, to + c * channel);
      }
    }
  }

 private:
  void store_lines(const A* lines, int64_t columns, int64_t count, int64_t length, const int64_t* offsets, int64_t stride,
                   T* out) const {
    pack.store[epilogue.activation](lines, columns, count, length, nullptr, static_cast<A>(epilogue.negative_slope), offsets, stride, out);
  }
  void store_run(const A* run, int64_t length, int64_t stride, T* out) const {
    for (int64_t at = 0; at < length; at += kMaxTileColumns) {
      const int64_t offset = at * stride;
      store_lines(run + at, kMaxTileColumns, 1, std::min<int64_t>(kMaxTileColumns, length - at), &offset, stride, out);
    }
  }
};

// The left operand, a line of channels for each pixel: the input itself where it lies like that, and nothing is pending on it.
template <class T, class S>
const S* lines_of(const Taps& taps, const Tensor& input, int64_t first_image, int64_t images, const Plan::Range& rows,
                  const Prologue<S>& prologue) {
  const Image shape = image_of(input);
  const int64_t in_image = rows.count * shape.width;
  const T* const from = data<T>(input) + first_image * input.stride(0);
  if constexpr (std::is_same_v<T, S>) {
    const bool is_whole = images == 1 || (rows.count == shape.height && input.stride(0) == in_image * taps.depth);
    const bool is_dense = shape.channels == taps.depth && shape.channel_stride == 1 && shape.pixel_stride == taps.depth &&
                          shape.row_stride == shape.width * taps.depth;
    if (is_whole && is_dense && !prologue) return from + rows.first * shape.row_stride;
  }
  S* const left = scratch<S, 1>(images * in_image * taps.depth);
  for (int64_t i = 0; i < images; ++i) {
    const Window window{0, 0, rows.first, rows.count, shape.width};
    S* const to = left + i * in_image * taps.depth;
    prologue.pack(from + i * input.stride(0), first_image + i, shape, window, to);
  }
  return left;
}

template <class T, class S>
void scatter_item(const Plan& plan, const Taps& taps, int64_t block, int64_t item, const Tensor& input,
                  const Prologue<S>& prologue, const S* right, const Outputs<T, S>& outputs) {
  using A = Compute<S>;
  const Image shape = image_of(input);
  const int64_t first_image = item / plan.bands * plan.images, images = std::min(plan.images, input.size(0) - first_image);
  const int64_t first = item % plan.bands * plan.rows, last = std::min(outputs.output.size(2), first + plan.rows);
  const auto read = plan.reaching(first, last, taps.height, shape.height);
  const int64_t in_image = read.count * shape.width, pixels = images * in_image;

  const S* const left = lines_of<T>(taps, input, first_image, images, read, prologue);
  const Products<S> products(taps, pixels);
  multiply(taps, left, pixels, right, products);
  if (taps.channels_first) {
    A* const turned = scratch<A, 11>(products.line);
    const Image columns{taps.in_block(block), 1, taps.count(), taps.count(), 0, 1};
    for (int64_t p = 0; p < pixels; ++p) {
      A* const line = products.data + p * products.line;
      packing<A, A>().pixels(line, columns, {0, 0, 0, 1, taps.count()}, taps.slots, turned);
      std::copy_n(turned, taps.count() * taps.slots, line);
    }
  }

  const ScatteredRow row{shape.width, taps.width, taps.slots, products.line, plan.stride[1], plan.padding[1], outputs.width};
  A* const sums = scratch<A, 9>(round_up(row.width * taps.slots, kMaxTileColumns) + 2 * kSpareSums) + kSpareSums;
  std::vector<const A*> rows;
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t y = first; y < last; ++y) {
      rows.clear();
      for (int64_t tap = (y + plan.padding[0]) % plan.stride[0]; tap < taps.height; tap += plan.stride[0]) {
        const int64_t from = (y + plan.padding[0] - tap) / plan.stride[0];
        if (y + plan.padding[0] < tap || from >= shape.height) continue;
        rows.push_back(products.at(taps, i * in_image + (from - read.first) * shape.width, tap));
      }
      outputs.pack.add_rows(row, rows.data(), static_cast<int64_t>(rows.size()), outputs.bias_of(block), sums);
      outputs.store(block, first_image + i, y, sums);
    }
  }
}

}  // namespace

void scatter(const Pending& pending, const Tensor& weight, const Convolution& conv, const Epilogue& epilogue,
             const Tensor& output) {
  const Tensor& input = pending.input;
  dispatch_packed("conv", input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    const Taps taps = taps_of<T, S>(weight);
    const Plan plan = plan_of<S>(conv, taps, input, output);
    const Outputs<T, S> outputs(taps, epilogue, output);
    const Prologue<S> prologue(pending, 0, taps.depth);
    torch::stable::parallel_for(0, taps.blocks * plan.count, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      S* const right = scratch<S, 0>(taps.panels * taps.depth * tile_of<S>().columns);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t block = item / plan.count;
        if (item == begin || item % plan.count == 0) pack_block<T, S>(taps, weight, block, right);
        scatter_item<T, S>(plan, taps, block, item % plan.count, input, prologue, right, outputs);
      }
    });
  });
}

}  // namespace fastgan::conv

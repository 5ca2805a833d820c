#include "conv/scatter.h"

#include <algorithm>

#include "conv/packed.h"
#include "conv/plan.h"

namespace fastgan::conv {

bool scatter_suits(const Tensor& weight, const Convolution& conv, bool backward) {
  constexpr int64_t kMostChannels = 4;  // an image's
  const bool to_large = conv.transposed != backward;
  return to_large && weight.size(1) <= kMostChannels && conv.dilation[0] == 1 && conv.dilation[1] == 1;
}

namespace {

// The weight, [input's channels, output's channels, kH, kW] both ways, as [depth][kernel_y][kernel_x][channels], its last three as columns in whole panels.
template <class S>
struct Taps {
  int64_t height, width, channels;
  int64_t panels, depth;  // depth: padded to whole steps
  const S* data;

  int64_t count() const { return height * width * channels; }
  const S* panel(int64_t panel) const { return data + panel * depth * tile_of<S>().columns; }
};

template <class T, class S>
Taps<S> pack_weight(const Tensor& weight) {
  const auto& tile = tile_of<S>();
  Taps<S> taps{weight.size(2), weight.size(3), weight.size(1), 0, round_up(weight.size(0), tile.step), nullptr};
  taps.panels = divide_up(taps.count(), tile.columns);
  const int64_t size = taps.panels * taps.depth * tile.columns, depth = weight.size(0);
  S* const to = scratch<S, 0>(size);
  std::fill_n(to, size, S{});
  const T* const from = data<T>(weight);
  for (int64_t column = 0; column < taps.count(); ++column) {
    const int64_t tap = column / taps.channels, channel = column % taps.channels;
    const T* const at = from + channel * weight.stride(1) + tap / taps.width * weight.stride(2) + tap % taps.width * weight.stride(3);
    S* const panel = to + column / tile.columns * taps.depth * tile.columns + column % tile.columns * tile.step;
    for (int64_t k = 0; k < depth; ++k) {
      S& value = panel[k / tile.step * tile.columns * tile.step + k % tile.step];
      if constexpr (std::is_same_v<T, S>) {
        value = at[k * weight.stride(0)];
      } else {
        value = to_compute(at[k * weight.stride(0)]);
      }
    }
  }
  taps.data = to;
  return taps;
}

struct Plan {
  int64_t stride_y, stride_x, padding_y, padding_x;
  int64_t rows, bands;  // of the output: of one item, and of an image
};

// sums[x * stride_x + kernel_x - padding][channel] += products[x][kernel_x][channel], for one row of the smaller image.
template <class S, class A>
void add_row(const Plan& plan, const Taps<S>& taps, const A* products, int64_t line, int64_t width, int64_t out_width, A* sums) {
  // In groups of as many taps as the stride, so that successive pixels write side by side.
  for (int64_t first = 0; first < taps.width; first += plan.stride_x) {
    const int64_t group = std::min(plan.stride_x, taps.width - first);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t left = x * plan.stride_x + first - plan.padding_x;
      const int64_t begin = std::max<int64_t>(0, -left), end = std::min(group, out_width - left);
      const A* const from = products + x * line + first * taps.channels;
      A* const to = sums + left * taps.channels;
      for (int64_t i = begin * taps.channels; i < end * taps.channels; ++i) to[i] += from[i];
    }
  }
}

template <class T, class S>
void scatter_item(const Plan& plan, const Taps<S>& taps, int64_t image, int64_t band, const Tensor& input,
                  const std::vector<Compute<S>>& bias, const Epilogue& epilogue, const Tensor& output) {
  using A = Compute<S>;
  const auto& tile = tile_of<S>();
  const Image shape = image_of(input);
  const int64_t out_width = output.size(3), channels = taps.channels;
  const int64_t first = band * plan.rows, last = std::min(output.size(2), first + plan.rows);
  // The smaller image's rows that reach these.
  const int64_t top = std::clamp<int64_t>(divide_up(first + plan.padding_y - taps.height + 1, plan.stride_y), 0, shape.height);
  const int64_t bottom = std::clamp<int64_t>((last - 1 + plan.padding_y) / plan.stride_y + 1, top, shape.height);

  const int64_t pixels = (bottom - top) * shape.width, line = taps.panels * tile.columns;
  S* const left = scratch<S, 1>((pixels + tile.rows) * taps.depth);
  packing<T, S>().pixels(data<T>(input) + image * input.stride(0), shape, {0, 0, top, bottom - top, shape.width}, taps.depth, left);
  A* const products = scratch<A, 8>(pixels * line);
  alignas(64) A result[kMaxTileRows * kMaxTileColumns];
  int64_t reads[kMaxTileRows];
  for (int64_t m = 0; m < tile.rows; ++m) reads[m] = m * taps.depth;
  const int64_t segment = 0;
  for (int64_t panel = 0; panel < taps.panels; ++panel) {
    for (int64_t p = 0; p < pixels; p += tile.rows) {
      tile.gemm(left + p * taps.depth, reads, &segment, 1, taps.depth, taps.panel(panel), false, result);
      for (int64_t m = 0; m < std::min<int64_t>(tile.rows, pixels - p); ++m) {
        std::copy_n(result + m * tile.columns, tile.columns, products + (p + m) * line + panel * tile.columns);
      }
    }
  }

  // A row of output as its channels lie in memory: one run of numbers where they are innermost, otherwise one for each.
  const int64_t count = out_width * channels;
  const bool innermost = output.stride(1) == 1 && output.stride(3) == channels;
  A* const sums = scratch<A, 9>(2 * round_up(count, kMaxTileColumns));
  A* const planes = sums + round_up(count, kMaxTileColumns);
  const auto store = packing<T, S>().store[epilogue.activation];
  const auto slope = static_cast<A>(epilogue.negative_slope);
  for (int64_t y = first; y < last; ++y) {
    for (int64_t x = 0; x < out_width; ++x) {
      for (int64_t c = 0; c < channels; ++c) sums[x * channels + c] = bias.empty() ? A(0) : bias[c];
    }
    for (int64_t tap = (y + plan.padding_y) % plan.stride_y; tap < taps.height; tap += plan.stride_y) {
      const int64_t from = (y + plan.padding_y - tap) / plan.stride_y;
      if (y + plan.padding_y < tap || from >= shape.height) continue;
      add_row(plan, taps, products + (from - top) * shape.width * line + tap * taps.width * channels, line, shape.width, out_width,
              sums);
    }
    T* const to = mutable_data<T>(output) + image * output.stride(0) + y * output.stride(2);
    const auto store_run = [&](const A* run, int64_t length, int64_t stride, T* out) {
      for (int64_t at = 0; at < length; at += kMaxTileColumns) {
        const int64_t offset = at * stride;
        store(run + at, kMaxTileColumns, 1, std::min<int64_t>(kMaxTileColumns, length - at), nullptr, slope, &offset, stride, out);
      }
    };
    if (innermost) {
      store_run(sums, count, 1, to);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = 0; x < out_width; ++x) planes[x] = sums[x * channels + c];
      store_run(planes, out_width, output.stride(3), to + c * output.stride(1));
    }
  }
}

}  // namespace

void scatter(const Tensor& input, const Tensor& weight, const Convolution& conv, const Epilogue& epilogue,
             const Tensor& output) {
  dispatch_packed("conv", input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    using A = Compute<S>;
    const Taps<S> taps = pack_weight<T, S>(weight);
    std::vector<A> bias;
    if (epilogue.bias) bias = values<A>(epilogue.bias, output.size(1), A(0));
    Plan plan{conv.stride[0], conv.stride[1], conv.padding[0], conv.padding[1], output.size(2), 1};
    const int64_t row_bytes = input.size(3) * static_cast<int64_t>(taps.depth * sizeof(S) + taps.panels * tile_of<S>().columns * sizeof(A));
    plan.rows = std::clamp<int64_t>(2 * kPackedBytes / row_bytes * plan.stride_y, plan.stride_y, output.size(2));
    plan.bands = divide_up(output.size(2), plan.rows);
    torch::stable::parallel_for(0, input.size(0) * plan.bands, 1, [&](int64_t begin, int64_t end) {
      const InUse<S> in_use(tile_of<S>());
      for (int64_t item = begin; item < end; ++item) {
        scatter_item<T, S>(plan, taps, item / plan.bands, item % plan.bands, input, bias, epilogue, output);
      }
    });
  });
}

}  // namespace fastgan::conv

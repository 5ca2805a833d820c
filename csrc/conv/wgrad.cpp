#include <algorithm>

#include "conv/engine.h"
#include "conv/matmul.h"
#include "conv/packed.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

constexpr int64_t kChunkBytes = 64 * 1024 * 1024;  // of packed operands at a time

// The weight's gradient is a product of the two images that the convolution connects: `small` has a pixel for each position of
// the kernel, `large` is what the kernel slides over. weight: [small's channels, large's channels, kH, kW].
template <class S>
struct Correlation {
  Image small, large;
  Window window;                    // of large
  int64_t line, plane, image_size;  // of large's planes (Packing::planes)
  int64_t extent;                   // of a row of small, padded
  int64_t rows;                     // large's channels times the taps
  int64_t blocks;                   // of small's channels
  std::vector<int64_t> taps;        // where a tap reads in a plane

  int64_t panel() const { return small.height * extent * tile_of<S>().columns; }  // of one image and block
};

template <class S>
Correlation<S> correlation_of(const Tensor& small, const Tensor& large, const Tensor& weight, const Convolution& conv) {
  const auto& tile = tile_of<S>();
  Correlation<S> c{image_of(small), image_of(large), {}, 0, 0, 0, 0, 0, 0, {}};
  const int64_t height = weight.size(2), width = weight.size(3), stride = conv.stride[1];
  c.extent = round_up(c.small.width, tile.step);
  c.window = {conv.padding[0], conv.padding[1], 0,
              (c.small.height - 1) * conv.stride[0] + (height - 1) * conv.dilation[0] + 1,
              (c.small.width - 1) * stride + (width - 1) * conv.dilation[1] + 1};
  c.line = (width - 1) * conv.dilation[1] / stride + c.extent;
  c.plane = c.window.height * stride * c.line;
  c.image_size = c.large.channels * c.plane;
  c.rows = c.large.channels * height * width;
  c.blocks = divide_up(c.small.channels, tile.columns);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int64_t right = x * conv.dilation[1];
      c.taps.push_back((y * conv.dilation[0] * stride + right % stride) * c.line + right / stride);
    }
  }
  return c;
}

// Adds the products of some images to sums: [blocks][tiles][rows][columns].
template <class T, class S>
void correlate(const Correlation<S>& c, const Tensor& small, const Tensor& large, int64_t row_stride, int64_t stride,
               int64_t first, int64_t images, Compute<S>* sums) {
  const auto& tile = tile_of<S>();
  S* const left = scratch<S, 2>(images * c.image_size);
  S* const right = scratch<S, 3>(c.blocks * images * c.panel());
  torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> segments(c.small.height);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = first + i;
      packing<T, S>().planes(data<T>(large) + image * large.stride(0), c.large, c.window, stride, c.line,
                             images * c.plane, left + i * c.plane);
      for (int64_t y = 0; y < c.small.height; ++y) segments[y] = image * small.stride(0) + y * c.small.row_stride;
      for (int64_t block = 0; block < c.blocks; ++block) {
        const int64_t channel = block * tile.columns;
        packing<T, S>().columns(data<T>(small) + channel * c.small.channel_stride, segments.data(), segments.size(),
                                c.small.width, c.small.pixel_stride,
                                std::min<int64_t>(tile.columns, c.small.channels - channel), c.small.channel_stride,
                                c.extent, tile.columns, tile.step, right + (block * images + i) * c.panel());
      }
    }
  });

  // Groups of images whose right operands, and the planes that a tile reads, stay in cache; tiles of them go to threads.
  constexpr int64_t kTilesAtATime = 8;
  const int64_t tiles = divide_up(c.rows, tile.rows), units = divide_up(tiles, kTilesAtATime);
  const int64_t group = std::max<int64_t>(1, kPackedBytes / 2 / static_cast<int64_t>(c.panel() * sizeof(S)));
  torch::stable::parallel_for(0, c.blocks * units, 1, [&](int64_t begin, int64_t end) {
    const InUse<S> in_use(tile);
    std::vector<int64_t> segments, reads(tile.rows);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = unit / units, from = unit % units * kTilesAtATime;
      for (int64_t image = 0; image < images; image += group) {
        segments.clear();
        for (int64_t i = image; i < std::min(images, image + group); ++i) {
          for (int64_t y = 0; y < c.small.height; ++y) {
            segments.push_back(i * c.plane + y * row_stride * stride * c.line);
          }
        }
        for (int64_t t = from; t < std::min(tiles, from + kTilesAtATime); ++t) {
          for (int64_t m = 0; m < tile.rows; ++m) {
            const int64_t row = std::min(t * tile.rows + m, c.rows - 1), taps = static_cast<int64_t>(c.taps.size());
            reads[m] = row / taps * images * c.plane + c.taps[row % taps];
          }
          tile.gemm(left, reads.data(), segments.data(), segments.size(), c.extent,
                    right + (block * images + image) * c.panel(), true,
                    sums + (block * tiles + t) * tile.rows * tile.columns);
        }
      }
    }
  });
}

template <class T, class S>
void wgrad_typed(const Tensor& small, const Tensor& large, const Convolution& conv, const Tensor& grad_weight) {
  using A = Compute<S>;
  const auto& tile = tile_of<S>();
  const auto c = correlation_of<S>(small, large, grad_weight, conv);
  const int64_t tiles = divide_up(c.rows, tile.rows), size = c.blocks * tiles * tile.rows * tile.columns;
  A* const sums = scratch<A, 4>(size);
  std::fill_n(sums, size, A(0));
  const int64_t bytes = (c.image_size + c.blocks * c.panel()) * static_cast<int64_t>(sizeof(S));
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / bytes), batch = small.size(0);
  for (int64_t first = 0; first < batch; first += chunk) {
    correlate<T, S>(c, small, large, conv.stride[0], conv.stride[1], first, std::min(chunk, batch - first), sums);
  }
  // Where a row of sums goes: rows are channels times taps.
  const int64_t taps = static_cast<int64_t>(c.taps.size()), width = grad_weight.size(3), outer = grad_weight.stride(0);
  std::vector<int64_t> places(c.rows);
  for (int64_t row = 0; row < c.rows; ++row) {
    const int64_t tap = row % taps;
    places[row] = row / taps * grad_weight.stride(1) + tap / width * grad_weight.stride(2) + tap % width * grad_weight.stride(3);
  }
  dispatch_dtype("conv", grad_weight.scalar_type(), [&](auto tag) {
    using G = decltype(tag);
    G* const to = mutable_data<G>(grad_weight);
    torch::stable::parallel_for(0, c.blocks * tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {  // a tile of sums after the other, as they lie
        const int64_t channel = part / tiles * tile.columns, first = part % tiles * tile.rows;
        const A* const from = sums + part * tile.rows * tile.columns;
        for (int64_t n = 0; n < std::min<int64_t>(tile.columns, c.small.channels - channel); ++n) {
          for (int64_t row = 0; row < std::min<int64_t>(tile.rows, c.rows - first); ++row) {
            to[(channel + n) * outer + places[first + row]] =
                from_compute<G>(static_cast<Compute<G>>(from[row * tile.columns + n]));
          }
        }
      }
    });
  });
}

}  // namespace

void wgrad(Engine engine, const Pending& pending, const Tensor& grad_output, const Convolution& conv,
           const Tensor& grad_weight) {
  if (engine == Engine::winograd) return winograd_wgrad(pending, grad_output, conv, grad_weight);
  const Tensor& input = pending.input;
  if (engine == Engine::matmul) return matmul_wgrad(input, grad_output, conv, grad_weight);
  dispatch_packed("conv", input.scalar_type(), [&](auto element, auto packed) {
    using T = decltype(element);
    using S = decltype(packed);
    const Tensor &small = conv.transposed ? input : grad_output, &large = conv.transposed ? grad_output : input;
    wgrad_typed<T, S>(small, large, conv, grad_weight);
  });
}

}  // namespace fastgan::conv

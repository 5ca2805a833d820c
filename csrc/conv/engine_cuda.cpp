// Which convolutions on a GPU are ours, and what their kernels do in passing.
//
// The rule gives all of them to aten: our kernels are checked on an emulator (tests/cuda/), but no run on a device is recorded,
// and a kernel without one is never the default. FASTGAN_ENGINE=native takes ours, which `make gpu-check` proves and times.
#include "common/checks.h"
#include "conv/engine.h"

namespace fastgan::conv {
namespace {

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// The kernels count pixels, taps times channels, and chunks of a padded weight in 32 bits, and have a bit for each of a pixel's taps
// along an axis. Chunks of channels lie along a grid's y. A weight is packed for each phase as for the one with the most taps.
bool fits(const Outline& input, const Tensor& weight, const Convolution& conv) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 4096, kMostStride = 64, kPadding = 32, kMostTaps = 15, kMostChannels = 1 << 16;
  int64_t pixels = input.size(0), packed = weight.size(0) * weight.size(1);
  for (int dim = 0; dim < 2; ++dim) {
    const int64_t size = input.size(2 + dim), kernel = weight.size(2 + dim), stride = conv.stride[dim];
    if (kernel > kMostTaps || stride > kMostStride || size > kMost / kMostStride || weight.size(dim) > kMostChannels) return false;
    pixels *= conv.transposed ? size * stride + conv.dilation[dim] * kernel + conv.output_padding[dim] : size + 2 * conv.padding[dim];
    packed *= tiles(kernel, stride) * stride;
    if (pixels > kMost) return false;
  }
  return packed <= kMost / kPadding;
}

// Towards an image of few channels the direct kernel reads the smaller one once for every tap, which takes longer, by arithmetic,
// than to write products of few columns and to read these.
bool scatter_suits(Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv) {
  constexpr int64_t kFewChannels = 8, kManyChannels = 32, kManyTaps = 4, kMostProducts = int64_t{1} << 26;
  const int64_t taps = weight.size(2) * weight.size(3), columns = taps * weight.size(1);
  return pass != Pass::wgrad && conv.transposed != (pass == Pass::dgrad) && weight.size(1) <= kFewChannels &&
         weight.size(0) >= kManyChannels && taps >= kManyTaps && smaller_pixels(input, weight, conv) * columns <= kMostProducts;
}

// How often the kernels read each element of a convolution's input: for every tap that meets it, in every tile.
int64_t reads_of_input(Engine engine, Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv) {
  const int64_t taps = weight.size(2) * weight.size(3), channels = weight.size(conv.transposed ? 1 : 0);
  if (engine == Engine::scatter) return tiles(taps * channels, 64);
  if (pass == Pass::wgrad && conv.transposed) return tiles(taps * tiles(channels, 8) * 8, 128);
  const int64_t pixels = input.size(0) * input.size(2) * input.size(3), meetings = smaller_pixels(input, weight, conv) * taps;
  return tiles(meetings, pixels) * tiles(channels, 128);
}

}  // namespace

Engine engine_for(Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv) {
  if (!is_forced() || !is_possible(input, weight, conv) || !fits(input, weight, conv)) return Engine::aten;
  return scatter_suits(pass, input, weight, conv) ? Engine::scatter : Engine::direct;
}

// By arithmetic, not yet measured: an operand's normalise + activate take threads two to three times as long as its product takes
// tensor cores, and are done again each time that it is read; a pass before writes every element once. So they are done on load
// where every element is read once, as in a 4x4 convolution to one pixel. FASTGAN_ON_LOAD=always or never is there to measure.
bool is_fused(Engine engine, Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv) {
  static const std::string wish = [] {
    const char* const given = std::getenv("FASTGAN_ON_LOAD");
    return std::string(given ? given : "");
  }();
  if (engine == Engine::aten || wish == "never") return false;
  return wish == "always" || reads_of_input(engine, pass, input, weight, conv) <= 1;
}

bool is_gradient_fused(Engine, const Pending&) { return false; }

// Activations whose gradient is a sign's, of what can be read 16 bytes at a time.
bool is_turned(Engine engine, const Tensor& made, int64_t activation) {
  const auto kind = static_cast<Activation>(activation);
  const bool in_chunks = is_channels_last(made) && made.size(1) % 8 == 0 && reinterpret_cast<uintptr_t>(made.data_ptr()) % 16 == 0;
  return engine == Engine::direct && in_chunks && (kind == Activation::relu || kind == Activation::leaky_relu);
}

bool takes_float32_weight(Engine engine) { return engine != Engine::aten; }

std::string engine_name(const char* pass, Engine engine, ScalarType dtype) {
  if (engine == Engine::aten) return std::string(pass) + "_aten";
  return std::string(pass) + (engine == Engine::scatter ? "_scatter_" : "_") + dtype_name(dtype) + "_cuda";
}

}  // namespace fastgan::conv

// Which convolutions on a GPU are ours.
//
// The rule gives all of them to aten: our kernels are checked on an emulator (tests/cuda/), but no run on a device is recorded,
// and a kernel without one is never the default. FASTGAN_ENGINE=native takes ours, which `make gpu-check` proves and times.
#include "common/checks.h"
#include "conv/engine.h"

namespace fastgan::conv {
namespace {

// The kernels count pixels, and taps times channels, in 32 bits, and have a bit for each of a pixel's taps along an axis.
bool fits(const Tensor& input, const Tensor& weight, const Convolution& conv) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 4096, kMostStride = 64, kPadding = 8, kMostTaps = 16;
  int64_t pixels = input.size(0);
  for (int dim = 0; dim < 2; ++dim) {
    const int64_t size = input.size(2 + dim), reach = conv.dilation[dim] * weight.size(2 + dim);
    if (weight.size(2 + dim) > kMostTaps || conv.stride[dim] > kMostStride || size > kMost / kMostStride) return false;
    pixels *= conv.transposed ? size * conv.stride[dim] + reach + conv.output_padding[dim] : size + 2 * conv.padding[dim];
    if (pixels > kMost) return false;
  }
  return weight.numel() <= kMost / kPadding;
}

}  // namespace

Engine engine_for(Pass, const Tensor& input, const Tensor& weight, const Convolution& conv) {
  return is_forced() && is_possible(input, weight, conv) && fits(input, weight, conv) ? Engine::direct : Engine::aten;
}

std::string engine_name(const char* pass, Engine engine, const Tensor& input) {
  if (engine == Engine::aten) return std::string(pass) + "_aten";
  return std::string(pass) + "_" + dtype_name(input.scalar_type()) + "_cuda";
}

}  // namespace fastgan::conv

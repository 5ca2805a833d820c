#include "conv/engine.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/checks.h"
#include "common/dispatch.h"
#include "conv/pack.h"
#include "conv/tile.h"

namespace fastgan::conv {

FASTGAN_DECLARE_KERNELS(Tiles, tiles)

static bool uses_amx(ScalarType dtype) {
  return dtype == ScalarType::BFloat16 && cpu_isa() == Isa::amx && tile_amx.gemm;
}

const Tiles& tiles() {
  static const Tiles chosen = [] {
    Tiles chosen = FASTGAN_KERNELS_IN_USE(tiles);
    if (uses_amx(ScalarType::BFloat16)) chosen.bfloat16 = tile_amx;
    return chosen;
  }();
  return chosen;
}

#define FASTGAN_USE_PACKING(T, S)                         \
  using Packing_##T##_##S = Packing<T, S>;                \
  FASTGAN_DECLARE_KERNELS(Packing_##T##_##S, packing_##T##_##S) \
  template <>                                             \
  const Packing<T, S>& packing<T, S>() { return FASTGAN_KERNELS_IN_USE(packing_##T##_##S); }
FASTGAN_USE_PACKING(float, float)
FASTGAN_USE_PACKING(double, double)
FASTGAN_USE_PACKING(BFloat16, BFloat16)
FASTGAN_USE_PACKING(BFloat16, float)
FASTGAN_USE_PACKING(Half, float)

// The rule: aten, measured 1.1 times as fast at the layers of DCGAN-64 on a CPU with AVX512-BF16 (docs/performance.md).
// FASTGAN_ENGINE=native takes the engine wherever it can.
bool use_engine(Pass, const Tensor& input, const Tensor& weight, const Convolution& conv) {
  static const bool is_forced = [] {
    const char* const wish = std::getenv("FASTGAN_ENGINE");
    return wish && std::string(wish) == "native";
  }();
  if (!is_forced || conv.groups != 1 || input.numel() == 0 || weight.numel() == 0) return false;
  // Nobody means more; and with less no size that the engine multiplies out can overflow.
  constexpr int64_t kMost = 4096;
  for (const auto* values : {&conv.stride, &conv.padding, &conv.dilation}) {
    if (std::max((*values)[0], (*values)[1]) > kMost) return false;
  }
  return true;
}

std::string engine_name(const char* pass, const Tensor& input) {
  const auto dtype = input.scalar_type();
  return std::string(pass) + "_" + dtype_name(dtype) + "_" + (uses_amx(dtype) ? isa_name(Isa::amx) : kernel_isa_name());
}

}  // namespace fastgan::conv

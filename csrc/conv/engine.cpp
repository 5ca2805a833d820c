#include "conv/engine.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/checks.h"
#include "common/dispatch.h"
#include "conv/exports.h"
#include "conv/pack.h"
#include "conv/tile.h"

namespace fastgan::conv {

FASTGAN_DECLARE_KERNELS(Tiles, tiles)
const Tiles& tiles() { return FASTGAN_KERNELS_IN_USE(tiles); }

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

namespace {
bool is_forced() {
  static const bool is = [] {
    const char* const wish = std::getenv("FASTGAN_ENGINE");
    return wish && std::string(wish) == "native";
  }();
  return is;
}
}  // namespace

// The rule: aten, measured 1.1 times as fast at the layers of DCGAN-64 on a CPU with AVX512-BF16 (docs/performance.md).
// FASTGAN_ENGINE=native takes the engine wherever it can.
bool use_engine(Pass, const Tensor& input, const Tensor& weight, const Convolution& conv) {
  if (!is_forced() || conv.groups != 1 || input.numel() == 0 || weight.numel() == 0) return false;
  // Nobody means more; and with less no size that the engine multiplies out can overflow.
  constexpr int64_t kMost = 4096;
  for (const auto* values : {&conv.stride, &conv.padding, &conv.dilation}) {
    if (std::max((*values)[0], (*values)[1]) > kMost) return false;
  }
  return true;
}

std::string engine_name(const char* pass, const Tensor& input) {
  return std::string(pass) + "_" + dtype_name(input.scalar_type()) + "_" + kernel_isa_name();
}

}  // namespace fastgan::conv

// use_engine in words: keep the two alike.
void fastgan_visit_engine_rules(fastgan::conv::EngineRuleVisitor visit, void* context) {
  const std::string ours = std::string("fastgan's ") + fastgan::kernel_isa_name();
  if (!fastgan::conv::is_forced()) {
    visit(context, "torch's", "every convolution");
  } else {
    visit(context, ours.c_str(), "those without groups, because FASTGAN_ENGINE=native");
    visit(context, "torch's", "every other convolution");
  }
}

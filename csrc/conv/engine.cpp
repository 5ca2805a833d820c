#include "conv/engine.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/checks.h"
#include "common/dispatch.h"
#include "conv/pack.h"
#include "conv/tile.h"
#include "conv/winograd.h"

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

// Whether oneDNN, which is what aten calls, multiplies this dtype as such. It runs others through a reference that takes ten
// to a hundred times as long as float32.
bool aten_is_fast(ScalarType dtype) {
  if (dtype == ScalarType::BFloat16) return cpu_features().avx512;
  return dtype != ScalarType::Half || cpu_features().avx512_fp16;
}

}  // namespace

// The rule, from docs/performance.md's measurements on CPUs with AVX512-BF16 and without:
//   kernels of twice the stride, float32    Winograd's: 1.3 to 2.7 times as fast as aten's, which multiplies bfloat16 no
//     (bfloat16 where that is no faster)    faster than float32 without instructions for it
//   dtypes that aten has no kernels for     ours: 3 to 100 times as fast
//   all else                                aten's: 1.1 times as fast as our direct one
Engine engine_for(Pass, const Tensor& input, const Tensor& weight, const Convolution& conv) {
  if (conv.groups != 1 || input.numel() == 0 || weight.numel() == 0) return Engine::aten;
  // Nobody means more; and with less no size that the engine multiplies out can overflow.
  constexpr int64_t kMost = 4096;
  for (const auto* values : {&conv.stride, &conv.padding, &conv.dilation}) {
    if (std::max((*values)[0], (*values)[1]) > kMost) return Engine::aten;
  }
  const auto dtype = input.scalar_type();
  const bool slow = cpu_isa() >= Isa::avx2 && !aten_is_fast(dtype);
  const bool winograd = winograd_suits(input, weight, conv);
  if (is_forced() || slow) return winograd ? Engine::winograd : Engine::direct;
  const bool pays = dtype == ScalarType::Float || (dtype == ScalarType::BFloat16 && !cpu_features().avx512_bf16);
  return winograd && pays && cpu_isa() >= Isa::avx2 ? Engine::winograd : Engine::aten;
}

std::string engine_name(const char* pass, Engine engine, const Tensor& input) {
  if (engine == Engine::aten) return std::string(pass) + "_aten";
  return std::string(pass) + (engine == Engine::winograd ? "_winograd_" : "_") + dtype_name(input.scalar_type()) + "_" +
         kernel_isa_name();
}

}  // namespace fastgan::conv

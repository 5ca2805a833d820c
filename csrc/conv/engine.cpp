#include "conv/engine.h"

#include <string>

#include "common/checks.h"
#include "common/dispatch.h"
#include "conv/exports.h"
#include "conv/matmul.h"
#include "conv/pack.h"
#include "conv/scatter.h"
#include "conv/tile.h"
#include "conv/winograd.h"

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
FASTGAN_USE_PACKING(float, BFloat16)
FASTGAN_USE_PACKING(Half, float)

namespace {

// Whether oneDNN, which is what aten calls, multiplies this dtype as such. It runs others through a reference that takes ten
// to a hundred times as long as float32.
bool aten_is_fast(ScalarType dtype) {
  if (dtype == ScalarType::BFloat16) return cpu_features().avx512;
  return dtype != ScalarType::Half || cpu_features().avx512_fp16;
}

// The rule for a dtype: whether shapes that suit Winograd's filtering go to it, those that suit scatter to that, and all others
// to our direct kernels. From docs/performance.md's measurements on a CPU with AVX512-BF16 and, capped, with AVX2:
//   torch's matrix product takes a quarter of its convolution's time where the one is the other;
//   scatter takes 0.4 to 0.7 of aten's time in every dtype to images of few channels, and 0.3 to 0.9 of it from few pixels;
//   Winograd's takes 0.4 to 0.75 of aten's time in float32, and aten is no faster in a bfloat16 that the CPU does not multiply;
//   what aten has no kernels for it runs 3 to 100 times as long as ours;
//   all else is aten's, which takes 0.9 of the time of our direct kernels.
//   but for bfloat16 gradients of large weights, which Winograd's computes in 0.6 of aten's time, in float32;
//   and but for bfloat16 on a CPU with AMX, where our direct kernels take 0.3 to 0.9 of aten's time, and 0.15 to 0.7 for the
//   weight's gradient, at 8 images and at 64. (At 64 channels and 64 images a forward takes as long as aten's, or a sixth more.)
//   There they also take 0.25 to 0.8 of the time of torch's matrix product where that is the convolution.
struct Rule {
  bool winograd, scatter, direct;
  bool matmul;          // torch's
  bool winograd_wgrad;  // for weights from kLargeWeight elements on
};
constexpr int64_t kLargeWeight = 1 << 21;  // of 256 by 512 channels

Rule rule_for(ScalarType dtype) {
  const bool has_vectors = cpu_isa() >= Isa::avx2;
  const bool direct = is_forced() || uses_amx(dtype) || (has_vectors && !aten_is_fast(dtype));
  const bool is_bfloat16 = dtype == ScalarType::BFloat16, has_own_tile = is_bfloat16 && tiles().bfloat16.gemm;
  const bool as_float32 = dtype == ScalarType::Float || (is_bfloat16 && !cpu_features().avx512_bf16);
  return {dtype != ScalarType::Double && !has_own_tile && (direct || (has_vectors && as_float32)), has_vectors, direct,
          !is_forced() && aten_is_fast(dtype) && !uses_amx(dtype), is_bfloat16 && cpu_isa() == Isa::avx512 && !is_forced()};
}

}  // namespace

Engine engine_for(Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv) {
  if (!is_possible(input, weight, conv)) return Engine::aten;
  const Rule rule = rule_for(input.scalar_type());
  const bool large_gradient = rule.winograd_wgrad && pass == Pass::wgrad && weight.numel() >= kLargeWeight;
  if ((rule.winograd || large_gradient) && winograd_suits(input, weight, conv)) return Engine::winograd;
  if (rule.matmul && matmul_suits(input, weight, conv)) return Engine::matmul;
  if (rule.scatter && pass != Pass::wgrad && scatter_suits(input, weight, conv, pass == Pass::dgrad)) return Engine::scatter;
  return rule.direct ? Engine::direct : Engine::aten;
}

// Whether pixels are packed in their own dtype (prologue.h).
static bool packs_own_dtype(Engine engine, ScalarType dtype) {
  const bool packs_float = dtype == ScalarType::Float || dtype == ScalarType::Double;
  if (engine == Engine::winograd) return packs_float;
  const bool packs_own = packs_float || (dtype == ScalarType::BFloat16 && tiles().bfloat16.gemm);
  return packs_own && (engine == Engine::direct || engine == Engine::scatter);
}

bool is_fused(Engine engine, Pass, const Outline& input, const Tensor&, const Convolution&) {
  return packs_own_dtype(engine, input.scalar_type());
}

bool is_gradient_fused(Engine engine, const Pending& grad) {
  const bool packs_pixels = engine == Engine::direct || engine == Engine::scatter;
  return grad.output && packs_pixels && packs_own_dtype(engine, grad.input.scalar_type()) && is_channels_last(grad.input) && is_channels_last(*grad.output);
}
bool is_turned(Engine, const Tensor&, int64_t) { return false; }

void pack(std::vector<Planned>&) {}

bool takes_float32_weight(Engine engine) { return engine == Engine::direct; }

std::string engine_name(const char* pass, Engine engine, ScalarType dtype) {
  static constexpr const char* kNames[] = {"_aten", "_", "_winograd_", "_scatter_", "_aten_matmul"};  // in the order of Engine
  const std::string name = pass + std::string(kNames[static_cast<int>(engine)]);
  if (engine == Engine::aten || engine == Engine::matmul) return name;
  const bool is_amx = uses_amx(dtype) && engine != Engine::winograd;
  return name + dtype_name(dtype) + "_" + (is_amx ? isa_name(Isa::amx) : kernel_isa_name());
}

}  // namespace fastgan::conv

// The rule in words.
void fastgan_visit_engine_rules(fastgan::conv::EngineRuleVisitor visit, void* context) {
  using namespace fastgan;
  const std::string isa = kernel_isa_name();
  for (const auto dtype : {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half, ScalarType::Double}) {
    const auto rule = conv::rule_for(dtype);
    const std::string name = dtype_name(dtype), own = conv::uses_amx(dtype) ? isa_name(Isa::amx) : isa;
    if (rule.winograd) {
      visit(context, ("fastgan's winograd, " + isa).c_str(),
            (name + ": kernels of twice the stride, from 32 channels and 16 pixels a batch on").c_str());
    }
    if (rule.winograd_wgrad && !rule.winograd) {
      visit(context, ("fastgan's winograd, " + isa).c_str(), (name + ": weight gradients from 256 by 512 channels on").c_str());
    }
    if (rule.scatter) {
      visit(context, ("fastgan's scatter, " + own).c_str(),
            (name + ": to larger images of up to 4 channels, or from few pixels").c_str());
    }
    if (rule.matmul) {
      visit(context, "torch's matrix product", (name + ": between one pixel and as many as the kernel has").c_str());
    }
    const bool is_part = rule.winograd || rule.winograd_wgrad || rule.scatter || rule.matmul;
    const std::string others = name + (is_part ? ": all others" : ": all") +
                               (conv::is_forced() ? " without groups, because FASTGAN_ENGINE=native" : "");
    visit(context, rule.direct ? ("fastgan's direct, " + own).c_str() : "torch's", others.c_str());
  }
}

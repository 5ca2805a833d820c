// The engine has no CUDA kernels yet: every convolution on a GPU is aten's.
#include "common/checks.h"
#include "conv/engine.h"

namespace fastgan::conv {

Engine engine_for(Pass, const Tensor&, const Tensor&, const Convolution&) { return Engine::aten; }
std::string engine_name(const char* pass, Engine, const Tensor&) { return std::string(pass) + "_aten"; }
void gather(Engine, const Tensor&, const Tensor&, const Convolution&, bool, const Epilogue&, const Tensor&) {
  fail("conv", "there is no CUDA kernel of the convolution engine.");
}
void wgrad(Engine, const Tensor&, const Tensor&, const Convolution&, const Tensor&) {
  fail("conv", "there is no CUDA kernel of the convolution engine.");
}

}  // namespace fastgan::conv

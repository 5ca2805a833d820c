// The engine has no CUDA kernels yet: every convolution on a GPU is aten's.
#include "common/checks.h"
#include "conv/engine.h"

namespace fastgan::conv {

bool use_engine(Pass, const Tensor&, const Tensor&, const Convolution&) { return false; }
std::string engine_name(const char* pass, const Tensor&) { return pass; }
void gather(const Tensor&, const Tensor&, const Convolution&, bool, const Epilogue&, const Tensor&) {
  fail("conv", "there is no CUDA kernel of the convolution engine.");
}
void wgrad(const Tensor&, const Tensor&, const Convolution&, const Tensor&) {
  fail("conv", "there is no CUDA kernel of the convolution engine.");
}

}  // namespace fastgan::conv

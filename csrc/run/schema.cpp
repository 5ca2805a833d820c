#include "common/tensor.h"

// blocks, factors: of each block the integers and reals that run.h lists. allow_tf32: whether products of float32 may be made of operands
// rounded to 10 bits, which a GPU's tensor cores take.
STABLE_TORCH_LIBRARY_FRAGMENT(fastgan, m) {
  m.def(
      "_run(Tensor input, Tensor?[] parameters, Tensor(a!)?[] running, int[] blocks, float[] factors, int batch_groups, "
      "bool keeps, bool allow_tf32=False) -> Tensor[]");
  m.def(
      "_run_functional(Tensor input, Tensor?[] parameters, Tensor?[] running, int[] blocks, float[] factors, int batch_groups, "
      "bool keeps, bool allow_tf32=False) -> Tensor[]");
  m.def(
      "_run_backward(Tensor grad_output, Tensor input, Tensor?[] parameters, Tensor?[] kept, int[] blocks, float[] factors, "
      "bool[] needs, bool allow_tf32=False) -> Tensor[]");
  m.def("_run_work(Tensor input, Tensor?[] parameters, int[] blocks, float[] factors) -> int[]");
}

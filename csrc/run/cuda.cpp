// No device code here: the convolution's is in csrc/conv/, and batch_norm_act has the kernels around it.
#include "run/run.h"

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("_run", TORCH_BOX(&fastgan::run::forward_op));
  m.impl("_run_functional", TORCH_BOX(&fastgan::run::functional_op));
  m.impl("_run_backward", TORCH_BOX(&fastgan::run::backward_op));
  m.impl("_run_work", TORCH_BOX(&fastgan::run::work_op));
}

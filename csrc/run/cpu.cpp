#include "run/run.h"

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("_run", TORCH_BOX(&fastgan::run::forward_op));
  m.impl("_run_functional", TORCH_BOX(&fastgan::run::functional_op));
  m.impl("_run_backward", TORCH_BOX(&fastgan::run::backward_op));
  m.impl("_run_work", TORCH_BOX(&fastgan::run::work_op));
}

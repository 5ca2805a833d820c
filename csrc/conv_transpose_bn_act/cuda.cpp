// No device code here: the convolution's is in csrc/conv/, and batch_norm_act has the kernels around it.
#include "conv_transpose_bn_act/ops.h"

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("_conv_transpose_bn_act", TORCH_BOX(&fastgan::conv_transpose_bn_act::forward));
  m.impl("_conv_transpose_bn_act_backward", TORCH_BOX(&fastgan::conv_transpose_bn_act::backward));
}

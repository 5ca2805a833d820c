// Convolutions that are one matrix product: the smaller image is one pixel, the larger one as large as the kernel. DCGAN's
// ends are such, 100 channels to 512 of 4x4 and 512 of 4x4 to one. torch's product takes a quarter of the time that its
// convolution takes there, and reads the weight as it lies.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

bool matmul_suits(const Tensor& input, const Tensor& weight, const Convolution& conv);

// As `gather` and `wgrad` of engine.h, but for the activation.
void matmul_gather(const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward,
                   const OptionalTensor& bias, const Tensor& output);
void matmul_wgrad(const Tensor& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight);

}  // namespace fastgan::conv

// Convolutions that are one matrix product: the smaller image is one pixel, the larger one as large as the kernel. DCGAN's
// ends are such, 100 channels to 512 of 4x4 and 512 of 4x4 to one. torch's product takes a quarter of the time that its
// convolution takes there, and reads the weight as it lies.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

bool matmul_suits(const Outline& input, const Tensor& weight, const Convolution& conv);

MemoryFormat format_of(const Tensor& tensor);
// [N, ...] as [N, all the rest], in the order of memory that `format` means; a view where the tensor has that order.
Tensor rows_of(const Tensor& tensor, MemoryFormat format);
// The bias in each column of such a row: as it is, or in each pixel of `output`.
Tensor repeated(const Tensor& bias, const Tensor& output, MemoryFormat format);

// As `gather` and `wgrad` of engine.h, but for the activation.
void matmul_gather(const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward,
                   const OptionalTensor& bias, const Tensor& output);
void matmul_wgrad(const Tensor& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight);

}  // namespace fastgan::conv

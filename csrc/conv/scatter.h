// Towards a larger image: products first, and then their sums.
//
// All taps of a block of channels lie side by side in panels, each pixel of the smaller image is multiplied once, and what it adds
// to the pixels of the larger image is summed afterwards. It suits
// - images of few channels, which the direct way would pad to a panel: of 3 channels nine tenths of it would be padding;
// - few pixels, for which the time is the weight's: here it is read once, in the order that it lies in.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

// Whether this is such a gather, and here in less time (see engine.h, as for what follows).
bool scatter_suits(const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward);

void scatter(const Pending& input, const Tensor& weight, const Convolution& conv, const Epilogue& epilogue,
             const Tensor& output);

}  // namespace fastgan::conv

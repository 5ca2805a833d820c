// Towards a larger image: products first, and then their sums.
//
// All taps of a block of channels lie side by side in panels, each pixel of the smaller image is multiplied once, and what it adds
// to the pixels of the larger image is summed afterwards. It suits
// - images of few channels, which the direct way would pad to a panel: of 3 channels nine tenths of it would be padding;
// - few pixels, for which the time is the weight's: here it is read once, in the order that it lies in.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

// Whether the gather goes to the larger image, and takes less time here. The arguments are engine.h's.
bool scatter_suits(const Outline& input, const Tensor& weight, const Convolution& conv, bool backward);

void scatter(const Pending& input, const Tensor& weight, const Convolution& conv, const Epilogue& epilogue,
             const Tensor& output);

}  // namespace fastgan::conv

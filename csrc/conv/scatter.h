// Towards a larger image of few channels: products first, and then their sums.
//
// The direct way pads the output's channels to a panel: of 3 channels, nine tenths of it would be padding. Here all taps of all
// channels lie side by side in panels, 48 columns for 4x4 taps of 3 channels, and each pixel of the smaller image is multiplied
// once; what it adds to the pixels of the larger image is summed afterwards.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

// Whether this is such a gather (see engine.h, as for what follows).
bool scatter_suits(const Tensor& weight, const Convolution& conv, bool backward);

void scatter(const Tensor& input, const Tensor& weight, const Convolution& conv, const Epilogue& epilogue,
             const Tensor& output);

}  // namespace fastgan::conv

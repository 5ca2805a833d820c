// Winograd's minimal filtering for kernels that are twice their stride: the 4x4 kernels of stride 2 that DCGAN is made of.
//
// Such a convolution is a sum of stride x stride convolutions of two taps a dimension and stride 1 (one for each phase of the
// larger image), and a transposed one is as many side by side. F(m, 2) computes m outputs of two taps with m + 1
// multiplications instead of 2m. With B, G, A for the points of winograd_kernels.cpp, in each dimension:
//
//   m outputs            A' [(G taps) * (B' inputs)]
//   gradient of taps     G' [(A grads) * (B' inputs)]
//
// In two dimensions m = 4 takes 25 multiplications where 64 were. Each of the (m + 1)^2 products is a matrix product over
// channels (or over tiles, for the gradient of the weight) on the engine's micro-kernel.
//
// Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
// (2016). Operands are float32 whatever the tensors' dtype: transformed in a narrower one, they would lose what it rounds off.
#pragma once

#include "conv/engine.h"

namespace fastgan::conv {

inline constexpr int64_t kMostStride = 4;  // beyond it the phases of small images are nothing but padding

// Whether F(m, 2) computes this convolution, and in less time than the direct way.
bool winograd_suits(const Outline& input, const Tensor& weight, const Convolution& conv);

// As `gather` and `wgrad` of engine.h.
void winograd_gather(const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                     const Epilogue& epilogue, const Tensor& output);
void winograd_wgrad(const Pending& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight);

// ---- for winograd_*.cpp -----------------------------------------------------------------------------------------------

// Applies one of the matrices to both sides of a square of pixels. A pixel is `panels` panels of `columns` floats. Distances
// are in elements: between rows, pixels of a row, and panels.
using Transform = void (*)(const float* in, int64_t in_row, int64_t in_pixel, int64_t in_panel, int64_t panels,
                           int64_t columns, float* out, int64_t out_row, int64_t out_pixel, int64_t out_panel);

struct Winograd {
  int64_t outputs = 0;  // m
  Transform inputs;     // B': m + 1 to m + 1
  Transform taps;       // G: 2 to m + 1
  Transform products;   // A': m + 1 to m
  Transform grads;      // A: m to m + 1
  Transform tap_grads;  // G': m + 1 to 2
};

inline constexpr int64_t kLeastOutputs = 2, kMostOutputs = 4, kMostPhases = kMostStride * kMostStride;

struct Winograds {
  Winograd of[kMostOutputs - kLeastOutputs + 1];  // F(2, 2), F(3, 2), F(4, 2)
};

const Winograds& winograds();  // for the instruction set in use

}  // namespace fastgan::conv

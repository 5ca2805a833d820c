// The inner loops of batch_norm_act, compiled once for each instruction set (batch_norm_act_kernels.cpp).
//
// All work on one contiguous run of n elements whose per-channel parameters repeat with period P: P is a number of
// channels tiled up to whole vectors for channels-last rows, or one parameter repeated for a plane. So one set of loops
// serves both memory formats and every channel count. P is a multiple of kPeriod.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/element.h"

namespace fastgan::batch_norm_act {

inline constexpr int kPeriod = 32;  // elements of the longest step (common/vec.h): bfloat16 with AVX-512

template <class A>
struct Parameters {  // each [P]
  const A* mean;
  const A* scale;
  const A* shift;
  A negative_slope;
};

template <class T>
struct Kernels {
  using A = Compute<T>;
  // Of the elements at p modulo P in the n / P whole rows: origin[p] + mean[p] is their mean, in two parts to be exact, and
  // square[p] = sum of (x - their mean)^2.
  void (*moments)(const T* x, int64_t n, int64_t period, A* origin, A* mean, A* square);
  // y = activation((x - mean) * scale + shift); y may be x.
  void (*forward[kActivations])(const T* x, T* y, int64_t n, int64_t period, const Parameters<A>&);
  // sum[p] = sum of g, product[p] = sum of g (x - mean).
  void (*backward_sums[kActivations])(const T* grad, const T* x, int64_t n, int64_t period, const Parameters<A>&,
                                      A* sum, A* product);
  // grad_x = scale * g - offset[p] - slope[p] * (x - mean)
  void (*backward[kActivations])(const T* grad, const T* x, T* grad_x, int64_t n, int64_t period,
                                 const Parameters<A>&, const A* offset, const A* slope);
  // Without batch-norm: y = activation(y) in place, and grad_x from y.
  void (*activate[kActivations])(T* y, int64_t n, A negative_slope);
  void (*activation_backward[kActivations])(const T* grad, const T* y, T* grad_x, int64_t n, A negative_slope);
};

template <class T>
const Kernels<T>& kernels();  // for the instruction set in use

}  // namespace fastgan::batch_norm_act

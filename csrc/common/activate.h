// Every activation, written once: for scalars on the device and for vectors on the host.
// Included by common/vec.h and common/cuda.cuh after they have declared tanh_of and sigmoid_of of their value types.
#pragma once

#include "common/activation.h"

#ifdef __CUDACC__
#define FASTGAN_HOST_DEVICE __host__ __device__
#else
#define FASTGAN_HOST_DEVICE
#endif

namespace fastgan {

// Written with the vector types' own operators, so that one text serves scalars and vectors; the comparisons are torch's
// own (a NaN passes through, and the gradient at zero is the negative side's).
template <Activation kind, class V>
FASTGAN_HOST_DEVICE inline V activate(V z, V slope) {
  if constexpr (kind == Activation::relu) {
    return z <= V{} ? V{} : z;
  } else if constexpr (kind == Activation::leaky_relu) {
    return z > V{} ? z : z * slope;
  } else if constexpr (kind == Activation::tanh) {
    return tanh_of(z);
  } else if constexpr (kind == Activation::sigmoid) {
    return sigmoid_of(z);
  } else {
    return z;
  }
}

// The gradient with respect to the pre-activation z, given z.
template <Activation kind, class V>
FASTGAN_HOST_DEVICE inline V activate_grad(V grad, V z, V slope) {
  if constexpr (kind == Activation::relu) {
    return z <= V{} ? V{} : grad;
  } else if constexpr (kind == Activation::leaky_relu) {
    return z > V{} ? grad : grad * slope;
  } else if constexpr (kind == Activation::tanh) {
    const V y = tanh_of(z);
    return grad * (V{} + 1 - y * y);
  } else if constexpr (kind == Activation::sigmoid) {
    const V y = sigmoid_of(z);
    return grad * (V{} + 1 - y) * y;
  } else {
    return grad;
  }
}

// The same given the output y = activation(z); for leaky_relu the slope must not be negative.
template <Activation kind, class V>
FASTGAN_HOST_DEVICE inline V activate_grad_from_output(V grad, V y, V slope) {
  if constexpr (kind == Activation::tanh) {
    return grad * (V{} + 1 - y * y);
  } else if constexpr (kind == Activation::sigmoid) {
    return grad * (V{} + 1 - y) * y;
  } else {
    return activate_grad<kind>(grad, y, slope);
  }
}

}  // namespace fastgan

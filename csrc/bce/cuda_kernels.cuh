// The kernels of bce.h's formulas.
#pragma once

#include "bce/bce.h"
#include "common/device.cuh"

namespace fastgan::bce {
namespace {

using namespace fastgan::cuda;

template <class T>
struct Inputs {
  const T *input, *target, *weight, *pos_weight;  // weights may be null
  bool from_logits;

  __device__ Element<Compute<T>> at(int64_t i) const {
    using A = Compute<T>;
    const A x = to_compute(input[i]), t = to_compute(target[i]);
    auto e = from_logits ? from_logit<A>(x, t, pos_weight ? to_compute(pos_weight[i]) : A(1)) : from_probability<A>(x, t);
    if (weight) {
      const A w = to_compute(weight[i]);
      e.loss *= w;
      e.grad *= w;
    }
    return e;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) elementwise_loss(Inputs<T> in, T* loss, int64_t n) {
  follow();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    loss[i] = from_compute<T>(in.at(i).loss);
  }
}

// Each block's sum over its own share; the share is fixed by n.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) partial_loss(Inputs<T> in, A* partial, int64_t n) {
  follow();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  A sum = 0, unused = 0;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) sum += in.at(i).loss;
  sum_over_block(sum, unused);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) finish_loss(const A* partial, int64_t blocks, A divisor, T* loss) {
  follow();
  A sum = 0, unused = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum_over_block(sum, unused);
  if (threadIdx.x == 0) *loss = from_compute<T>(sum / divisor);
}

template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) gradient(Inputs<T> in, const T* grad, bool one_grad, A divisor, T* to,
                                                     int64_t n) {
  follow();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    to[i] = from_compute<T>(to_compute(grad[one_grad ? 0 : i]) / divisor * in.at(i).grad);
  }
}

inline constexpr int kMostParts = 8;

template <class A>
struct Labels {
  A target[kMostParts], weight[kMostParts];
};

// One block a part of the batch: its loss, its gradient and its mean probability in one launch. A discriminator's output
// is a few numbers an image, so one block is enough.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) adversarial_parts(const T* input, A* grad, int64_t n, Labels<A> labels,
                                                              bool from_logits, A* losses, A* probability) {
  follow();
  const int64_t part = blockIdx.x;
  const A target = labels.target[part], scale = labels.weight[part] / static_cast<A>(n);
  A loss = 0, sum = 0;
  for (int64_t i = part * n + threadIdx.x; i < (part + 1) * n; i += kThreads) {
    const A x = to_compute(input[i]);
    const auto e = from_logits ? from_logit<A>(x, target, A(1)) : from_probability<A>(x, target);
    grad[i] = scale * e.grad;
    loss += e.loss;
    sum += e.probability;
  }
  sum_over_block(loss, sum);
  if (threadIdx.x == 0) {
    losses[part] = loss / static_cast<A>(n);
    probability[part] = sum / static_cast<A>(n);
  }
}

}  // namespace
}  // namespace fastgan::bce

// Binary cross-entropy of one element, its gradient and its probability, for host and device.
//
// From a probability p (torch's formula; the logarithms are clamped at -100, so p = 0 and p = 1 are finite):
//   loss = -(t max(log p, -100) + (1 - t) max(log(1 - p), -100))      d loss / d p = (p - t) / max(p (1 - p), 1e-12)
// From a logit x, with w the weight of the positive class:
//   loss = (1 - t) x + (1 + (w - 1) t) (log(1 + exp(-|x|)) + max(-x, 0))
//   d loss / d x = (1 + (w - 1) t) (sigmoid(x) - 1) + 1 - t,  which is sigmoid(x) - t for w = 1
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FASTGAN_HOST_DEVICE __host__ __device__
#else
#define FASTGAN_HOST_DEVICE
#endif

namespace fastgan::bce {

template <class A>
struct Element {
  A loss, grad, probability;
};

template <class A>
FASTGAN_HOST_DEVICE inline Element<A> from_probability(A p, A t) {
  const A floor = A(-100);
  const A log_p = std::log(p), log_q = std::log1p(-p);
  const A loss = (t - 1) * (log_q < floor ? floor : log_q) - t * (log_p < floor ? floor : log_p);
  const A spread = p * (1 - p);
  const A least = A(1e-12f);  // torch's constant is a float, in double too
  return {loss, (p - t) / (spread < least ? least : spread), p};
}

template <class A>
FASTGAN_HOST_DEVICE inline Element<A> from_logit(A x, A t, A positive_weight) {
  const A e = std::exp(-std::fabs(x));
  const A sigmoid = x < 0 ? e / (1 + e) : 1 / (1 + e);
  const A log_weight = 1 + (positive_weight - 1) * t;
  const A loss = (1 - t) * x + log_weight * (std::log1p(e) + (x < 0 ? -x : A(0)));
  // Written so that the common case, positive_weight = 1, is sigmoid - t without cancellation.
  return {loss, sigmoid - t + (log_weight - 1) * (sigmoid - 1), sigmoid};
}

}  // namespace fastgan::bce

// What is summed up of many values: mean and squared deviations, or two sums.
#pragma once

#include "common/device.cuh"

namespace fastgan::cuda {

// By Welford, "Note on a method for calculating corrected sums of squares", 1962, and merged by Chan, Golub and LeVeque, 1979:
// nothing cancels, wherever the values lie.
template <class A>
struct Moments {
  A count, mean, squares;

  __device__ void add(A value) { add(value, 1 / (count + 1)); }
  // share: one part of as many as there then are.
  __device__ void add(A value, A share) {
    count += 1;
    const A before = value - mean;
    mean += before * share;
    squares += before * (value - mean);
  }
  __device__ void merge(const Moments& other) {
    if (other.count == 0) return;
    const A distance = other.mean - mean, share = other.count / (count + other.count);
    mean += distance * share;
    squares += other.squares + distance * distance * count * share;
    count += other.count;
  }
};

template <class A>
struct Sums {
  A first, second;

  __device__ void merge(const Sums& other) {
    first += other.first;
    second += other.second;
  }
};

}  // namespace fastgan::cuda

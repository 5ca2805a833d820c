// Towards an image of few channels, on a GPU as scatter.h has it: all taps of a pixel of the smaller image are multiplied once, side by
// side, as a 1x1 convolution, and here what they add to a pixel of the larger image is summed.
#pragma once

#include "conv/cuda_index.cuh"

namespace fastgan::conv {
namespace {

constexpr int kMostScattered = 8;  // channels of the larger image

template <class T>
struct Scattered {
  using A = Compute<T>;
  const A* products;  // [images, y.input, x.input, columns]; tap and channel are column tap * of_tap + channel * of_channel
  int images, channels, columns, of_tap, of_channel;
  GatherAxis y, x;
  const T* bias;  // [channels] or null
  Activation activation;
  A negative_slope;
  T* output;
  int64_t strides[4];  // of its images, channels, rows and columns
};

// A thread a pixel of the larger image.
template <class T>
__global__ void __launch_bounds__(kThreads) add_taps(Scattered<T> job) {
  follow();
  using A = Compute<T>;
  const unsigned total = job.images * job.y.output * job.x.output, stride = gridDim.x * kThreads;
  for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < total; i += stride) {
    const int x = i % job.x.output, y = i / job.x.output % job.y.output;
    const int64_t image = i / job.x.output / job.y.output;
    const PhaseAxis along_y = job.y.phase(job.y.stride.rest(y)), along_x = job.x.phase(job.x.stride.rest(x));
    const int from_y = job.y.stride.into(y) + along_y.offset, from_x = job.x.stride.into(x) + along_x.offset;
    A sums[kMostScattered] = {};
    for (int tap_y = 0; tap_y < along_y.taps; ++tap_y) {
      const int row = from_y + tap_y * along_y.offset_step;
      if (!is_below(row, job.y.input)) continue;
      for (int tap_x = 0; tap_x < along_x.taps; ++tap_x) {
        const int column = from_x + tap_x * along_x.offset_step;
        if (!is_below(column, job.x.input)) continue;
        const int tap = (along_y.kernel + tap_y * along_y.kernel_step) * job.x.kernel + along_x.kernel + tap_x * along_x.kernel_step;
        const A* const from = job.products + ((image * job.y.input + row) * job.x.input + column) * job.columns + tap * job.of_tap;
#pragma unroll
        for (int channel = 0; channel < kMostScattered; ++channel) {
          if (channel < job.channels) sums[channel] += from[channel * job.of_channel];
        }
      }
    }
    T* const to = job.output + image * job.strides[0] + y * job.strides[2] + x * job.strides[3];
#pragma unroll
    for (int channel = 0; channel < kMostScattered; ++channel) {
      if (channel >= job.channels) continue;
      const A sum = job.bias ? sums[channel] + to_compute(job.bias[channel]) : sums[channel];
      to[channel * job.strides[1]] = from_compute<T>(activate(job.activation, sum, job.negative_slope));
    }
  }
}

}  // namespace
}  // namespace fastgan::conv

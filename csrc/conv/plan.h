// Where a convolution reads and writes: arithmetic only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fastgan::conv {

// One dimension of a gather: output position `start + step * q` reads input positions `read * q + offset` of its taps.
struct Tap {
  int64_t kernel;  // position in the kernel
  int64_t offset;  // from read * q, in the unpadded input; may be negative
};
struct Phase {
  int64_t start, count;
  std::vector<Tap> taps;  // by ascending offset

  bool is_consecutive() const {  // neighbours in the input
    for (size_t i = 1; i < taps.size(); ++i) {
      if (taps[i].offset != taps[i - 1].offset + 1) return false;
    }
    return true;
  }
};
struct Axis {
  int64_t step, read;
  std::vector<Phase> phases;
  int64_t before;  // zeros needed before the input's first position

  int64_t most() const {  // outputs of the longest phase
    int64_t most = 0;
    for (const auto& phase : phases) most = std::max(most, phase.count);
    return most;
  }
  // Input positions, the padding's among them, that `count` successive outputs read.
  int64_t span(int64_t count) const { return (count - 1) * read + reach() + 1; }
  int64_t reach() const {  // the farthest a tap reads from `before` zeros before read * q
    int64_t farthest = 0;
    for (const auto& phase : phases) {
      for (const auto& tap : phase.taps) farthest = std::max(farthest, tap.offset + before);
    }
    return farthest;
  }
};

inline Axis convolution_axis(int64_t output, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  Axis axis{1, stride, {{0, output, {}}}, padding};
  for (int64_t k = 0; k < kernel; ++k) axis.phases[0].taps.push_back({k, k * dilation - padding});
  return axis;
}

// Output position o gets input position i through tap k where i * stride + k * dilation = o + padding.
inline Axis transposed_axis(int64_t output, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  Axis axis{stride, 1, {}, 0};
  for (int64_t start = 0; start < std::min(stride, output); ++start) {
    Phase phase{start, (output - start + stride - 1) / stride, {}};
    for (int64_t k = kernel; k-- > 0;) {  // so that the offsets ascend
      const int64_t distance = start + padding - k * dilation;
      if (distance % stride == 0) {
        phase.taps.push_back({k, distance / stride});
        axis.before = std::max(axis.before, -distance / stride);
      }
    }
    axis.phases.push_back(std::move(phase));
  }
  return axis;
}

}  // namespace fastgan::conv

// What winograd_gather.cpp and winograd_wgrad.cpp share: where tiles lie, and in which form of F(m, 2).
#pragma once

#include <algorithm>
#include <vector>

#include "conv/packed.h"
#include "conv/winograd.h"

namespace fastgan::conv {

// One dimension. The tile t of a phase reads m + 1 positions `read_step` apart from `read + t * m * read_step`, counted from
// `before` positions before the input's first, and makes outputs `write_step` apart from `write + t * m * write_step`.
struct TiledPhase {
  int64_t read, write, count;  // count: of outputs
};
struct TiledAxis {
  int64_t read_step, write_step, before;
  std::vector<TiledPhase> phases;

  int64_t most() const {
    int64_t most = 0;
    for (const auto& phase : phases) most = std::max(most, phase.count);
    return most;
  }
  // Positions that `tiles` tiles of any phase read, counted from the first one's 0.
  int64_t span(int64_t tiles, int64_t m) const {
    int64_t farthest = 0;
    for (const auto& phase : phases) farthest = std::max(farthest, phase.read);
    return farthest + tiles * m * read_step + 1;
  }
};

// From the larger image to the smaller: position y of `output` gets tap t of phase f from y * stride + t * stride + f - padding.
inline TiledAxis axis_to_small(int64_t output, int64_t stride, int64_t padding) {
  TiledAxis axis{stride, 1, padding, {}};
  for (int64_t f = 0; f < stride; ++f) axis.phases.push_back({f, 0, output});
  return axis;
}

// From the smaller to the larger: position j * stride + f - padding of `output` gets tap t of phase f from j - t.
inline TiledAxis axis_to_large(int64_t output, int64_t stride, int64_t padding) {
  const auto first = [&](int64_t f) { return std::max<int64_t>(0, divide_up(std::max<int64_t>(0, padding - f), stride)); };
  TiledAxis axis{1, stride, 1 - std::min<int64_t>(1, first(stride - 1)), {}};
  for (int64_t f = 0; f < stride; ++f) {
    const int64_t j = first(f), write = j * stride + f - padding;
    axis.phases.push_back({j - 1 + axis.before, write, write < output ? divide_up(output - write, stride) : 0});
  }
  return axis;
}

// The m that takes the least time where these many outputs are made of `images` images. Each of the (m + 1)^2 products costs a
// multiplication a tile, and its part of the transformed weight as much as kWeightTiles of them (measured at 1 to 64 images).
inline const Winograd& winograd_for(int64_t height, int64_t width, int64_t images) {
  constexpr int64_t kWeightTiles = 8;
  const auto cost = [&](const Winograd& w) {
    const int64_t tiles = images * divide_up(height, w.outputs) * divide_up(width, w.outputs);
    return (tiles + kWeightTiles) * (w.outputs + 1) * (w.outputs + 1);
  };
  const auto& all = winograds().of;
  return *std::min_element(std::begin(all), std::end(all), [&](auto& a, auto& b) { return cost(a) < cost(b); });
}

// The least number of elements from `elements` on that is an odd number of cache lines: places so far apart never share the
// same set of a cache, as powers of two do.
inline int64_t odd_lines(int64_t elements) { return divide_up(elements, 16) / 2 * 32 + 16; }

}  // namespace fastgan::conv

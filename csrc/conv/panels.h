// What a gather computes, and its right operand: the weight, packed by phases, blocks of output channels and taps.
#pragma once

#include <vector>

#include "conv/engine.h"
#include "conv/packed.h"
#include "conv/plan.h"

namespace fastgan::conv {

// The right operands of all phases and column blocks, one after another.
template <class S>
struct Panels {
  const S* data;
  int64_t bytes;
  int64_t blocks, channels;  // column blocks; channels padded to whole steps
  std::vector<int64_t> at;   // [phases], of the phase's first block
  std::vector<int64_t> size;  // [phases], of one block
  const S* panel(int64_t phase, int64_t block) const { return data + at[phase] + block * size[phase]; }
};

struct Gather {
  Axis y, x;
  int out_dim;  // of the weight: that of the channels written
  bool in_patches = false;  // one tap: all that an output reads is packed side by side (patches_of)
  int64_t phases() const { return static_cast<int64_t>(y.phases.size() * x.phases.size()); }
  const Phase& phase_y(int64_t phase) const { return y.phases[phase / x.phases.size()]; }
  const Phase& phase_x(int64_t phase) const { return x.phases[phase % x.phases.size()]; }
};

inline Gather gather_of(const Tensor& weight, const Convolution& conv, bool backward, const Tensor& output) {
  const bool transposed = conv.transposed != backward;
  const auto axis = transposed ? transposed_axis : convolution_axis;
  const auto along = [&](int dim) {
    return axis(output.size(2 + dim), weight.size(2 + dim), conv.stride[dim], conv.padding[dim], conv.dilation[dim]);
  };
  return {along(0), along(1), transposed ? 1 : 0};
}

template <class T, class S>
Panels<S> pack_weight(const Gather& g, const Tensor& weight) {
  const auto& tile = tile_of<S>();
  const int64_t outs = weight.size(g.out_dim), ins = weight.size(1 - g.out_dim);
  Panels<S> panels{nullptr, 0, divide_up(outs, tile.columns), round_up(ins, tile.depth), {}, {}};
  std::vector<std::vector<int64_t>> segments(g.phases());
  int64_t total = 0;
  for (int64_t phase = 0; phase < g.phases(); ++phase) {
    for (const auto& y : g.phase_y(phase).taps) {
      for (const auto& x : g.phase_x(phase).taps) {
        segments[phase].push_back(y.kernel * weight.stride(2) + x.kernel * weight.stride(3));
      }
    }
    panels.at.push_back(total);
    panels.size.push_back(static_cast<int64_t>(segments[phase].size()) * panels.channels * tile.columns);
    total += panels.size[phase] * panels.blocks;
  }
  S* const data = scratch<S, 0>(total);
  const T* const from = fastgan::data<T>(weight);
  // Of what lies further apart in memory, input or output channels, some at a time: what is read then lies together.
  constexpr int64_t kSome = 32, kLeastUnits = 16;
  const int64_t in = weight.stride(1 - g.out_dim), out = weight.stride(g.out_dim);
  // And of few blocks so many channels that all threads have some.
  const int64_t parts = divide_up(kLeastUnits, panels.blocks), part = round_up(divide_up(panels.channels, parts), kSome);
  const int64_t depth = in > out ? kSome : part, across = in > out ? panels.blocks : 1;
  const int64_t units_down = divide_up(panels.channels, depth), units_across = divide_up(panels.blocks, across);
  torch::stable::parallel_for(0, units_down * units_across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t k = unit / units_across * depth, extent = std::min(depth, panels.channels - k);
      const int64_t first = unit % units_across * across, last = std::min(panels.blocks, first + across);
      for (int64_t phase = 0; phase < g.phases(); ++phase) {
        for (size_t tap = 0; tap < segments[phase].size(); ++tap) {
          for (int64_t block = first; block < last; ++block) {
            const int64_t n = block * tile.columns;
            packing<T, S>().columns(from + n * out + k * in, &segments[phase][tap], 1, std::clamp<int64_t>(ins - k, 0, extent), in,
                                    std::min<int64_t>(tile.columns, outs - n), out, extent, tile.columns, tile.step,
                                    data + panels.at[phase] + block * panels.size[phase] +
                                        (static_cast<int64_t>(tap) * panels.channels + k) * tile.columns);
          }
        }
      }
    }
  });
  panels.data = data;
  panels.bytes = total * static_cast<int64_t>(sizeof(S));
  return panels;
}

// A few channels would be padded to a whole step in every tap. Instead all that an output reads is packed side by side, [tap][channel],
// and what is left is a convolution of single pixels.
inline bool suit_patches(const Gather& g, int64_t ins, int64_t depth) {
  return g.phases() == 1 && ins * 4 <= depth && !g.phase_y(0).taps.empty() && !g.phase_x(0).taps.empty() && g.phase_x(0).is_consecutive();
}

inline Gather patches_of(const Gather& g) {
  return {convolution_axis(g.y.most(), 1, 1, 0, 1), convolution_axis(g.x.most(), 1, 1, 0, 1), g.out_dim, true};
}

template <class T, class S>
Panels<S> pack_patch_weight(const Gather& g, const Tensor& weight) {
  const auto& tile = tile_of<S>();
  const auto &ys = g.phase_y(0).taps, &xs = g.phase_x(0).taps;
  const int64_t outs = weight.size(g.out_dim), ins = weight.size(1 - g.out_dim), out = weight.stride(g.out_dim);
  const int64_t length = static_cast<int64_t>(ys.size() * xs.size()) * ins, depth = round_up(length, tile.depth);
  Panels<S> panels{nullptr, 0, divide_up(outs, tile.columns), depth, {0}, {depth * tile.columns}};
  const int64_t total = panels.blocks * panels.size[0];
  S* const data = scratch<S, 0>(total);
  std::fill_n(data, total, S{});
  for (int64_t k = 0; k < length; ++k) {
    const int64_t tap = k / ins, y = ys[tap / xs.size()].kernel, x = xs[tap % xs.size()].kernel;
    const int64_t at = y * weight.stride(2) + x * weight.stride(3) + k % ins * weight.stride(1 - g.out_dim);
    S* const to = data + k / tile.step * tile.columns * tile.step + k % tile.step;
    for (int64_t n = 0; n < outs; ++n) {
      const auto value = static_cast<Compute<S>>(to_compute(fastgan::data<T>(weight)[at + n * out]));
      to[n / tile.columns * panels.size[0] + n % tile.columns * tile.step] = from_compute<S>(value);
    }
  }
  panels.data = data;
  panels.bytes = total * static_cast<int64_t>(sizeof(S));
  return panels;
}

}  // namespace fastgan::conv

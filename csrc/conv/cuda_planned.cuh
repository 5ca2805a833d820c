// What a planned gather is in the products of cuda_index.cuh: which unit makes them, in tiles of which shape, of which taps.
#pragma once

#include "common/cuda.cuh"
#include "conv/cuda_tile.cuh"
#include "conv/engine.h"

namespace fastgan::conv {
namespace {

int size(const Tensor& tensor, int dim) { return static_cast<int>(tensor.size(dim)); }
int at(const std::vector<int64_t>& values, int dim) { return static_cast<int>(values[dim]); }

template <Unit unit>
using UnitTag = std::integral_constant<Unit, unit>;

// Calls body with the unit that products of T are made by: where there are tensor cores, these, of float32 where that is allowed.
template <class T, class Body>
void with_unit(const Launch& launch, const Convolution& conv, const Body& body) {
  const bool has_tensor_cores = launch.architecture() >= kFirstTensorCores;
  if constexpr (sizeof(T) == 2) {
    if (has_tensor_cores) return body(UnitTag<Unit::tensor_cores>{});
  } else if constexpr (sizeof(T) == 4) {
    if (conv.allow_tf32 && has_tensor_cores) return body(UnitTag<Unit::warps>{});
  }
  body(UnitTag<Unit::fma>{});
}

// Calls body with the shape of the tiles that outputs of so many channels are made in.
template <Unit unit, class Body>
void with_shape(int outs, const Body& body) {
  if constexpr (unit == Unit::fma) {
    outs <= ThinFma::kColumns ? body(ThinFma{}) : body(Square{});
  } else if (outs <= Half::kColumns) {
    outs <= Thin::kColumns ? body(Thin{}) : body(Half{});
  } else {
    body(Wide{});
  }
}
template <Unit unit>
using ShapeOfProducts = std::conditional_t<unit == Unit::fma, Square, Half>;  // cuda_scatter.cuh's

GatherAxis axis_of(const Planned& planned, int dim) {
  const Convolution& conv = *planned.conv;
  const auto of = [dim](const auto& tensor) { return static_cast<int>(tensor.size(2 + dim)); };
  return {of(planned.from()), of(planned.to()), of(planned.weight), at(conv.stride, dim),
          at(conv.padding, dim), at(conv.dilation, dim), planned.transposed()};
}

// The products that cuda_scatter.cuh adds up are those of a 1x1 convolution.
template <class T>
GatherTaps taps_of(const Planned& planned) {
  const int channels = padded<T>(static_cast<int>(planned.from().size(1)));
  if (planned.engine != Engine::scatter) return {channels, axis_of(planned, 0), axis_of(planned, 1)};
  const auto one_by_one = [&](int dim) {
    const auto size = static_cast<int>(planned.from().size(dim));
    return GatherAxis{size, size, 1, 1, 0, 1, false};
  };
  return {channels, one_by_one(2), one_by_one(3)};
}
// Its columns: a pixel's taps and channels, as a dense weight has them.
int columns_of(const Planned& planned) {
  return static_cast<int>(planned.weight.numel() / planned.from().size(1));
}

}  // namespace
}  // namespace fastgan::conv

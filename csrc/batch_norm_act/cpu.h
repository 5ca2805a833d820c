// What the CPU's passes have in common.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "batch_norm_act/batch_norm_act.h"
#include "common/counters.h"
#include "common/dispatch.h"

namespace fastgan::batch_norm_act {

template <class A>
void write_values(const Tensor& tensor, const std::vector<double>& values) {
  std::transform(values.begin(), values.end(), mutable_data<A>(tensor), [](double v) { return static_cast<A>(v); });
}

inline Counted counted_kernel(const char* pass, const Geometry& g, ScalarType dtype) {
  const char* const format = g.channels_last ? "_channels_last_" : "_contiguous_";
  return {"batch_norm_act", pass + std::string(format) + dtype_name(dtype) + "_" + kernel_isa_name()};
}

}  // namespace fastgan::batch_norm_act

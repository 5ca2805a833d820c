// What gather and wgrad share: the packed element type of a dtype, and memory for packed operands.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/dispatch.h"
#include "common/tensor.h"
#include "conv/pack.h"
#include "conv/tile.h"

namespace fastgan::conv {

// Of left operands at a time: in a second-level cache, beside the right ones.
inline constexpr int64_t kPackedBytes = 384 * 1024;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

template <class S>
const Tile<S>& tile_of() {
  if constexpr (std::is_same_v<S, double>) {
    return tiles().float64;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    return tiles().bfloat16;
  } else {
    return tiles().float32;
  }
}

// A thread holds one around its calls of gemm: AMX has to be told the shapes of its registers, and released again.
template <class S>
class InUse {
 public:
  explicit InUse(const Tile<S>& tile) : tile_(tile) {
    if (tile_.begin) tile_.begin();
  }
  ~InUse() {
    if (tile_.end) tile_.end();
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  const Tile<S>& tile_;
};

// Memory that a thread keeps between calls; each purpose has its own.
template <class S, int purpose>
S* scratch(int64_t elements) {
  static thread_local std::vector<S> kept;
  constexpr int64_t kAlign = 64 / sizeof(S);
  if (static_cast<int64_t>(kept.size()) < elements + kAlign) kept.resize(elements + kAlign);
  const auto address = reinterpret_cast<uintptr_t>(kept.data());
  return kept.data() + (round_up(static_cast<int64_t>(address), 64) - static_cast<int64_t>(address)) / sizeof(S);
}

inline Image image_of(const Tensor& tensor) {
  return {tensor.size(1), tensor.size(2), tensor.size(3), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

// Calls body(T{}, S{}) with the element type and the packed one.
template <class Body>
void dispatch_packed(const char* op, ScalarType dtype, const Body& body) {
  dispatch_dtype(op, dtype, [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (tiles().bfloat16.gemm) return body(T{}, BFloat16{});
    }
    body(T{}, Compute<T>{});
  });
}

// A weight may be wider than an input of bfloat16: autocast's own, not rounded to it before (engine.h, takes_float32_weight).
// Calls body(W{}) with the element type of such a weight, or of its gradient.
template <class T, class Body>
void dispatch_weight(const Tensor& weight, const Body& body) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (weight.scalar_type() == ScalarType::Float) return body(float{});
  }
  body(T{});
}

}  // namespace fastgan::conv

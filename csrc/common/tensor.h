// The LibTorch stable ABI as the operators use it: tensors, allocation, aten calls, memory layout.
#pragma once

// torch 2.11's stable headers use a macro that they do not define themselves under the name later versions give it.
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

namespace fastgan {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

// A tensor, or one that is still to be made: its sizes, and a tensor of its dtype and device.
class Outline {
 public:
  Outline() = default;
  Outline(const Tensor& tensor) : sizes_(sizes_of(tensor)), like_(tensor) {}
  Outline(std::vector<int64_t> sizes, const Tensor& like) : sizes_(std::move(sizes)), like_(like) {}

  const std::vector<int64_t>& sizes() const { return sizes_; }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t dim) const { return sizes_[dim]; }
  int64_t numel() const {
    int64_t numel = 1;
    for (const int64_t size : sizes_) numel *= size;
    return numel;
  }
  ScalarType scalar_type() const { return like_.scalar_type(); }
  const Tensor& like() const { return like_; }

 private:
  std::vector<int64_t> sizes_;
  Tensor like_;
};

// Of [N, C, H, W], where that is asked for, with C innermost.
inline std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes, MemoryFormat format) {
  const auto dims = static_cast<int>(sizes.size());
  std::vector<int64_t> strides(dims);
  int64_t stride = 1;
  const auto take = [&](int dim) {
    strides[dim] = stride;
    stride *= sizes[dim] > 1 ? sizes[dim] : 1;
  };
  if (format == MemoryFormat::ChannelsLast) {
    for (const int dim : {1, 3, 2, 0}) take(dim);
  } else {
    for (int dim = dims; dim-- > 0;) take(dim);
  }
  return strides;
}

// By the C function, not through the dispatcher's boxed calls: a GPU's step makes some 250 tensors, and waits for them.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& on,
                    MemoryFormat format = MemoryFormat::Contiguous) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  int32_t device_type;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(on.get(), &device_type));
  AtenTensorHandle result;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         dense_strides(sizes, format).data(), to<int32_t>(from(dtype)), device_type,
                                                         on.get_device_index(), &result));
  return Tensor(result);
}

inline Tensor zeros(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& on) {
  Tensor result = empty(sizes, dtype, on);
  torch::stable::zero_(result);
  return result;
}

// A tensor that stands for "none" in a schema's return values.
inline Tensor nothing(const Tensor& on, ScalarType dtype) { return empty({0}, dtype, on); }

// Statistics, parameters and sums: float32, or float64 where the data is.
inline ScalarType accumulate_type(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor to_dtype(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

inline bool has_strides(const Tensor& tensor, const std::vector<int64_t>& order) {
  // Dimensions of size one may carry any stride.
  int64_t expected = 1;
  for (const int64_t dim : order) {
    if (tensor.size(dim) != 1) {
      if (tensor.stride(dim) != expected) return false;
      expected *= tensor.size(dim);
    }
  }
  return true;
}

inline bool is_channels_last(const Tensor& tensor) {  // [N, C, H, W] with C innermost
  return tensor.dim() == 4 && has_strides(tensor, {1, 3, 2, 0});
}

// torch's own rule (c10::is_channels_last_strides_2d): strides that do not shrink from C over W and H to N; where they
// leave both formats possible, as for N x C x 1 x 1 of contiguous strides, it is the contiguous one.
inline bool suggests_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.stride(1) == 0) return false;
  int64_t least = 0;
  for (const int64_t dim : {1, 3, 2, 0}) {
    const int64_t size = tensor.size(dim), stride = tensor.stride(dim);
    if (size == 0 || stride < least || (dim == 0 && least == tensor.stride(1))) return false;
    least = stride * (size > 1 ? size : 1);
  }
  return true;
}

inline Tensor as_format(const Tensor& tensor, MemoryFormat format) {
  const bool right = format == MemoryFormat::ChannelsLast ? is_channels_last(tensor) : tensor.is_contiguous();
  return right ? tensor : torch::stable::contiguous(tensor, format);
}

// Without a call where it is so already.
inline Tensor as_contiguous(const Tensor& tensor) { return as_format(tensor, MemoryFormat::Contiguous); }

// The tensor itself where it is dense in the format that its strides suggest, otherwise a dense copy.
struct Dense {
  Tensor tensor;
  MemoryFormat format;
};

inline Dense dense(const Tensor& tensor) {
  const auto format = suggests_channels_last(tensor) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return {as_format(tensor, format), format};
}

}  // namespace fastgan

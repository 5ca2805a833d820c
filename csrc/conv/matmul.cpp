#include "conv/matmul.h"

#include "common/dispatch.h"

namespace fastgan::conv {

bool matmul_suits(const Outline& input, const Tensor& weight, const Convolution& conv) {
  for (int dim = 0; dim < 2; ++dim) {
    const int64_t size = input.size(2 + dim), wanted = conv.transposed ? 1 : weight.size(2 + dim);
    const bool is_plain = conv.padding[dim] == 0 && conv.dilation[dim] == 1 && (!conv.transposed || conv.output_padding[dim] == 0);
    if (size != wanted || !is_plain) return false;
  }
  return conv.groups == 1;
}

Tensor rows_of(const Tensor& tensor, MemoryFormat format) {
  using torch::stable::transpose;
  const bool last = format == MemoryFormat::ChannelsLast;
  const Tensor ordered = last ? transpose(transpose(tensor, 1, 2), 2, 3) : tensor;
  return torch::stable::reshape(ordered, {tensor.size(0), tensor.numel() / tensor.size(0)});
}

MemoryFormat format_of(const Tensor& tensor) {
  return is_channels_last(tensor) && !tensor.is_contiguous() ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor repeated(const Tensor& bias, const Tensor& output, MemoryFormat format) {
  const int64_t channels = output.size(1), pixels = output.size(2) * output.size(3), step = bias.stride(0);
  const Tensor row = empty({channels * pixels}, bias.scalar_type(), output);
  dispatch_dtype("conv", bias.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const T* const from = data<T>(bias);
    T* const to = mutable_data<T>(row);
    for (int64_t i = 0; i < channels * pixels; ++i) {
      to[i] = from[(format == MemoryFormat::ChannelsLast ? i % channels : i / pixels) * step];
    }
  });
  return row;
}

namespace {

void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // to be owned
}

// out = a b + bias, rounded once. By `linear`, because addmm takes Scalars, which the stable ABI does not pass.
void multiply_and_add(const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(a), from(torch::stable::transpose(b, 0, 1)), from(OptionalTensor(bias)), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // to be owned
}

}  // namespace

void matmul_gather(const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward,
                   const OptionalTensor& bias, const Tensor& output) {
  const bool to_large = conv.transposed != backward;
  const auto format = format_of(to_large ? output : input);
  const Tensor taps = rows_of(weight, format);
  const Tensor left = rows_of(input, format), right = to_large ? taps : torch::stable::transpose(taps, 0, 1);
  const Tensor out = rows_of(output, format);
  bias ? multiply_and_add(left, right, repeated(*bias, output, format), out) : multiply(left, right, out);
}

void matmul_wgrad(const Tensor& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight) {
  const Tensor &small = conv.transposed ? input : grad_output, &large = conv.transposed ? grad_output : input;
  const auto format = format_of(grad_weight);
  multiply(torch::stable::transpose(rows_of(small, format), 0, 1), rows_of(large, format), rows_of(grad_weight, format));
}

}  // namespace fastgan::conv

// The engine's two operations on a GPU: tensors to the products of cuda_index.cuh.
#include "common/cuda.cuh"
#include "conv/cuda_tile.cuh"
#include "conv/engine.h"

namespace fastgan::conv {
namespace {

int size(const Tensor& tensor, int dim) { return static_cast<int>(tensor.size(dim)); }
int at(const std::vector<int64_t>& values, int dim) { return static_cast<int>(values[dim]); }

template <class T>
bool are_chunks(const Tensor& tensor) {
  return tensor.size(1) % kPackWidth<T> == 0 && is_aligned(tensor.data_ptr());
}

void copy_strides(const Tensor& tensor, int64_t (&to)[4]) {
  for (int i = 0; i < 4; ++i) to[i] = tensor.stride(i);
}

// Runs the job; in 16 bits on tensor cores.
template <class T, class Job, class Out>
void multiply_out(const Launch& launch, const Job& job, const Tensor& output, Store<Out> store) {
  using A = Compute<Out>;
  const Plan plan = plan_of(job);
  store.output = mutable_data<Out>(output);
  store.total = output.numel();
  Tensor partial;
  if (plan.splits > 1) {
    partial = empty({plan.splits, store.total}, accumulate_type(output.scalar_type()), output);
    store.partial = mutable_data<A>(partial);
  }
  run<sizeof(T) == 2>(launch, job, plan, store);
}

template <class T>
Tensor packed_weight(const Launch& launch, const Tensor& weight, int out_dim) {
  const int ins = size(weight, 1 - out_dim), taps = size(weight, 2) * size(weight, 3);
  const Tensor packed = empty({weight.size(out_dim), taps, padded<T>(ins)}, weight.scalar_type(), weight);
  const WeightStrides strides{weight.stride(out_dim), weight.stride(1 - out_dim), weight.stride(2), weight.stride(3)};
  launch(pack_weight<T>, blocks_for(packed.numel(), kThreads), kThreads, data<T>(weight), strides, size(weight, 3), taps, ins,
         packed.numel(), mutable_data<T>(packed));
  return packed;
}

}  // namespace

void gather(Engine, const Tensor& input, const Tensor& weight, const Convolution& conv, bool backward,
            const Epilogue& epilogue, const Tensor& output) {
  const bool transposed = conv.transposed != backward;
  const int out_dim = transposed ? 1 : 0;
  const Tensor x = as_format(input, MemoryFormat::ChannelsLast);
  const OptionalTensor bias = epilogue.bias ? OptionalTensor(torch::stable::contiguous(*epilogue.bias)) : std::nullopt;
  const auto axis = [&](int dim) {
    return GatherAxis{size(x, 2 + dim), size(output, 2 + dim), size(weight, 2 + dim), at(conv.stride, dim),
                      at(conv.padding, dim), at(conv.dilation, dim), transposed};
  };
  const Launch launch(output);
  dispatch_dtype("conv", x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const Tensor packed = packed_weight<T>(launch, weight, out_dim);
    Gather<T> job{data<T>(x), data<T>(packed), size(x, 0), size(x, 1), size(output, 1), axis(0), axis(1), are_chunks<T>(x), {}};
    copy_strides(output, job.strides);
    Store<T> store{};
    store.bias = bias ? data<T>(*bias) : nullptr;
    store.channels = output.size(1);
    store.channel_stride = std::max<int64_t>(1, output.stride(1));
    store.activation = static_cast<Activation>(epilogue.activation);
    store.negative_slope = static_cast<Compute<T>>(epilogue.negative_slope);
    multiply_out<T>(launch, job, output, store);
  });
}

void wgrad(Engine, const Tensor& input, const Tensor& grad_output, const Convolution& conv, const Tensor& grad_weight) {
  const Tensor small = as_format(conv.transposed ? input : grad_output, MemoryFormat::ChannelsLast);
  const Tensor large = as_format(conv.transposed ? grad_output : input, MemoryFormat::ChannelsLast);
  const auto axis = [&](int dim) {
    return WgradAxis{size(small, 2 + dim), size(large, 2 + dim), size(grad_weight, 2 + dim), at(conv.stride, dim),
                     at(conv.padding, dim), at(conv.dilation, dim)};
  };
  const Launch launch(grad_weight);
  dispatch_dtype("conv", small.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    Wgrad<T> job{data<T>(small), data<T>(large), size(small, 0), size(small, 1), size(large, 1), axis(0), axis(1),
                 are_chunks<T>(small), are_chunks<T>(large), {}};
    copy_strides(grad_weight, job.strides);
    if (grad_weight.scalar_type() == small.scalar_type()) {
      multiply_out<T>(launch, job, grad_weight, Store<T>{});
    } else {
      multiply_out<T>(launch, job, grad_weight, Store<A>{});
    }
  });
}

}  // namespace fastgan::conv

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

template <Side side>
using SideTag = std::integral_constant<Side, side>;

// Runs the job; in 16 bits on tensor cores.
template <class Shape, Side pending, class Job, class Out>
void multiply_out(const Launch& launch, const Job& job, const Plan& plan, const Tensor& output, Store<Out> store) {
  store.output = mutable_data<Out>(output);
  Tensor partial;
  if (plan.splits > 1) {
    partial = empty({plan.splits, plan.tiles(), Shape::kNumel}, accumulate_type(output.scalar_type()), output);
    store.partial = mutable_data<Compute<Out>>(partial);
  }
  run<Shape, pending, sizeof(typename Job::Element) == 2>(launch, job, plan, store);
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

// What is pending in the form that the kernels take, unless it is of each sample, or of other groups than the moments.
Pending taken(const Pending& input, int64_t batch_groups) {
  if (!input.mean) return input;
  const bool same = batch_groups == 0 || batch_groups == input.mean->size(0);
  return same && !batch_norm_act::is_per_sample(input.weight, input.bias) ? input : input.materialised();
}

// Its table, which `to` points into.
template <class T>
OptionalTensor packed_prologue(const Launch& launch, const Pending& pending, Prologue<T>& to) {
  if (!pending.mean) return std::nullopt;
  using A = Compute<T>;
  constexpr const char* op = "conv";
  FASTGAN_CHECK(op, pending.invstd.has_value(), "a pending input has a mean but no invstd.");
  batch_norm_act::check_statistics(op, pending.input, *pending.mean, *pending.invstd);
  const auto g = batch_norm_act::geometry_of(op, pending.input, MemoryFormat::ChannelsLast, pending.mean->size(0));
  batch_norm_act::check_affine(op, pending.weight, pending.bias, g, pending.input);
  const auto dtype = accumulate_type(pending.input.scalar_type());
  const auto dense = [&](const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(torch::stable::contiguous(to_dtype(*tensor, dtype))) : std::nullopt;
  };
  const OptionalTensor mean = dense(pending.mean), invstd = dense(pending.invstd), weight = dense(pending.weight),
                       bias = dense(pending.bias);
  const auto channels = static_cast<int>(g.channels);
  const Tensor table = empty({3, g.groups, padded<T>(channels)}, dtype, pending.input);
  to = {data<A>(table), g.groups * padded<T>(channels), static_cast<int>(g.outer),
        batch_norm_act::activation_of(op, pending.activation), static_cast<A>(pending.negative_slope)};
  launch(pack_prologue<T>, blocks_for(to.total, kThreads), kThreads, data<A>(*mean), data<A>(*invstd),
         weight ? data<A>(*weight) : nullptr, bias ? data<A>(*bias) : nullptr, channels, to.total, mutable_data<A>(table));
  return table;
}

// The gather of engine.h, forward or backward, with the moments of the output where batch_groups is not 0.
OptionalTensor run_gather(const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                          const Epilogue& epilogue, int64_t batch_groups, const Tensor& output) {
  const bool transposed = conv.transposed != backward;
  const int out_dim = transposed ? 1 : 0;
  const Tensor x = as_format(input.input, MemoryFormat::ChannelsLast);
  const OptionalTensor bias = epilogue.bias ? OptionalTensor(torch::stable::contiguous(*epilogue.bias)) : std::nullopt;
  const auto axis = [&](int dim) {
    return GatherAxis{size(x, 2 + dim), size(output, 2 + dim), size(weight, 2 + dim), at(conv.stride, dim),
                      at(conv.padding, dim), at(conv.dilation, dim), transposed};
  };
  const int groups = static_cast<int>(input.mean ? input.mean->size(0) : std::max<int64_t>(1, batch_groups));
  const auto dtype = accumulate_type(output.scalar_type());
  const Launch launch(output);
  OptionalTensor moments;
  dispatch_dtype("conv", x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Tensor packed = packed_weight<T>(launch, weight, out_dim);
    Gather<T> job{data<T>(x), data<T>(packed), size(x, 0), size(x, 1), size(output, 1),
                  axis(0),    axis(1),         are_chunks<T>(x), {}, {}};
    copy_strides(output, job.strides);
    const OptionalTensor table = packed_prologue<T>(launch, input, job.before);
    Store<T> store{};
    store.bias = bias ? data<T>(*bias) : nullptr;
    store.activation = static_cast<Activation>(epilogue.activation);
    store.negative_slope = static_cast<A>(epilogue.negative_slope);
    const auto multiplied = [&](auto shape, auto pending) {
      using Shape = decltype(shape);
      const Plan plan = plan_of<Shape>(job, groups);
      if (batch_groups > 0) {
        moments = empty({groups, chunks_of<Shape>(plan), output.size(1), sizeof(Moments<A>) / sizeof(A)}, dtype, output);
        store.moments = reinterpret_cast<Moments<A>*>(mutable_data<A>(*moments));
      }
      multiply_out<Shape, pending()>(launch, job, plan, output, store);
    };
    const auto shaped = [&](auto pending) {
      output.size(1) <= Thin::kColumns ? multiplied(Thin{}, pending) : multiplied(Square{}, pending);
    };
    table ? shaped(SideTag<Side::left>{}) : shaped(SideTag<Side::none>{});
  });
  return moments;
}

}  // namespace

bool is_gradient_fused(Engine, const Pending&) { return false; }
bool takes_float32_weight(Engine) { return false; }
bool is_fused(Engine engine, const Tensor&) { return engine == Engine::direct; }

OptionalTensor gather(Engine, const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                      const Epilogue& epilogue, const Reduction& reduction, const Tensor& output) {
  if (backward) return run_gather(input, weight, conv, true, epilogue, 0, output);  // the sums are a pass of their own
  // The statistics say what is wrong with groups that do not divide the batch.
  const int64_t wanted = reduction.moment_groups, groups = wanted > 0 && output.size(0) % wanted == 0 ? wanted : 0;
  return run_gather(taken(input, groups), weight, conv, false, epilogue, groups, output);
}

void wgrad(Engine, const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  const Tensor& grad_output = grad.input;
  const Pending pending = taken(input, 0);
  const Tensor small = as_format(conv.transposed ? pending.input : grad_output, MemoryFormat::ChannelsLast);
  const Tensor large = as_format(conv.transposed ? grad_output : pending.input, MemoryFormat::ChannelsLast);
  const auto axis = [&](int dim) {
    return WgradAxis{size(small, 2 + dim), size(large, 2 + dim), size(grad_weight, 2 + dim), at(conv.stride, dim),
                     at(conv.padding, dim), at(conv.dilation, dim)};
  };
  const Launch launch(grad_weight);
  dispatch_dtype("conv", small.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    Wgrad<T> job{data<T>(small), data<T>(large), size(small, 0), size(small, 1), size(large, 1), axis(0), axis(1),
                 are_chunks<T>(small), are_chunks<T>(large), {}, {}};
    copy_strides(grad_weight, job.strides);
    const OptionalTensor table = packed_prologue<T>(launch, pending, job.before);
    const auto multiplied = [&](auto side) {
      multiply_out<Square, side()>(launch, job, plan_of<Square>(job, 1), grad_weight, Store<T>{});
    };
    if (!table) return multiplied(SideTag<Side::none>{});
    conv.transposed ? multiplied(SideTag<Side::left>{}) : multiplied(SideTag<Side::right>{});
  });
}

}  // namespace fastgan::conv

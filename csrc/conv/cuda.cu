// The engine's two operations on a GPU: tensors to the products of cuda_index.cuh.
#include "conv/cuda_pack.cuh"
#include "conv/cuda_planned.cuh"
#include "conv/cuda_scatter.cuh"

namespace fastgan::conv {
namespace {

void copy_strides(const Tensor& tensor, int64_t (&to)[4]) {
  for (int i = 0; i < 4; ++i) to[i] = tensor.stride(i);
}

template <Side side>
using SideTag = std::integral_constant<Side, side>;

// Whether chunks of neighbouring channels lie at multiples of 16 bytes.
template <class T>
bool is_in_chunks(const Tensor& tensor) {
  constexpr int kWidth = kPackWidth<T>;
  bool in_chunks = tensor.stride(1) == 1 && tensor.size(1) % kWidth == 0 && is_aligned(tensor.data_ptr());
  for (const int dim : {0, 2, 3}) in_chunks = in_chunks && tensor.stride(dim) % kWidth == 0;
  return in_chunks;
}

template <class Shape, Side pending, Unit unit, class Job, class Out>
void multiply_out(const Launch& launch, const Job& job, const Plan& plan, const Tensor& output, Store<Out> store) {
  store.output = mutable_data<Out>(output);
  store.in_chunks = is_in_chunks<Out>(output);
  Tensor partial;
  if (plan.splits > 1) {
    partial = empty({plan.splits, plan.tiles, Shape::kNumel}, accumulate_type(output.scalar_type()), output);
    store.partial = mutable_data<Compute<Out>>(partial);
  }
  run<Shape, pending, unit>(launch, job, plan, store);
}

// A map as the products read it: channels-last, in whole chunks.
template <class T>
Tensor padded_map(const Launch& launch, const Tensor& tensor) {
  const Tensor map = as_format(tensor, MemoryFormat::ChannelsLast);
  const int channels = size(map, 1);
  if (channels % kPackWidth<T> == 0 && is_aligned(map.data_ptr())) return map;
  const Tensor to = empty({map.size(0), map.size(2), map.size(3), padded<T>(channels)}, map.scalar_type(), map);
  const int64_t pixels = map.size(0) * map.size(2) * map.size(3);
  const dim3 grid(blocks_for(pixels, kThreads), padded<T>(channels) / kPackWidth<T>);
  launch(pad_channels<T>, grid, kThreads, data<T>(map), channels, pixels, mutable_data<T>(to));
  return to;
}

// Statistics and parameters of a batch-norm as the kernels read them.
Pending in_compute_type(const Pending& pending) {
  Pending to = pending;
  for (auto member : {&Pending::mean, &Pending::invstd, &Pending::weight, &Pending::bias}) {
    if (to.*member) to.*member = as_contiguous(to_dtype(*(to.*member), accumulate_type(to.input.scalar_type())));
  }
  return to;
}

// What is pending in the form that the kernels take; done before, where they do not: of each sample, of other groups than the moments,
// or of channels that are not whole chunks.
template <class T>
Pending taken(const Pending& input, int64_t batch_groups) {
  if (!input.mean) return input;
  const bool same = batch_groups == 0 || batch_groups == input.mean->size(0);
  if (!same || batch_norm_act::is_per_sample(input.weight, input.bias) || input.input.size(1) % kPackWidth<T> != 0) {
    return input.materialised();
  }
  Pending pending = in_compute_type(input);
  for (const auto& tensor : {pending.mean, pending.invstd, pending.weight, pending.bias}) {
    if (tensor && !is_aligned(tensor->data_ptr())) return input.materialised();
  }
  return pending;
}

// pending: in the compute type, and kept for as long as kernels are launched with this.
template <class T>
Prologue<T> prologue_of(const Pending& pending) {
  using A = Compute<T>;
  if (!pending.mean) return {};
  const auto of = [](const OptionalTensor& tensor) { return tensor ? data<A>(*tensor) : nullptr; };
  return {of(pending.mean),
          of(pending.invstd),
          of(pending.weight),
          of(pending.bias),
          size(pending.input, 1),
          static_cast<int>(pending.input.size(0) / pending.mean->size(0)),
          static_cast<Activation>(pending.activation),
          static_cast<A>(pending.negative_slope)};
}

// Whether the sums that the backward of `below` begins with can be taken of its gradient: they lie in memory alike.
bool are_alike(const Pending& below, const Tensor& output) {
  return is_channels_last(below.input) && is_channels_last(output) && is_aligned(below.input.data_ptr()) &&
         !batch_norm_act::is_per_sample(below.weight, below.bias);
}

// The gather of engine.h, whose groups of moments divide the batch.
template <class T>
OptionalTensor run_gather(const Planned& planned, const Pending& given, const Epilogue& epilogue, const Reduction& reduction,
                          const Tensor& output) {
  using A = Compute<T>;
  const Pending input = taken<T>(given, reduction.moment_groups);
  OptionalTensor bias = epilogue.bias;
  if (bias) bias = as_contiguous(*bias);
  const Tensor& x = input.input;
  const bool sums = reduction.below && are_alike(*reduction.below, output);
  const Pending below = sums ? in_compute_type(*reduction.below) : Pending::nothing_on(output);
  const int groups = static_cast<int>(input.mean ? input.mean->size(0)
                                      : sums     ? below.mean->size(0)
                                                 : std::max<int64_t>(1, reduction.moment_groups));
  const Launch launch(output);
  const Tensor map = padded_map<T>(launch, x);
  const GatherTaps taps = taps_of<T>(planned);
  Gather<T> job{taps, data<T>(map), data<T>(planned.packed.value()), size(x, 0), size(output, 1), taps.steps(kDepth<T>), {}, prologue_of<T>(input)};
  copy_strides(output, job.strides);
  Store<T> store{};
  store.bias = bias ? data<T>(*bias) : nullptr;
  store.activation = static_cast<Activation>(epilogue.activation);
  store.negative_slope = static_cast<A>(epilogue.negative_slope);
  store.activated = epilogue.made ? data<T>(*epilogue.made) : nullptr;
  store.made = prologue_of<T>(below);
  store.below = sums ? data<T>(below.input) : nullptr;
  OptionalTensor reduced;
  const auto multiplied = [&](auto unit, auto shape) {
    using Shape = decltype(shape);
    const Plan plan = plan_of<Shape>(job, groups);
    if (sums || reduction.moment_groups > 0) {
      const int64_t values = (sums ? sizeof(Sums<A>) : sizeof(Moments<A>)) / sizeof(A);
      reduced = empty({groups, chunks_of<Shape>(plan), output.size(1), values}, accumulate_type(output.scalar_type()), output);
      A* const to = mutable_data<A>(*reduced);
      sums ? void(store.sums = reinterpret_cast<Sums<A>*>(to)) : void(store.moments = reinterpret_cast<Moments<A>*>(to));
    }
    input.mean ? multiply_out<Shape, Side::left, unit()>(launch, job, plan, output, store)
               : multiply_out<Shape, Side::none, unit()>(launch, job, plan, output, store);
  };
  with_unit<T>(launch, *planned.conv, [&](auto unit) {
    with_shape<unit()>(job.outs, [&](auto shape) { multiplied(unit, shape); });
  });
  return reduced;
}

// The gather of engine.h by cuda_scatter.cuh, to the larger image.
template <class T>
void run_scatter(const Planned& planned, const Pending& given, const Epilogue& epilogue, const Tensor& output) {
  using A = Compute<T>;
  const Pending input = taken<T>(given, 0);
  OptionalTensor bias = epilogue.bias;
  if (bias) bias = as_contiguous(*bias);
  const Tensor &x = input.input, &weight = planned.weight;
  const int outs = size(output, 1), columns = columns_of(planned);
  const Launch launch(output);
  const Tensor map = padded_map<T>(launch, x);
  const GatherTaps taps = taps_of<T>(planned);
  Gather<T> job{taps, data<T>(map), data<T>(planned.packed.value()), size(x, 0), columns, taps.steps(kDepth<T>), {}, prologue_of<T>(input)};
  const Tensor products =
      empty({x.size(0), columns, x.size(2), x.size(3)}, accumulate_type(x.scalar_type()), x, MemoryFormat::ChannelsLast);
  copy_strides(products, job.strides);
  with_unit<T>(launch, *planned.conv, [&](auto unit) {
    using Shape = ShapeOfProducts<unit()>;
    const Plan plan = plan_of<Shape>(job, input.mean ? static_cast<int>(input.mean->size(0)) : 1);
    input.mean ? multiply_out<Shape, Side::left, unit()>(launch, job, plan, products, Store<A>{})
               : multiply_out<Shape, Side::none, unit()>(launch, job, plan, products, Store<A>{});
  });
  const bool by_tap = is_channels_last(weight);
  Scattered<T> sums{data<A>(products), size(x, 0), outs, columns, by_tap ? outs : 1, by_tap ? 1 : columns / outs, axis_of(planned, 0),
                    axis_of(planned, 1), bias ? data<T>(*bias) : nullptr, static_cast<Activation>(epilogue.activation),
                    static_cast<A>(epilogue.negative_slope), mutable_data<T>(output), {}};
  copy_strides(output, sums.strides);
  launch(add_taps<T>, blocks_for(output.numel() / outs, kThreads), kThreads, sums);
}

// The wgrad of engine.h, into a gradient of Out.
template <class T, class Out>
void run_wgrad(const Pending& given, const Tensor& grad, const Convolution& conv, const Tensor& grad_weight) {
  const Pending pending = taken<T>(given, 0);
  const Tensor &small = conv.transposed ? pending.input : grad, &large = conv.transposed ? grad : pending.input;
  const auto axis = [&](int dim) {
    return WgradAxis{size(small, 2 + dim), size(large, 2 + dim), size(grad_weight, 2 + dim), at(conv.stride, dim),
                     at(conv.padding, dim), at(conv.dilation, dim)};
  };
  const Launch launch(grad_weight);
  const Tensor small_map = padded_map<T>(launch, small), large_map = padded_map<T>(launch, large);
  const int small_channels = size(small, 1), large_channels = size(large, 1);
  Wgrad<T> job{data<T>(small_map), data<T>(large_map), size(small, 0), small_channels, padded<T>(small_channels),
               large_channels, padded<T>(large_channels), axis(0), axis(1), {}, prologue_of<T>(pending)};
  copy_strides(grad_weight, job.strides);
  with_unit<T>(launch, conv, [&](auto unit) {
    using Shape = std::conditional_t<unit() == Unit::fma, Square, Wide>;
    const Plan plan = plan_of<Shape>(job, 1);
    const auto multiplied = [&](auto side) {
      multiply_out<Shape, side(), unit()>(launch, job, plan, grad_weight, Store<Out>{});
    };
    if (!pending.mean) return multiplied(SideTag<Side::none>{});
    conv.transposed ? multiplied(SideTag<Side::left>{}) : multiplied(SideTag<Side::right>{});
  });
}

}  // namespace

OptionalTensor gather(const Planned& planned, const Pending& input, const Tensor&, const Epilogue& epilogue, const Reduction& reduction,
                      const Tensor& output) {
  // The statistics say what is wrong with groups that do not divide the batch.
  const int64_t wanted = reduction.moment_groups, groups = wanted > 0 && output.size(0) % wanted == 0 ? wanted : 0;
  OptionalTensor reduced;
  dispatch_dtype("conv", input.input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    if (planned.engine == Engine::scatter) return run_scatter<T>(planned, input, epilogue, output);
    reduced = run_gather<T>(planned, input, epilogue, {groups, reduction.below}, output);
  });
  return reduced;
}

void wgrad(Engine, const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  dispatch_dtype("conv", input.input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (grad_weight.scalar_type() == ScalarType::Float) return run_wgrad<T, float>(input, grad.input, conv, grad_weight);
    }
    run_wgrad<T, T>(input, grad.input, conv, grad_weight);
  });
}

}  // namespace fastgan::conv

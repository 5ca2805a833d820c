// The engine's two operations on a GPU: tensors to the products of cuda_index.cuh.
#include "common/cuda.cuh"
#include "conv/cuda_tile.cuh"
#include "conv/engine.h"

namespace fastgan::conv {
namespace {

int size(const Tensor& tensor, int dim) { return static_cast<int>(tensor.size(dim)); }
int at(const std::vector<int64_t>& values, int dim) { return static_cast<int>(values[dim]); }

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

template <Unit unit>
using UnitTag = std::integral_constant<Unit, unit>;

// Calls body with the unit that products of T are made by: where there are tensor cores, these, of float32 where that is allowed.
template <class T, class Body>
void with_unit(const Convolution& conv, const Tensor& on, const Body& body) {
  if constexpr (sizeof(T) == 2) {
    if (has_tensor_cores(on)) return body(UnitTag<Unit::tensor_cores>{});
  } else if constexpr (sizeof(T) == 4) {
    if (conv.allow_tf32 && has_tensor_cores(on)) return body(UnitTag<Unit::warps>{});
  }
  body(UnitTag<Unit::fma>{});
}

template <class Shape, Side pending, Unit unit, class Job, class Out>
void multiply_out(const Launch& launch, const Job& job, const Plan& plan, const Tensor& output, Store<Out> store) {
  store.output = mutable_data<Out>(output);
  store.in_chunks = is_in_chunks<Out>(output);
  Tensor partial;
  if (plan.splits > 1) {
    partial = empty({plan.splits, plan.tiles(), Shape::kNumel}, accumulate_type(output.scalar_type()), output);
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
  launch(pad_channels<T>, blocks_for(to.numel(), kThreads), kThreads, data<T>(map), channels, to.numel(), mutable_data<T>(to));
  return to;
}

// job.weight, of a weight [out_dim ...].
template <class T>
Tensor packed_weight(const Launch& launch, const Tensor& weight, int out_dim, Gather<T>& job) {
  const Tensor packed = empty({job.outs, weight.size(2) * weight.size(3), job.channels}, weight.scalar_type(), weight);
  const WeightStrides strides{weight.stride(out_dim), weight.stride(1 - out_dim), weight.stride(2), weight.stride(3)};
  const dim3 grid(blocks_for(packed.numel() / job.parts(), kThreads), job.parts());
  launch(pack_weight<T>, grid, kThreads, job, size(weight, 1 - out_dim), data<T>(weight), strides, mutable_data<T>(packed));
  job.weight = data<T>(packed);
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

// Whether the sums that the backward of `below` begins with can be taken of its gradient: they lie in memory alike.
bool are_alike(const Pending& below, const Tensor& output) {
  return is_channels_last(below.input) && is_channels_last(output) && !batch_norm_act::is_per_sample(below.weight, below.bias);
}

// The gather of engine.h, forward or backward, with what `reduction` asks for of the output.
OptionalTensor run_gather(const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                          const Epilogue& epilogue, const Reduction& reduction, const Tensor& output) {
  const bool transposed = conv.transposed != backward;
  const int out_dim = transposed ? 1 : 0;
  const OptionalTensor bias = epilogue.bias ? OptionalTensor(torch::stable::contiguous(*epilogue.bias)) : std::nullopt;
  const Tensor& x = input.input;
  const auto axis = [&](int dim) {
    return GatherAxis{size(x, 2 + dim), size(output, 2 + dim), size(weight, 2 + dim), at(conv.stride, dim),
                      at(conv.padding, dim), at(conv.dilation, dim), transposed};
  };
  const Pending* const below = reduction.below && are_alike(*reduction.below, output) ? reduction.below : nullptr;
  const int groups = static_cast<int>(input.mean ? input.mean->size(0)
                                      : below    ? below->mean->size(0)
                                                 : std::max<int64_t>(1, reduction.moment_groups));
  const auto dtype = accumulate_type(output.scalar_type());
  const Launch launch(output);
  OptionalTensor reduced;
  dispatch_dtype("conv", x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Tensor map = padded_map<T>(launch, x);
    Gather<T> job{data<T>(map), nullptr, size(x, 0), padded<T>(size(x, 1)), size(output, 1), axis(0), axis(1), {}, {}};
    const Tensor packed = packed_weight<T>(launch, weight, out_dim, job);
    copy_strides(output, job.strides);
    const OptionalTensor table = packed_prologue<T>(launch, input, job.before);
    Store<T> store{};
    store.bias = bias ? data<T>(*bias) : nullptr;
    store.activation = static_cast<Activation>(epilogue.activation);
    store.negative_slope = static_cast<A>(epilogue.negative_slope);
    const OptionalTensor table_below = below ? packed_prologue<T>(launch, *below, store.made) : std::nullopt;
    if (below) store.below = data<T>(below->input);
    const auto multiplied = [&](auto unit, auto shape) {
      using Shape = decltype(shape);
      const Plan plan = plan_of<Shape>(job, groups);
      if (below || reduction.moment_groups > 0) {
        constexpr int64_t kMoments = sizeof(Moments<A>) / sizeof(A);
        reduced = empty({groups, chunks_of<T, Shape>(plan), output.size(1), below ? 2 : kMoments}, dtype, output);
        A* const to = mutable_data<A>(*reduced);
        below ? void(store.sums = to) : void(store.moments = reinterpret_cast<Moments<A>*>(to));
      }
      table ? multiply_out<Shape, Side::left, unit()>(launch, job, plan, output, store)
            : multiply_out<Shape, Side::none, unit()>(launch, job, plan, output, store);
    };
    with_unit<T>(conv, output, [&](auto unit) {
      if constexpr (unit() == Unit::fma) {
        job.outs <= ThinFma::kColumns ? multiplied(unit, ThinFma{}) : multiplied(unit, Square{});
      } else if (job.outs <= Half::kColumns) {
        job.outs <= Thin::kColumns ? multiplied(unit, Thin{}) : multiplied(unit, Half{});
      } else {
        multiplied(unit, Wide{});
      }
    });
  });
  return reduced;
}

}  // namespace

bool is_gradient_fused(Engine, const Pending&) { return false; }
bool takes_float32_weight(Engine) { return false; }
bool is_fused(Engine engine, const Tensor&) { return engine == Engine::direct; }

OptionalTensor gather(Engine, const Pending& input, const Tensor& weight, const Convolution& conv, bool backward,
                      const Epilogue& epilogue, const Reduction& reduction, const Tensor& output) {
  if (backward) return run_gather(input, weight, conv, true, epilogue, {0, reduction.below}, output);
  // The statistics say what is wrong with groups that do not divide the batch.
  const int64_t wanted = reduction.moment_groups, groups = wanted > 0 && output.size(0) % wanted == 0 ? wanted : 0;
  return run_gather(taken(input, groups), weight, conv, false, epilogue, {groups}, output);
}

void wgrad(Engine, const Pending& input, const Pending& grad, const Convolution& conv, const Tensor& grad_weight) {
  const Pending pending = taken(input, 0);
  const Tensor &small = conv.transposed ? pending.input : grad.input, &large = conv.transposed ? grad.input : pending.input;
  const auto axis = [&](int dim) {
    return WgradAxis{size(small, 2 + dim), size(large, 2 + dim), size(grad_weight, 2 + dim), at(conv.stride, dim),
                     at(conv.padding, dim), at(conv.dilation, dim)};
  };
  const Launch launch(grad_weight);
  dispatch_dtype("conv", small.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const Tensor small_map = padded_map<T>(launch, small), large_map = padded_map<T>(launch, large);
    const int small_channels = size(small, 1), large_channels = size(large, 1);
    Wgrad<T> job{data<T>(small_map), data<T>(large_map), size(small, 0), small_channels, padded<T>(small_channels),
                 large_channels, padded<T>(large_channels), axis(0), axis(1), {}, {}};
    copy_strides(grad_weight, job.strides);
    const OptionalTensor table = packed_prologue<T>(launch, pending, job.before);
    with_unit<T>(conv, grad_weight, [&](auto unit) {
      using Shape = std::conditional_t<unit() == Unit::fma, Square, Wide>;
      const Plan plan = plan_of<Shape>(job, 1);
      const auto multiplied = [&](auto side) {
        multiply_out<Shape, side(), unit()>(launch, job, plan, grad_weight, Store<T>{});
      };
      if (!table) return multiplied(SideTag<Side::none>{});
      conv.transposed ? multiplied(SideTag<Side::left>{}) : multiplied(SideTag<Side::right>{});
    });
  });
}

}  // namespace fastgan::conv

#include "batch_norm_act/batch_norm_act.h"
#include "batch_norm_act/cuda_elementwise.cuh"
#include "batch_norm_act/cuda_sums.cuh"
#include "common/counters.h"
#include "common/cuda.cuh"

namespace fastgan::batch_norm_act {
namespace {

Layout layout_of(const Geometry& g) { return {g.groups, g.outer, g.channels, g.inner, g.channels_last}; }

template <Activation kind>
using Kind = std::integral_constant<Activation, kind>;

template <class Body>
void dispatch_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::none: return body(Kind<Activation::none>{});
    case Activation::relu: return body(Kind<Activation::relu>{});
    case Activation::leaky_relu: return body(Kind<Activation::leaky_relu>{});
    case Activation::tanh: return body(Kind<Activation::tanh>{});
    case Activation::sigmoid: return body(Kind<Activation::sigmoid>{});
  }
}

// 16-byte accesses where every pack lies in one run and every pointer is aligned; otherwise single elements.
template <class T, class Body>
void dispatch_width(int64_t run, std::initializer_list<const void*> pointers, const Body& body) {
  const bool wide = run % kPackWidth<T> == 0 && std::all_of(pointers.begin(), pointers.end(), is_aligned);
  if (wide) {
    body(std::integral_constant<int, kPackWidth<T>>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

// Owns the parameters in the compute type for as long as kernels may be launched on them.
struct Prepared {
  Tensor mean, invstd;
  OptionalTensor weight, bias;
  bool per_sample;

  // g: the parameters' geometry.
  Prepared(const Geometry& g, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
           const OptionalTensor& bias, ScalarType dtype)
      : mean(of_groups(g, mean)),
        invstd(of_groups(g, invstd)),
        weight(converted(weight, dtype)),
        bias(converted(bias, dtype)),
        per_sample(is_per_sample(weight, bias)) {}

  static OptionalTensor converted(const OptionalTensor& tensor, ScalarType dtype) {
    return tensor ? OptionalTensor(as_contiguous(to_dtype(*tensor, dtype))) : std::nullopt;
  }
  // Statistics [batch_groups, C] for each of the geometry's groups.
  static Tensor of_groups(const Geometry& g, const Tensor& statistics) {
    const int64_t groups = statistics.size(0);
    if (groups == g.groups) return as_contiguous(statistics);
    const Tensor repeated = empty({groups, g.groups / groups, g.channels}, statistics.scalar_type(), statistics);
    Tensor to = repeated;
    torch::stable::copy_(to, torch::stable::unsqueeze(statistics, 1));
    return repeated;
  }

  template <class A>
  Parameters<A> parameters(double negative_slope) const {
    return {data<A>(mean),
            data<A>(invstd),
            weight ? data<A>(*weight) : nullptr,
            bias ? data<A>(*bias) : nullptr,
            per_sample,
            static_cast<A>(negative_slope)};
  }
};

Counted counted_kernel(const char* pass, const Geometry& g, ScalarType dtype) {
  return {"batch_norm_act",
          std::string(pass) + (g.channels_last ? "_channels_last_" : "_contiguous_") + dtype_name(dtype) + "_cuda"};
}

// [groups, chunks, channels] of the term's states, in the compute type. pointers: of what it reads.
template <class Term>
Tensor partial_of(const Launch& launch, const Tensor& on, const Term& term, std::initializer_list<const void*> pointers) {
  using State = typename Term::State;
  using A = typename Term::A;
  const Layout& at = term.at;
  Tensor partial;
  dispatch_width<typename Term::Element>(at.run(), pointers, [&](auto width) {
    const int64_t chunks = chunks_for<width()>(at);
    partial = empty({at.groups, chunks, at.channels, sizeof(State) / sizeof(A)}, accumulate_type(on.scalar_type()), on);
    partial_sums<width()>(launch, term, chunks, reinterpret_cast<State*>(mutable_data<A>(partial)));
  });
  return partial;
}

// Of a GPU's kernels.
void check_groups(const char* op, const Geometry& g) {
  FASTGAN_CHECK(op, g.groups <= kMostGroups, "there are ", g.groups, " groups, or samples with a weight and a bias of their own; up to ",
                kMostGroups, " can be told apart on a GPU.");
}

// Of kernels in which a block finishes kWarps channels.
unsigned channel_blocks(int64_t channels) { return static_cast<unsigned>((channels + kWarps - 1) / kWarps); }

}  // namespace

Statistics statistics(const Tensor& input, const Running& given, bool training, double momentum, double eps, int64_t batch_groups,
                      const OptionalTensor& moments) {
  constexpr const char* op = "batch_norm_act";
  const auto [x, format] = dense(input);
  const Geometry g = geometry_of(op, x, format, batch_groups);
  check_statistics_arguments(op, input, g, given, training);
  if (training) check_groups(op, g);
  const auto dtype = accumulate_type(input.scalar_type());
  const Statistics result{empty({g.groups, g.channels}, dtype, input), empty({g.groups, g.channels}, dtype, input)};
  if (g.groups * g.channels == 0) return result;
  const Launch launch(input);
  if (training && g.numel() == 0) {  // an empty batch: nothing to take statistics of, and nothing that will use them
    torch::stable::fill_(result.mean, 0);
    torch::stable::fill_(result.invstd, 1);
    return result;
  }
  // The kernels keep running statistics in the compute type; in another dtype they are converted and copied back.
  const auto mean = Prepared::converted(given.mean, dtype), variance = Prepared::converted(given.var, dtype);
  dispatch_dtype(op, x.scalar_type(), [&, &x = x](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    A* running[2] = {mean ? mutable_data<A>(*mean) : nullptr, variance ? mutable_data<A>(*variance) : nullptr};
    A *to_mean = mutable_data<A>(result.mean), *to_invstd = mutable_data<A>(result.invstd);
    if (!training) {
      const int64_t sets = g.groups * g.channels;
      launch(given_statistics<A>, static_cast<unsigned>((sets + kThreads - 1) / kThreads), kThreads, g.groups, g.channels, running[0],
             running[1], eps, to_mean, to_invstd);
    } else {
      const Counted counted = counted_kernel(moments ? "statistics_of_moments" : "statistics", g, input.scalar_type());
      const Layout at = layout_of(g);
      const Tensor partial = moments ? *moments : partial_of(launch, x, MomentsTerm<T>{{data<T>(x), at}}, {x.data_ptr()});
      launch(finish_statistics<T>, channel_blocks(g.channels), kThreads, moments ? nullptr : data<T>(x), at,
             reinterpret_cast<const Moments<A>*>(data<A>(partial)), partial.size(1), momentum, eps, to_mean, to_invstd,
             running[0], running[1], given.batches ? mutable_data<int64_t>(*given.batches) : nullptr);
    }
  });
  for (const auto& [updated, original] : {std::pair{mean, given.mean}, std::pair{variance, given.var}}) {
    if (training && original && updated->data_ptr() != original->data_ptr()) {
      Tensor target = *original;
      torch::stable::copy_(target, *updated);
    }
  }
  return result;
}

Tensor forward(const Tensor& input, const Tensor& mean, const Tensor& invstd, const OptionalTensor& weight,
               const OptionalTensor& bias, int64_t activation, double negative_slope) {
  constexpr const char* op = "batch_norm_act";
  check_statistics(op, input, mean, invstd);
  const auto [x, format] = dense(input);
  const Geometry of_statistics = geometry_of(op, x, format, mean.size(0));
  check_affine(op, weight, bias, of_statistics, input);
  const Geometry g = parameter_geometry(of_statistics, is_per_sample(weight, bias));
  const auto chosen = activation_of(op, activation);
  const Tensor output = empty(sizes_of(x), x.scalar_type(), x, format);
  if (g.numel() == 0) return output;
  const Launch launch(input);
  const Prepared prepared(g, mean, invstd, weight, bias, accumulate_type(x.scalar_type()));
  const Counted counted = counted_kernel("forward", g, x.scalar_type());
  dispatch_dtype(op, x.scalar_type(), [&, &x = x](auto tag) {
    using T = decltype(tag);
    const Layout at = layout_of(g);
    const auto p = prepared.parameters<Compute<T>>(negative_slope);
    dispatch_activation(chosen, [&](auto kind) {
      dispatch_width<T>(at.run(), {x.data_ptr(), output.data_ptr()}, [&](auto width) {
        apply<width()>(launch, ForwardTerm<T, kind()>{{data<T>(x), at}, mutable_data<T>(output), p});
      });
    });
  });
  return output;
}

BackwardSums backward_sums(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                           const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                           bool training, const OptionalTensor& given) {
  constexpr const char* op = "batch_norm_act_backward";
  const BackwardOf of(op, grad_output, input, mean, invstd, weight, bias, activation);
  const Geometry& g = of.g;
  check_groups(op, g);
  const auto dtype = accumulate_type(input.scalar_type());
  const OptionalTensor parts = given && given->numel() > 0 ? given : std::nullopt;
  if (parts) check_parts(op, *parts, g, dtype);
  const auto sizes = is_per_sample(weight, bias) ? std::vector{g.groups, g.channels} : std::vector{g.channels};
  const Tensor coefficients = empty({2, g.groups, g.channels}, dtype, input);
  if (g.numel() == 0) return {zeros(sizes, dtype, input), zeros(sizes, dtype, input), coefficients, {}};
  const BackwardSums result{empty(sizes, dtype, input), empty(sizes, dtype, input), coefficients, {}};
  const Launch launch(input);
  const Prepared prepared(g, mean, invstd, weight, bias, dtype);
  const Counted counted = counted_kernel(parts ? "backward_sums_of_parts" : "backward_sums", g, of.x.scalar_type());
  dispatch_dtype(op, of.x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Layout at = layout_of(g);
    const auto p = prepared.parameters<A>(negative_slope);
    static_assert(sizeof(Sums<A>) == 2 * sizeof(A));
    Tensor partial;
    if (parts) {
      partial = *parts;
    } else {
      dispatch_activation(of.activation, [&](auto kind) {
        const BackwardTerm<T, kind()> term{{data<T>(of.dy), data<T>(of.x), p, at}};
        partial = partial_of(launch, of.x, term, {of.dy.data_ptr(), of.x.data_ptr()});
      });
    }
    A* const offsets = mutable_data<A>(result.coefficients);
    launch(finish_backward<A>, channel_blocks(g.channels), kThreads, at, g.groups / of.of_statistics.groups,
           reinterpret_cast<const Sums<A>*>(data<A>(partial)), partial.size(1), p, training, offsets, offsets + g.groups * g.channels,
           mutable_data<A>(result.weight), mutable_data<A>(result.bias));
  });
  return result;
}

Tensor backward_input(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& invstd,
                      const OptionalTensor& weight, const OptionalTensor& bias, int64_t activation, double negative_slope,
                      const Tensor& coefficients) {
  constexpr const char* op = "batch_norm_act_backward";
  const BackwardOf of(op, grad_output, input, mean, invstd, weight, bias, activation);
  const Geometry& g = of.g;
  check_groups(op, g);
  const Tensor result = empty(sizes_of(of.x), of.x.scalar_type(), of.x, of.format);
  if (g.numel() == 0) return result;
  const Launch launch(input);
  const Prepared prepared(g, mean, invstd, weight, bias, accumulate_type(input.scalar_type()));
  const Counted counted = counted_kernel("backward", g, of.x.scalar_type());
  dispatch_dtype(op, of.x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Layout at = layout_of(g);
    const auto p = prepared.parameters<A>(negative_slope);
    const A *const offsets = data<A>(coefficients), *const slopes = offsets + g.groups * g.channels;
    dispatch_activation(of.activation, [&](auto kind) {
      dispatch_width<T>(at.run(), {of.x.data_ptr(), of.dy.data_ptr(), result.data_ptr()}, [&](auto width) {
        apply<width()>(launch, GradientTerm<T, kind()>{{data<T>(of.dy), data<T>(of.x), p, at}, mutable_data<T>(result), offsets, slopes});
      });
    });
  });
  return result;
}

void activate_(const Tensor& tensor, int64_t activation, double negative_slope) {
  const auto chosen = activation_of("activation", activation);
  if (chosen == Activation::none || tensor.numel() == 0) return;
  FASTGAN_CHECK("activation", tensor.is_contiguous() || is_channels_last(tensor), "only dense tensors are supported.");
  const Launch launch(tensor);
  const int64_t n = tensor.numel();
  const Counted counted("activation", std::string("forward_") + dtype_name(tensor.scalar_type()) + "_cuda");
  dispatch_dtype("activation", tensor.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    dispatch_activation(chosen, [&](auto kind) {
      dispatch_width<T>(n, {tensor.data_ptr()}, [&](auto width) {
        launch(activate_in_place<T, kind(), width()>, blocks_for(n, kThreads * width()), kThreads, mutable_data<T>(tensor),
               n / width(), static_cast<Compute<T>>(negative_slope));
      });
    });
  });
}

Tensor activation_backward(const Tensor& grad_output, const Tensor& output, int64_t activation,
                           double negative_slope) {
  const auto chosen = activation_of("activation_backward", activation);
  check_same("activation_backward", "grad_output", grad_output, output);
  if (chosen == Activation::none || output.numel() == 0) return grad_output;
  const auto [y, format] = dense(output);
  const Tensor dy = as_format(grad_output, format);
  const Tensor result = empty(sizes_of(y), y.scalar_type(), y, format);
  const Launch launch(output);
  const int64_t n = y.numel();
  const Counted counted("activation", std::string("backward_") + dtype_name(output.scalar_type()) + "_cuda");
  dispatch_dtype("activation_backward", y.scalar_type(), [&, &y = y](auto tag) {
    using T = decltype(tag);
    dispatch_activation(chosen, [&](auto kind) {
      dispatch_width<T>(n, {dy.data_ptr(), y.data_ptr(), result.data_ptr()}, [&](auto width) {
        launch(activation_gradient<T, kind(), width()>, blocks_for(n, kThreads * width()), kThreads, data<T>(dy), data<T>(y),
               mutable_data<T>(result), n / width(), static_cast<Compute<T>>(negative_slope));
      });
    });
  });
  return result;
}

}  // namespace fastgan::batch_norm_act

#include "bce/arguments.h"
#include "bce/cuda_kernels.cuh"
#include "common/counters.h"
#include "common/cuda.cuh"

namespace fastgan::bce {
namespace {

template <class T>
Inputs<T> inputs_of(const Arguments& a) {
  return {data<T>(a.input), data<T>(a.target), a.weight ? data<T>(*a.weight) : nullptr,
          a.pos_weight ? data<T>(*a.pos_weight) : nullptr, a.from_logits};
}

Tensor forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  constexpr const char* op = "bce";
  const auto a = checked(op, input, target, weight, pos_weight, from_logits, reduction);
  const int64_t n = a.input.numel();
  const Tensor output = empty(reduction == kNone ? sizes_of(input) : std::vector<int64_t>{}, input.scalar_type(), input);
  if (reduction == kNone && n == 0) return output;
  const Launch launch(input);
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Inputs<T> in = inputs_of<T>(a);
    if (reduction == kNone) {
      launch(elementwise_loss<T>, blocks_for(n, kThreads), kThreads, in, mutable_data<T>(output), n);
    } else {
      const unsigned blocks = blocks_for(n, 4 * kThreads);
      const Tensor partial = empty({blocks}, accumulate_type(input.scalar_type()), input);
      launch(partial_loss<T>, blocks, kThreads, in, mutable_data<A>(partial), n);
      launch(finish_loss<T>, 1, kThreads, data<A>(partial), blocks, static_cast<A>(divisor_of(reduction, n)),
             mutable_data<T>(output));
    }
  });
  return output;
}

Tensor backward(const Tensor& grad_output, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  constexpr const char* op = "bce_backward";
  const auto a = checked(op, input, target, weight, pos_weight, from_logits, reduction);
  const int64_t n = a.input.numel();
  check_grad_output(op, grad_output, input, reduction);
  const Tensor grad = as_contiguous(grad_output);
  const Tensor result = empty(sizes_of(input), input.scalar_type(), input);
  if (n == 0) return result;
  const Launch launch(input);
  const Counted counted("bce", std::string("backward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    launch(gradient<T>, blocks_for(n, kThreads), kThreads, inputs_of<T>(a), data<T>(grad), reduction != kNone,
           static_cast<Compute<T>>(divisor_of(reduction, n)), mutable_data<T>(result), n);
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> adversarial(const Tensor& input, const std::vector<double>& targets,
                                               const std::vector<double>& weights, bool from_logits) {
  constexpr const char* op = "adversarial_bce";
  check_parts(op, input, targets, weights);
  const auto parts = static_cast<int64_t>(targets.size());
  FASTGAN_CHECK(op, parts <= kMostParts, "there are ", parts, " targets; the CUDA kernel takes up to ", kMostParts, ".");
  const Tensor scores = as_contiguous(input);
  const auto dtype = accumulate_type(input.scalar_type());
  const Tensor losses = empty({parts}, dtype, input), probability = empty({parts}, dtype, input);
  const Tensor grad = empty(sizes_of(input), dtype, input);
  const Launch launch(input);
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    Labels<A> labels{};
    for (int64_t part = 0; part < parts; ++part) {
      labels.target[part] = static_cast<A>(targets[part]);
      labels.weight[part] = static_cast<A>(weights[part]);
    }
    launch(adversarial_parts<T>, static_cast<unsigned>(parts), kThreads, data<T>(scores), mutable_data<A>(grad),
           input.numel() / parts, labels, from_logits, mutable_data<A>(losses), mutable_data<A>(probability));
  });
  return {losses, probability, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CUDA, m) {
  m.impl("_bce", TORCH_BOX(&forward));
  m.impl("_bce_backward", TORCH_BOX(&backward));
  m.impl("_adversarial_bce", TORCH_BOX(&adversarial));
}

}  // namespace fastgan::bce

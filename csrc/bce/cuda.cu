#include "bce/arguments.h"
#include "bce/bce.h"
#include "common/counters.h"
#include "common/cuda.cuh"

namespace fastgan::bce {
namespace {

using namespace fastgan::cuda;

template <class T>
struct Inputs {
  const T *input, *target, *weight, *pos_weight;  // weights may be null
  bool from_logits;

  explicit Inputs(const Arguments& a)
      : input(data<T>(a.input)),
        target(data<T>(a.target)),
        weight(a.weight ? data<T>(*a.weight) : nullptr),
        pos_weight(a.pos_weight ? data<T>(*a.pos_weight) : nullptr),
        from_logits(a.from_logits) {}

  __device__ Element<Compute<T>> at(int64_t i) const {
    using A = Compute<T>;
    const A x = to_compute(input[i]), t = to_compute(target[i]);
    auto e = from_logits ? from_logit<A>(x, t, pos_weight ? to_compute(pos_weight[i]) : A(1)) : from_probability<A>(x, t);
    if (weight) {
      const A w = to_compute(weight[i]);
      e.loss *= w;
      e.grad *= w;
    }
    return e;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) elementwise_loss(Inputs<T> in, T* loss, int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    loss[i] = from_compute<T>(in.at(i).loss);
  }
}

// Each block's sum over its own share; the share is fixed by n.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) partial_loss(Inputs<T> in, A* partial, int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  A sum = 0, unused = 0;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) sum += in.at(i).loss;
  sum_over_block(sum, unused);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) finish_loss(const A* partial, int64_t blocks, A divisor, T* loss) {
  A sum = 0, unused = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum_over_block(sum, unused);
  if (threadIdx.x == 0) *loss = from_compute<T>(sum / divisor);
}

template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) gradient(Inputs<T> in, const T* grad, bool one_grad, A divisor, T* to,
                                                     int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += stride) {
    to[i] = from_compute<T>(to_compute(grad[one_grad ? 0 : i]) / divisor * in.at(i).grad);
  }
}

inline constexpr int kMostParts = 8;

template <class A>
struct Labels {
  A target[kMostParts], weight[kMostParts];
};

// One block a part of the batch: its loss, its gradient and its mean probability in one launch. A discriminator's output
// is a few numbers an image, so one block is enough.
template <class T, class A = Compute<T>>
__global__ void __launch_bounds__(kThreads) adversarial_parts(const T* input, A* grad, int64_t n, Labels<A> labels,
                                                              bool from_logits, A* losses, A* probability) {
  const int64_t part = blockIdx.x;
  const A target = labels.target[part], scale = labels.weight[part] / static_cast<A>(n);
  A loss = 0, sum = 0;
  for (int64_t i = part * n + threadIdx.x; i < (part + 1) * n; i += kThreads) {
    const A x = to_compute(input[i]);
    const auto e = from_logits ? from_logit<A>(x, target, A(1)) : from_probability<A>(x, target);
    grad[i] = scale * e.grad;
    loss += e.loss;
    sum += e.probability;
  }
  sum_over_block(loss, sum);
  if (threadIdx.x == 0) {
    losses[part] = loss / static_cast<A>(n);
    probability[part] = sum / static_cast<A>(n);
  }
}

Tensor forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  constexpr const char* op = "bce";
  const auto a = checked(op, input, target, weight, pos_weight, from_logits, reduction);
  const int64_t n = a.input.numel();
  const Tensor output = empty(reduction == kNone ? sizes_of(input) : std::vector<int64_t>{}, input.scalar_type(), input);
  if (reduction == kNone && n == 0) return output;
  const Launch stream(input);
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const Inputs<T> in(a);
    if (reduction == kNone) {
      elementwise_loss<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(in, mutable_data<T>(output), n);
    } else {
      const unsigned blocks = blocks_for(n, 4 * kThreads);
      const Tensor partial = empty({blocks}, accumulate_type(input.scalar_type()), input);
      partial_loss<<<blocks, kThreads, 0, stream>>>(in, mutable_data<A>(partial), n);
      finish_loss<T><<<1, kThreads, 0, stream>>>(data<A>(partial), blocks, static_cast<A>(divisor_of(reduction, n)),
                                                 mutable_data<T>(output));
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

Tensor backward(const Tensor& grad_output, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  constexpr const char* op = "bce_backward";
  const auto a = checked(op, input, target, weight, pos_weight, from_logits, reduction);
  const int64_t n = a.input.numel();
  check_grad_output(op, grad_output, input, reduction);
  const Tensor grad = torch::stable::contiguous(grad_output);
  const Tensor result = empty(sizes_of(input), input.scalar_type(), input);
  if (n == 0) return result;
  const Launch stream(input);
  const Counted counted("bce", std::string("backward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    gradient<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(
        Inputs<T>(a), data<T>(grad), reduction != kNone, static_cast<Compute<T>>(divisor_of(reduction, n)),
        mutable_data<T>(result), n);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> adversarial(const Tensor& input, const std::vector<double>& targets,
                                               const std::vector<double>& weights, bool from_logits) {
  constexpr const char* op = "adversarial_bce";
  check_parts(op, input, targets, weights);
  const auto parts = static_cast<int64_t>(targets.size());
  FASTGAN_CHECK(op, parts <= kMostParts, "there are ", parts, " targets; the CUDA kernel takes up to ", kMostParts, ".");
  const Tensor scores = torch::stable::contiguous(input);
  const auto dtype = accumulate_type(input.scalar_type());
  const Tensor losses = empty({parts}, dtype, input), probability = empty({parts}, dtype, input);
  const Tensor grad = empty(sizes_of(input), dtype, input);
  const Launch stream(input);
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()) + "_cuda");
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    Labels<A> labels{};
    for (int64_t part = 0; part < parts; ++part) {
      labels.target[part] = static_cast<A>(targets[part]);
      labels.weight[part] = static_cast<A>(weights[part]);
    }
    adversarial_parts<<<static_cast<unsigned>(parts), kThreads, 0, stream>>>(
        data<T>(scores), mutable_data<A>(grad), input.numel() / parts, labels, from_logits, mutable_data<A>(losses),
        mutable_data<A>(probability));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
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

#include "bce/arguments.h"
#include "bce/bce.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "common/counters.h"
#include "common/dispatch.h"

namespace fastgan::bce {
namespace {

constexpr int64_t kChunk = 4096;  // elements summed by one task; sums are merged in order, whatever the thread count
template <class T>
Element<Compute<T>> element(const T* input, const T* target, const T* pos_weight, bool from_logits, int64_t i) {
  using A = Compute<T>;
  const A x = to_compute(input[i]), t = to_compute(target[i]);
  return from_logits ? from_logit<A>(x, t, pos_weight ? to_compute(pos_weight[i]) : A(1)) : from_probability<A>(x, t);
}

// sum over [begin, end) of term(i), in chunks fixed by n.
template <class Term>
double chunked_sum(int64_t n, const Term& term) {
  std::vector<double> partial((n + kChunk - 1) / kChunk);
  torch::stable::parallel_for(0, static_cast<int64_t>(partial.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      double sum = 0;
      for (int64_t i = chunk * kChunk; i < std::min(n, (chunk + 1) * kChunk); ++i) sum += term(i);
      partial[chunk] = sum;
    }
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

// lets_nan: whether a NaN is let through, as it would be by the logarithm; torch's loss does not.
template <class T>
void check_probabilities(const char* op, const T* input, int64_t n, bool lets_nan) {
  for (int64_t i = 0; i < n; ++i) {
    const double p = to_compute(input[i]);
    FASTGAN_CHECK(op, (p >= 0 && p <= 1) || (lets_nan && std::isnan(p)), "all elements of 'input' should be between 0 and 1, and one is ",
                  p, "; use bce_with_logits for scores that are not probabilities.");
  }
}

template <class T>
const T* data_or_null(const OptionalTensor& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

Tensor forward(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
               const OptionalTensor& pos_weight, bool from_logits, int64_t reduction) {
  constexpr const char* op = "bce";
  const auto a = checked(op, input, target, weight, pos_weight, from_logits, reduction);
  const int64_t n = a.input.numel();
  const Tensor output = empty(reduction == kNone ? sizes_of(input) : std::vector<int64_t>{}, input.scalar_type(), input);
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()));
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const T *x = data<T>(a.input), *t = data<T>(a.target), *w = data_or_null<T>(a.weight);
    const T* p = data_or_null<T>(a.pos_weight);
    if (!from_logits) check_probabilities(op, x, n, false);
    const auto loss = [&](int64_t i) {
      return static_cast<double>(element(x, t, p, from_logits, i).loss) * (w ? to_compute(w[i]) : 1.0);
    };
    T* to = mutable_data<T>(output);
    if (reduction == kNone) {
      torch::stable::parallel_for(0, n, kChunk, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = from_compute<T>(static_cast<Compute<T>>(loss(i)));
      });
    } else {
      const double sum = chunked_sum(n, loss);
      *to = from_compute<T>(static_cast<Compute<T>>(sum / divisor_of(reduction, n)));
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
  const Counted counted("bce", std::string("backward_") + dtype_name(input.scalar_type()));
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const T *x = data<T>(a.input), *t = data<T>(a.target), *w = data_or_null<T>(a.weight);
    const T *p = data_or_null<T>(a.pos_weight), *g = data<T>(grad);
    T* to = mutable_data<T>(result);
    const A divisor = static_cast<A>(divisor_of(reduction, n));
    torch::stable::parallel_for(0, n, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const A outer = to_compute(g[reduction == kNone ? i : 0]) / divisor * (w ? to_compute(w[i]) : A(1));
        to[i] = from_compute<T>(outer * element(x, t, p, from_logits, i).grad);
      }
    });
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> adversarial(const Tensor& input, const std::vector<double>& targets,
                                               const std::vector<double>& weights, bool from_logits) {
  constexpr const char* op = "adversarial_bce";
  check_parts(op, input, targets, weights);
  const auto groups = static_cast<int64_t>(targets.size());
  const Tensor scores = as_contiguous(input);
  const auto dtype = accumulate_type(input.scalar_type());
  const Tensor losses = empty({groups}, dtype, input), probability = empty({groups}, dtype, input);
  const Tensor grad = empty(sizes_of(input), dtype, input);
  const int64_t n = input.numel() / groups;
  const Counted counted(op, std::string("forward_") + dtype_name(input.scalar_type()));
  dispatch_dtype(op, input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = Compute<T>;
    const T* x = data<T>(scores);
    A* to = mutable_data<A>(grad);
    if (!from_logits) check_probabilities(op, x, groups * n, true);
    std::vector<double> probabilities((n + kChunk - 1) / kChunk);
    for (int64_t group = 0; group < groups; ++group) {
      const A target = static_cast<A>(targets[group]), scale = static_cast<A>(weights[group] / static_cast<double>(n));
      const int64_t first = group * n;
      std::fill(probabilities.begin(), probabilities.end(), 0.0);
      const double loss = chunked_sum(n, [&](int64_t i) {
        const A value = to_compute(x[first + i]);
        const auto e = from_logits ? from_logit<A>(value, target, A(1)) : from_probability<A>(value, target);
        to[first + i] = scale * e.grad;
        probabilities[i / kChunk] += static_cast<double>(e.probability);  // one chunk is one task's
        return static_cast<double>(e.loss);
      });
      const double elements = static_cast<double>(n);
      mutable_data<A>(losses)[group] = static_cast<A>(loss / elements);
      mutable_data<A>(probability)[group] =
          static_cast<A>(std::accumulate(probabilities.begin(), probabilities.end(), 0.0) / elements);
    }
  });
  return {losses, probability, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastgan, CPU, m) {
  m.impl("_bce", TORCH_BOX(&forward));
  m.impl("_bce_backward", TORCH_BOX(&backward));
  m.impl("_adversarial_bce", TORCH_BOX(&adversarial));
}

}  // namespace fastgan::bce

// The kernels of csrc/bce/cuda_kernels.cuh against bce.h's formulas in float64.
#include "bce/cuda_kernels.cuh"
#include "check.h"

namespace fastgan::bce {
namespace {

template <class T>
struct Sample {
  std::vector<T> input, target, weight, pos_weight;
  bool from_logits;

  Sample(int64_t n, bool from_logits)
      : input(check::draw<T>(n)), target(check::draw<T>(n)), weight(check::draw<T>(n)), pos_weight(check::draw<T>(n)),
        from_logits(from_logits) {
    using A = Compute<T>;
    for (int64_t i = 0; i < n; ++i) {
      target[i] = from_compute<T>(A(i % 3) / 2);
      if (!from_logits) input[i] = from_compute<T>(1 / (1 + std::exp(-to_compute(input[i]))));
    }
    if (!from_logits) input[0] = from_compute<T>(A(0));  // where torch clamps the logarithm
    else input[0] = from_compute<T>(A(-90));
  }
  Inputs<T> inputs() const {
    return {input.data(), target.data(), weight.data(), from_logits ? pos_weight.data() : nullptr, from_logits};
  }
  Element<double> truth(int64_t i) const {
    const double x = to_compute(input[i]), t = to_compute(target[i]), w = to_compute(weight[i]);
    auto e = from_logits ? from_logit<double>(x, t, to_compute(pos_weight[i])) : from_probability<double>(x, t);
    return {e.loss * w, e.grad * w, e.probability};
  }
};

template <class T>
void check_losses(const std::string& name, int64_t n, bool from_logits, unsigned seed) {
  using A = Compute<T>;
  const emulator::Launch launch(seed);
  const Sample<T> sample(n, from_logits);
  std::vector<double> losses, gradients;
  double sum = 0;
  const auto upstream = check::draw<T>(n);
  for (int64_t i = 0; i < n; ++i) {
    const auto e = sample.truth(i);
    losses.push_back(e.loss);
    gradients.push_back(e.grad * to_compute(upstream[i]));
    sum += e.loss;
  }
  auto loss = check::unwritten<T>(n), grad = check::unwritten<T>(n), mean = check::unwritten<T>(1);
  launch(elementwise_loss<T>, blocks_for(n, kThreads), kThreads, sample.inputs(), loss.data(), n);
  check::close(name + ", losses", loss, losses, check::kLimit<T>);

  const unsigned blocks = blocks_for(n, 4 * kThreads);
  auto partial = check::unwritten<A>(blocks);
  launch(partial_loss<T>, blocks, kThreads, sample.inputs(), partial.data(), n);
  launch(finish_loss<T>, 1, kThreads, partial.data(), blocks, A(n), mean.data());
  check::close(name + ", mean", mean, {sum / n}, check::kLimit<T> * 4);

  launch(gradient<T>, blocks_for(n, kThreads), kThreads, sample.inputs(), upstream.data(), false, A(1), grad.data(), n);
  check::close(name + ", gradients", grad, gradients, check::kLimit<T>);
}

template <class T>
void check_adversarial(const std::string& name, int64_t n, bool from_logits) {
  using A = Compute<T>;
  const emulator::Launch launch(3);
  constexpr int kParts = 3;
  const Sample<T> sample(kParts * n, from_logits);
  const Labels<A> labels{{A(1), A(0), A(0.9)}, {A(1), A(2), A(0.5)}};
  auto grad = check::unwritten<A>(kParts * n), losses = check::unwritten<A>(kParts), probability = losses;
  launch(adversarial_parts<T>, kParts, kThreads, sample.input.data(), grad.data(), n, labels, from_logits, losses.data(),
         probability.data());
  std::vector<double> losses_truth(kParts), probability_truth(kParts), grad_truth;
  for (int64_t i = 0; i < kParts * n; ++i) {
    const int64_t part = i / n;
    const double x = to_compute(sample.input[i]), t = labels.target[part];
    const auto e = from_logits ? from_logit<double>(x, t, 1) : from_probability<double>(x, t);
    losses_truth[part] += e.loss / n;
    probability_truth[part] += e.probability / n;
    grad_truth.push_back(e.grad * labels.weight[part] / n);
  }
  const double limit = std::is_same_v<A, double> ? 1e-12 : 1e-5;
  check::close(name + ", losses", losses, losses_truth, limit);
  check::close(name + ", probability", probability, probability_truth, limit);
  check::close(name + ", gradient", grad, grad_truth, limit);
}

}  // namespace
}  // namespace fastgan::bce

int main() {
  check::for_each_dtype([](auto tag, const std::string& dtype) {
    using T = decltype(tag);
    for (const bool from_logits : {true, false}) {
      const std::string name = dtype + (from_logits ? ", logits" : ", probabilities");
      for (const int64_t n : {1, 63, 1500}) {
        fastgan::bce::check_losses<T>(name + ", " + std::to_string(n), n, from_logits, static_cast<unsigned>(n));
      }
      fastgan::bce::check_adversarial<T>(name + ", adversarial, 1", 1, from_logits);
      fastgan::bce::check_adversarial<T>(name + ", adversarial, 301", 301, from_logits);
    }
  });
}

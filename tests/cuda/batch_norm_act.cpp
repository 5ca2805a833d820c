// The kernels of csrc/batch_norm_act/cuda_*.cuh against the formulas of batch_norm_act.h in float64.
#include "batch_norm_act/cuda_elementwise.cuh"
#include "batch_norm_act/cuda_sums.cuh"
#include "check.h"

namespace fastgan::batch_norm_act {
namespace {

struct Truth {
  std::vector<double> mean, invstd, y, grad_x, grad_weight, grad_bias, running_mean, running_var;
};

constexpr double kSlope = 0.2, kEps = 1e-5, kMomentum = 0.1;

Truth truth_of(const Layout& at, const std::vector<double>& x, const std::vector<double>& grad,
               const std::vector<double>& weight, const std::vector<double>& bias) {
  const int64_t stats = at.groups * at.channels, n = at.count();
  Truth t{std::vector<double>(stats), std::vector<double>(stats), x, x, std::vector<double>(at.channels),
          std::vector<double>(at.channels), std::vector<double>(at.channels, 0.5), std::vector<double>(at.channels, 2.0)};
  for (int64_t group = 0; group < at.groups; ++group) {
    for (int64_t c = 0; c < at.channels; ++c) {
      double mean = 0, variance = 0, sum = 0, sum_d = 0;
      for (int64_t e = 0; e < n; ++e) mean += x[at.offset(group, c, e)] / n;
      for (int64_t e = 0; e < n; ++e) variance += std::pow(x[at.offset(group, c, e)] - mean, 2) / n;
      const double invstd = 1 / std::sqrt(variance + kEps), scale = weight[c] * invstd;
      const auto gradient = [&](int64_t i) { return (x[i] - mean) * scale + bias[c] > 0 ? grad[i] : kSlope * grad[i]; };
      for (int64_t e = 0; e < n; ++e) {
        const int64_t i = at.offset(group, c, e);
        const double z = (x[i] - mean) * scale + bias[c];
        t.y[i] = z > 0 ? z : kSlope * z;
        sum += gradient(i);
        sum_d += gradient(i) * (x[i] - mean);
      }
      for (int64_t e = 0; e < n; ++e) {
        const int64_t i = at.offset(group, c, e);
        t.grad_x[i] = scale * (gradient(i) - sum / n - (x[i] - mean) * invstd * invstd * sum_d / n);
      }
      t.mean[group * at.channels + c] = mean;
      t.invstd[group * at.channels + c] = invstd;
      t.grad_weight[c] += invstd * sum_d;
      t.grad_bias[c] += sum;
      t.running_mean[c] += kMomentum * (mean - t.running_mean[c]);
      t.running_var[c] += kMomentum * (variance * n / (n - 1) - t.running_var[c]);
    }
  }
  return t;
}

template <class T, int width>
void check_layout(const std::string& name, const Layout& at, unsigned seed, double first = 0) {
  using A = Compute<T>;
  const emulator::Launch launch(seed);
  const int64_t stats = at.groups * at.channels, numel = at.numel();
  auto x = check::draw<T>(numel, 1.5, 3.0);
  const auto grad = check::draw<T>(numel);
  if (first) x[0] = from_compute<T>(A(first));
  auto weight = check::draw<A>(at.channels), bias = check::draw<A>(at.channels);
  weight[0] = 0;
  const Truth truth = truth_of(at, check::wide(x), check::wide(grad), check::wide(weight), check::wide(bias));

  const int64_t chunks = chunks_for<width>(at);
  std::vector<Moments<A>> moments(at.groups * chunks * at.channels);
  auto mean = check::unwritten<A>(stats), invstd = check::unwritten<A>(stats);
  std::vector<A> running_mean(at.channels, A(0.5)), running_var(at.channels, A(2));
  int64_t batches = 5;
  const unsigned channel_blocks = (at.channels + kWarps - 1) / kWarps;
  partial_sums<width>(launch, MomentsTerm<T>{{x.data(), at}}, chunks, moments.data());
  launch(finish_statistics<T>, channel_blocks, kThreads, x.data(), at, moments.data(), chunks, kMomentum, kEps, mean.data(),
         invstd.data(), running_mean.data(), running_var.data(), &batches);
  check::holds(batches == 5 + at.groups, name + ", batches");
  const double limit = std::is_same_v<A, double> ? 1e-12 : 2e-5;  // of what stays in the compute type
  const double mean_limit = first ? 10 * limit : limit;  // the outlier's deviation is many times the mean
  check::close(name + ", mean", mean, truth.mean, mean_limit);
  check::close(name + ", invstd", invstd, truth.invstd, limit);
  check::close(name + ", running_mean", running_mean, truth.running_mean, mean_limit);
  check::close(name + ", running_var", running_var, truth.running_var, limit);

  // The same of moments that are not of x - pivot, of which some may be of nothing.
  constexpr int64_t kTaken = 40;
  std::vector<Moments<A>> taken(kTaken * stats);
  for (int64_t i = 0; i < stats; ++i) {
    const int64_t group = i / at.channels, channel = i % at.channels;
    for (int64_t e = 0; e < at.count(); ++e) {
      taken[(group * kTaken + e % kTaken) * at.channels + channel].add(to_compute(x[at.offset(group, channel, e)]));
    }
  }
  auto mean_again = check::unwritten<A>(stats), invstd_again = mean_again;
  A* const none = nullptr;
  launch(finish_statistics<T>, channel_blocks, kThreads, static_cast<const T*>(nullptr), at, taken.data(), kTaken,
         kMomentum, kEps, mean_again.data(), invstd_again.data(), none, none, static_cast<int64_t*>(nullptr));
  check::close(name + ", mean of moments", mean_again, truth.mean, 10 * mean_limit);
  check::close(name + ", invstd of moments", invstd_again, truth.invstd, 10 * limit);

  const Parameters<A> p{mean.data(), invstd.data(), weight.data(), bias.data(), false, A(kSlope)};
  auto y = check::unwritten<T>(numel), grad_x = check::unwritten<T>(numel);
  apply<width>(launch, ForwardTerm<T, Activation::leaky_relu>{{x.data(), at}, y.data(), p});
  check::close(name + ", forward", y, truth.y, check::kLimit<T>);

  std::vector<Sums<A>> partial(at.groups * chunks * at.channels);
  auto offsets = check::unwritten<A>(stats), slopes = check::unwritten<A>(stats);
  auto grad_weight = check::unwritten<A>(at.channels), grad_bias = check::unwritten<A>(at.channels);
  partial_sums<width>(launch, BackwardTerm<T, Activation::leaky_relu>{{grad.data(), x.data(), p, at}}, chunks, partial.data());
  launch(finish_backward<A>, channel_blocks, kThreads, at, int64_t{1}, partial.data(), chunks, p, true, offsets.data(),
         slopes.data(), grad_weight.data(), grad_bias.data());
  apply<width>(launch, GradientTerm<T, Activation::leaky_relu>{{grad.data(), x.data(), p, at}, grad_x.data(), offsets.data(), slopes.data()});
  check::close(name + ", grad_weight", grad_weight, truth.grad_weight, limit);
  check::close(name + ", grad_bias", grad_bias, truth.grad_bias, limit);
  check::close(name + ", grad_x", grad_x, truth.grad_x, check::kLimit<T>);
}

template <class T>
void check_dtype(const std::string& dtype) {
  struct Shape {
    const char* name;
    Layout at;
  };
  const Shape shapes[] = {
      {"two values", {1, 2, 1, 1, true}},        {"one pixel, 33 channels", {1, 7, 33, 1, true}},
      {"NHWC, 3 channels", {1, 5, 3, 21, true}}, {"NHWC, groups", {3, 2, 64, 10, true}},
      {"NHWC, chunks", {1, 1, 33, 260, true}},   {"NCHW, 3 channels", {1, 5, 3, 21, false}},
      {"NCHW, groups", {2, 2, 5, 16, false}},    {"NCHW, chunks", {1, 8, 1, 1024, false}},
  };
  unsigned seed = 0;
  for (const auto& [shape, at] : shapes) {
    const std::string name = dtype + ", " + shape;
    check_layout<T, 1>(name, at, ++seed);
    if (at.run() % kPackWidth<T> == 0) check_layout<T, kPackWidth<T>>(name + ", packs", at, ++seed);
  }
}

template <class T, Activation kind, int width>
void check_activation(const std::string& name, int64_t n) {
  using A = Compute<T>;
  const emulator::Launch launch(5);
  const auto x = check::draw<T>(n), grad = check::draw<T>(n);
  auto y = x, grad_x = check::unwritten<T>(n);
  const unsigned blocks = blocks_for(n, kThreads * width);
  launch(activate_in_place<T, kind, width>, blocks, kThreads, y.data(), n / width, A(kSlope));
  std::vector<double> truth = check::wide(x), grad_truth = check::wide(grad);
  for (int64_t i = 0; i < n; ++i) {
    const double z = truth[i], e = std::exp(-z), v = to_compute(y[i]);
    if (kind == Activation::relu) truth[i] = z > 0 ? z : 0;
    if (kind == Activation::leaky_relu) truth[i] = z > 0 ? z : kSlope * z;
    if (kind == Activation::tanh) truth[i] = std::tanh(z);
    if (kind == Activation::sigmoid) truth[i] = 1 / (1 + e);
    const double slope = kind == Activation::relu ? 0 : kSlope;
    grad_truth[i] *= kind == Activation::tanh ? 1 - v * v : kind == Activation::sigmoid ? v * (1 - v) : v > 0 ? 1 : slope;
  }
  check::close(name + ", forward", y, truth, check::kLimit<T>);
  launch(activation_gradient<T, kind, width>, blocks, kThreads, grad.data(), y.data(), grad_x.data(), n / width, A(kSlope));
  check::close(name + ", backward", grad_x, grad_truth, check::kLimit<T>);
}

void check_given_statistics() {
  const std::vector<float> mean{1, 2, 3}, variance{4, 0, 1};
  auto to_mean = check::unwritten<float>(6), to_invstd = check::unwritten<float>(6);
  emulator::Launch{0}(given_statistics<float>, 1, kThreads, int64_t{2}, int64_t{3}, mean.data(), variance.data(), 1.0,
                      to_mean.data(), to_invstd.data());
  check::close("given mean", to_mean, {1, 2, 3, 1, 2, 3}, 0);
  const double a = 1 / std::sqrt(5.0), b = 1 / std::sqrt(2.0);
  check::close("given invstd", to_invstd, {a, 1, b, a, 1, b}, 1e-6);
}

}  // namespace
}  // namespace fastgan::batch_norm_act

int main() {
  using namespace fastgan::batch_norm_act;
  using fastgan::Activation;
  check::for_each_dtype([](auto tag, const char* name) { check_dtype<decltype(tag)>(name); });
  check_layout<float, 1>("NCHW, an outlier first", {1, 8, 1, 1024, false}, 1, 1e6);
  check_layout<float, 1>("NHWC, an outlier first", {1, 8, 1, 1024, true}, 1, 1e6);
  check_activation<float, Activation::relu, 1>("relu", 1001);
  check_activation<__half, Activation::leaky_relu, 8>("leaky_relu", 4008);
  check_activation<__nv_bfloat16, Activation::tanh, 1>("tanh", 1001);
  check_activation<double, Activation::sigmoid, 2>("sigmoid", 1000);
  check_given_statistics();
}

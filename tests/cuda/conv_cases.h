// What the checks of the convolution's kernels share: layers, operands as the kernels take them, and what is expected.
#pragma once

#include "check.h"
#include "conv/cuda_pack.cuh"
#include "conv/cuda_tile.cuh"

namespace fastgan::conv {
namespace {

// small [images, small channels, ...] = convolution of large [images, large channels, ...] with weight [small, large, ky, kx].
struct Layer {
  const char* name;
  int images, small_channels, large_channels, large_y, large_x, kernel_y, kernel_x, stride, padding, dilation;
  Activation activation;  // of the block before

  static int small_of(int large, int kernel, const Layer& l) {
    return (large + 2 * l.padding - l.dilation * (kernel - 1) - 1) / l.stride + 1;
  }
  int small_y() const { return small_of(large_y, kernel_y, *this); }
  int small_x() const { return small_of(large_x, kernel_x, *this); }
  int64_t small_numel() const { return int64_t{images} * small_channels * small_y() * small_x(); }
  int64_t large_numel() const { return int64_t{images} * large_channels * large_y * large_x; }
  int64_t weight_numel() const { return int64_t{small_channels} * large_channels * kernel_y * kernel_x; }

  // Calls body(small, weight, large) with the indices of every product; maps are channels-last, the weight is contiguous.
  template <class Body>
  void each(const Body& body) const {
    for (int n = 0; n < images; ++n)
      for (int y = 0; y < small_y(); ++y)
        for (int x = 0; x < small_x(); ++x)
          for (int ky = 0; ky < kernel_y; ++ky)
            for (int kx = 0; kx < kernel_x; ++kx) {
              const int from_y = y * stride - padding + ky * dilation, from_x = x * stride - padding + kx * dilation;
              if (from_y < 0 || from_y >= large_y || from_x < 0 || from_x >= large_x) continue;
              for (int s = 0; s < small_channels; ++s)
                for (int l = 0; l < large_channels; ++l)
                  body(((int64_t{n} * small_y() + y) * small_x() + x) * small_channels + s,
                       ((int64_t{s} * large_channels + l) * kernel_y + ky) * kernel_x + kx,
                       ((int64_t{n} * large_y + from_y) * large_x + from_x) * large_channels + l);
            }
  }
};

constexpr Layer kLayers[] = {
    {"3 to 64", 2, 64, 3, 8, 8, 4, 4, 2, 1, 1, Activation::leaky_relu},
    {"32 to 24", 1, 24, 32, 8, 8, 4, 4, 2, 1, 1, Activation::relu},
    {"40 to 130", 2, 130, 40, 5, 4, 3, 2, 2, 1, 1, Activation::leaky_relu},
    {"100 to one pixel", 3, 17, 100, 2, 2, 2, 2, 1, 0, 1, Activation::tanh},
    {"3x3, odd", 2, 5, 17, 7, 9, 3, 3, 1, 1, 1, Activation::sigmoid},
    {"one by one", 2, 15, 31, 5, 3, 1, 1, 1, 0, 1, Activation::none},
    {"7x7, stride 2", 1, 8, 3, 11, 13, 7, 7, 2, 3, 1, Activation::leaky_relu},
    {"5x2, stride 3", 2, 6, 9, 13, 11, 5, 2, 3, 2, 1, Activation::relu},
    {"6x6, far padding", 1, 3, 8, 5, 4, 6, 6, 2, 5, 1, Activation::sigmoid},
    {"dilation", 1, 9, 6, 12, 10, 3, 3, 2, 2, 2, Activation::tanh},
    {"stride beyond kernel", 1, 4, 6, 9, 8, 2, 2, 3, 0, 1, Activation::sigmoid},
};

// The largest error: of float32 by tensor cores, that of rounding both operands to 10 bits.
template <class T, Unit unit>
constexpr double kLimit = std::is_same_v<T, float> && unit != Unit::fma ? 1e-3 : check::kLimit<T>;

template <class T>
struct Case {
  Layer layer;
  std::vector<T> small, large, weight;
  explicit Case(const Layer& l)
      : layer(l), small(check::draw<T>(l.small_numel())), large(check::draw<T>(l.large_numel())),
        weight(check::draw<T>(l.weight_numel(), 0.2)) {}
};

template <class Out>
Store<Out> store_of(std::vector<Out>& output, std::vector<Compute<Out>>& partial, const Plan& plan, int numel, bool in_chunks) {
  if (plan.splits > 1) partial = check::unwritten<Compute<Out>>(int64_t{plan.splits} * plan.tiles * numel);
  Store<Out> store{};
  store.output = output.data();
  store.partial = plan.splits > 1 ? partial.data() : nullptr;
  store.in_chunks = in_chunks;
  return store;
}

// A map in whole chunks.
template <class T>
std::vector<T> pad(const std::vector<T>& map, int channels) {
  auto to = check::unwritten<T>(static_cast<int64_t>(map.size()) / channels * padded<T>(channels));
  emulator::Launch{5}(pad_channels<T>, dim3(2, padded<T>(channels) / kPackWidth<T>), kThreads, map.data(), channels,
                      static_cast<int64_t>(map.size()) / channels, to.data());
  return to;
}

// A weight's panels, packed by one launch between those of others: of half as many columns, of nothing, and of itself from float32.
template <class T>
std::vector<T> pack(const emulator::Launch& launch, const Packing<T>& packing, const std::vector<T>& weight) {
  constexpr int kCount = 4, kThis = 2;
  std::vector<float> wide;
  for (const T& value : weight) wide.push_back(static_cast<float>(to_compute(value)));
  Packings<T> all{};
  std::vector<T> panels[kCount];
  unsigned blocks = 0;
  for (int i = 0; i < kCount; ++i) {
    Packing<T>& one = all.of[i] = packing;
    if (i == 0) one.outs = (one.outs + 1) / 2;
    if (i == 1) one.steps = 0;
    if (i == 3 && std::is_same_v<T, __nv_bfloat16>) one.from = wide.data(), one.from_float32 = true;
    panels[i] = check::unwritten<T>(one.numel());
    one.to = panels[i].data();
    one.blocks = one.taps.parts() * one.blocks_of_part();
    blocks += one.blocks;
  }
  launch(pack_weights<T>, blocks, kThreads, all);
  const auto& found = panels[kThis];
  check::holds(std::memcmp(found.data(), panels[3].data(), found.size() * sizeof(T)) == 0, "weights of both dtypes, packed at once");
  return found;
}

// Normalise + activate, pending on a map [images, pixels, channels]; `values` are what the written activation would be. Parameters
// for `pitch` channels a group, as many as the kernels see.
template <class T>
struct Before {
  using A = Compute<T>;
  std::vector<A> mean, invstd, weight, bias;
  Prologue<T> prologue;
  std::vector<T> values;

  Before(const std::vector<T>& map, int images, int channels, int groups, Activation kind, int pitch)
      : mean(check::draw<A>(groups * pitch, 1, 2)), invstd(check::draw<A>(groups * pitch, 0.1, 1)), weight(check::draw<A>(pitch)),
        bias(check::draw<A>(pitch, 1, 0.5)),
        prologue{mean.data(), invstd.data(), weight.data(), bias.data(), pitch, images / groups, kind, A(0.2)}, values(map) {
    for (size_t i = 0; i < map.size(); ++i) {
      const int64_t channel = i % channels, of = i / (map.size() / groups) * pitch + channel;
      const A z = (to_compute(map[i]) - mean[of]) * (weight[channel] * invstd[of]) + bias[channel];
      values[i] = from_compute<T>(fastgan::cuda::activate(kind, z, A(0.2)));
    }
  }
};

// Of what was stored, `rows` of a group's channel.
template <class T>
void check_moments(const std::string& name, const std::vector<Moments<Compute<T>>>& moments, int groups, int channels,
                   const std::vector<std::vector<double>>& stored) {
  const int64_t chunks = static_cast<int64_t>(moments.size()) / groups / channels;
  std::vector<double> means, squares, mean_truth, square_truth;
  for (int i = 0; i < groups * channels; ++i) {
    Moments<double> all{}, truth{};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const auto m = moments[(i / channels * chunks + chunk) * channels + i % channels];
      all.merge({m.count, m.mean, m.squares});
    }
    for (const double value : stored[i]) truth.add(value);
    check::holds(all.count == truth.count, name + ", count of moments");
    means.push_back(all.mean), mean_truth.push_back(truth.mean);
    squares.push_back(all.squares), square_truth.push_back(truth.squares);
  }
  check::close(name + ", mean", means, mean_truth, check::kLimit<Compute<T>>);
  check::close(name + ", squares", squares, square_truth, check::kLimit<Compute<T>>);
}

// Of a gradient, `stored`, the sums that the batch-norm below begins its backward with; x lies as the gradient does.
template <class T>
void check_sums(const std::string& name, const std::vector<Sums<Compute<T>>>& sums, int groups, int channels, const Prologue<T>& made,
                const std::vector<T>& stored, const std::vector<T>& x) {
  const int64_t chunks = static_cast<int64_t>(sums.size()) / groups / channels;
  std::vector<double> found(2 * groups * channels), truth(found.size());
  for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
    const int64_t to = i / (chunks * channels) * channels + i % channels;
    found[2 * to] += sums[i].first;
    found[2 * to + 1] += sums[i].second;
  }
  for (size_t i = 0; i < stored.size(); ++i) {
    const int64_t group = i / (stored.size() / groups), channel = i % channels, at = group * channels + channel;
    const double d = double{to_compute(x[i])} - made.mean[at], z = d * made.weight[channel] * made.invstd[at] + made.bias[channel];
    const double g = fastgan::cuda::activate_grad(made.activation, double{to_compute(stored[i])}, z, 0.2);
    truth[(group * channels + channel) * 2] += g;
    truth[(group * channels + channel) * 2 + 1] += g * d;
  }
  check::holds(chunks > 0, name + ", chunks of sums");
  check::close(name + ", sums", found, truth, 10 * check::kLimit<Compute<T>>);
}

}  // namespace
}  // namespace fastgan::conv

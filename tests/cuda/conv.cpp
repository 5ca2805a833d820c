// The kernels of csrc/conv/cuda_tile.cuh, and the arithmetic of cuda_index.cuh, against a convolution in float64.
#include "conv/cuda_tile.cuh"

#include "check.h"
#include "conv/plan.h"

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
    {"100 to one pixel", 3, 17, 100, 2, 2, 2, 2, 1, 0, 1, Activation::tanh},
    {"3x3, odd", 2, 5, 17, 7, 9, 3, 3, 1, 1, 1, Activation::sigmoid},
    {"one by one", 2, 15, 31, 5, 3, 1, 1, 1, 0, 1, Activation::none},
    {"7x7, stride 2", 1, 8, 3, 11, 13, 7, 7, 2, 3, 1, Activation::leaky_relu},
    {"5x2, stride 3", 2, 6, 9, 13, 11, 5, 2, 3, 2, 1, Activation::relu},
    {"6x6, far padding", 1, 3, 8, 5, 4, 6, 6, 2, 5, 1, Activation::sigmoid},
    {"dilation", 1, 9, 6, 12, 10, 3, 3, 2, 2, 2, Activation::tanh},
    {"stride beyond kernel", 1, 4, 6, 9, 8, 2, 2, 3, 0, 1, Activation::sigmoid},
};

template <class T>
struct Case {
  Layer layer;
  std::vector<T> small, large, weight;
  explicit Case(const Layer& l)
      : layer(l), small(check::draw<T>(l.small_numel())), large(check::draw<T>(l.large_numel())),
        weight(check::draw<T>(l.weight_numel(), 0.2)) {}
};

template <class T>
bool are_chunks(int channels) {
  return channels % kPackWidth<T> == 0;
}

template <class Shape, class Out>
Store<Out> store_of(std::vector<Out>& output, std::vector<Compute<Out>>& partial, const Plan& plan) {
  if (plan.splits > 1) partial = check::unwritten<Compute<Out>>(int64_t{plan.splits} * plan.tiles() * Shape::kNumel);
  return {output.data(), plan.splits > 1 ? partial.data() : nullptr, nullptr, nullptr, Activation::none, 0};
}

// Normalise + activate, pending on a map [images, pixels, channels]; `values` are what the written activation would be.
template <class T>
struct Before {
  using A = Compute<T>;
  std::vector<A> table;
  Prologue<T> prologue;
  std::vector<T> values;

  Before(const std::vector<T>& map, int images, int channels, int groups, Activation kind) : values(map) {
    const auto mean = check::draw<A>(groups * channels, 1, 2), invstd = check::draw<A>(groups * channels, 0.1, 1);
    const auto weight = check::draw<A>(channels), bias = check::draw<A>(channels, 1, 0.5);
    const int64_t total = int64_t{groups} * padded<T>(channels);
    table = check::unwritten<A>(3 * total);
    emulator::Launch{4}(pack_prologue<T>, 1, kThreads, mean.data(), invstd.data(), weight.data(), bias.data(), channels, total,
                        table.data());
    prologue = {table.data(), total, images / groups, kind, A(0.2)};
    for (size_t i = 0; i < map.size(); ++i) {
      const int64_t channel = i % channels, of = i / (map.size() / groups) * channels + channel;
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

// transposed: from the small map to the large one. fused: with a prologue, and moments of the output.
template <class T, bool tensor_cores, class Shape, Side pending>
void check_gather(const Case<T>& c, bool transposed, bool contiguous, int splits, const std::string& name) {
  const emulator::Launch launch(splits);
  const Layer& l = c.layer;
  const int ins = transposed ? l.small_channels : l.large_channels, outs = transposed ? l.large_channels : l.small_channels;
  const int out_y = transposed ? l.large_y : l.small_y(), out_x = transposed ? l.large_x : l.small_x();
  const auto axis = [&](int small, int large, int kernel) {
    return GatherAxis{transposed ? small : large, transposed ? large : small, kernel, l.stride, l.padding, l.dilation, transposed};
  };
  const int taps = l.kernel_y * l.kernel_x;
  auto packed = check::unwritten<T>(int64_t{outs} * taps * padded<T>(ins));
  const int64_t by_small = int64_t{l.large_channels} * taps, by_large = taps;
  const WeightStrides strides{transposed ? by_large : by_small, transposed ? by_small : by_large, l.kernel_x, 1};
  launch(pack_weight<T>, 2, kThreads, c.weight.data(), strides, l.kernel_x, taps, ins, static_cast<int64_t>(packed.size()),
         packed.data());

  constexpr bool fused = pending != Side::none;
  const int groups = fused && l.images % 2 == 0 ? 2 : 1;
  const auto& input = transposed ? c.small : c.large;
  const Before<T> before(input, l.images, ins, groups, l.activation);
  const int64_t image = int64_t{outs} * out_y * out_x, plane = int64_t{out_y} * out_x;
  Gather<T> job{input.data(), packed.data(), l.images, ins, outs,
                axis(l.small_y(), l.large_y, l.kernel_y), axis(l.small_x(), l.large_x, l.kernel_x), are_chunks<T>(ins),
                {image, 1, int64_t{out_x} * outs, outs}, before.prologue};
  if (contiguous) {
    const int64_t nchw[] = {image, plane, out_x, 1};
    std::copy(nchw, nchw + 4, job.strides);
  }
  Plan plan = plan_of<Shape>(job, groups);
  plan.splits = splits;
  auto output = check::unwritten<T>(transposed ? l.large_numel() : l.small_numel());
  std::vector<Compute<T>> partial;
  std::vector<Moments<Compute<T>>> moments(fused ? groups * chunks_of<Shape>(plan) * outs : 0, {-1, -1, -1});
  Store<T> store = store_of<Shape>(output, partial, plan);
  const auto bias = check::draw<T>(outs);
  store.bias = bias.data();
  store.activation = Activation::leaky_relu;
  store.negative_slope = Compute<T>(0.2);
  store.moments = fused ? moments.data() : nullptr;
  run<Shape, pending, tensor_cores>(launch, job, plan, store);

  std::vector<double> truth(output.size());
  const auto& from = fused ? before.values : input;
  l.each([&](int64_t small, int64_t weight, int64_t large) {
    const double w = to_compute(c.weight[weight]);
    if (transposed) truth[large] += w * to_compute(from[small]);
    else truth[small] += w * to_compute(from[large]);
  });
  std::vector<double> ordered(truth.size());
  std::vector<std::vector<double>> stored(groups * outs);
  for (int64_t i = 0; i < static_cast<int64_t>(truth.size()); ++i) {
    double z = truth[i] + to_compute(bias[i % outs]);
    z = z > 0 ? z : 0.2 * z;
    const int64_t pixel = i / outs % plane, to = contiguous ? i / image * image + i % outs * plane + pixel : i;
    ordered[to] = z;
    stored[i / image / (l.images / groups) * outs + i % outs].push_back(to_compute(output[to]));
  }
  const std::string what = name + (transposed ? ", transposed" : ", forward");
  check::close(what, output, ordered, check::kLimit<T>);
  if (fused) check_moments<T>(what, moments, groups, outs, stored);
}

// In the shape that the library takes.
template <class T, bool tensor_cores, Side pending>
void check_gather(const Case<T>& c, bool transposed, bool contiguous, int splits, const std::string& name) {
  if ((transposed ? c.layer.large_channels : c.layer.small_channels) <= Thin::kColumns) {
    check_gather<T, tensor_cores, Thin, pending>(c, transposed, contiguous, splits, name + ", thin");
  } else {
    check_gather<T, tensor_cores, Square, pending>(c, transposed, contiguous, splits, name);
  }
}

template <class T, bool tensor_cores, Side pending>
void check_wgrad(const Case<T>& c, int splits, const std::string& name) {
  const Layer& l = c.layer;
  const int64_t taps = int64_t{l.kernel_y} * l.kernel_x;
  constexpr bool on_small = pending == Side::left;
  const Before<T> before(on_small ? c.small : c.large, l.images, on_small ? l.small_channels : l.large_channels,
                         l.images % 2 == 0 ? 2 : 1, l.activation);
  const Wgrad<T> job{c.small.data(), c.large.data(), l.images, l.small_channels, l.large_channels,
                     {l.small_y(), l.large_y, l.kernel_y, l.stride, l.padding, l.dilation},
                     {l.small_x(), l.large_x, l.kernel_x, l.stride, l.padding, l.dilation},
                     are_chunks<T>(l.small_channels), are_chunks<T>(l.large_channels),
                     {l.large_channels * taps, taps, l.kernel_x, 1}, before.prologue};
  Plan plan = plan_of<Square>(job, 1);
  plan.splits = splits;
  auto output = check::unwritten<T>(l.weight_numel());
  std::vector<Compute<T>> partial;
  run<Square, pending, tensor_cores>(emulator::Launch{9}, job, plan, store_of<Square>(output, partial, plan));
  std::vector<double> truth(output.size());
  const auto& of_small = pending == Side::left ? before.values : c.small;
  const auto& of_large = pending == Side::right ? before.values : c.large;
  l.each([&](int64_t small, int64_t weight, int64_t large) {
    truth[weight] += to_compute(of_small[small]) * double{to_compute(of_large[large])};
  });
  check::close(name + ", wgrad", output, truth, check::kLimit<T>);
}

// all: of the kernels, or only those that do the most, which takes less time to compile.
template <class T, bool tensor_cores, bool all>
void check_layer(const Layer& layer, const std::string& dtype) {
  const Case<T> c(layer);
  const std::string name = dtype + (tensor_cores ? ", tensor cores, " : ", ") + layer.name;
  check_gather<T, tensor_cores, Side::left>(c, true, true, 1, name + ", fused");
  check_gather<T, tensor_cores, Side::left>(c, false, true, 3, name + ", NCHW, fused, split");
  check_wgrad<T, tensor_cores, Side::right>(c, 2, name + ", large one fused, split");
  if constexpr (all) {
    check_gather<T, tensor_cores, Side::none>(c, false, false, 1, name);
    check_gather<T, tensor_cores, Side::none>(c, true, false, 2, name + ", split");
    check_wgrad<T, tensor_cores, Side::none>(c, 3, name + ", split");
    check_wgrad<T, tensor_cores, Side::left>(c, 1, name + ", small one fused");
  }
}

// ---- arithmetic ---------------------------------------------------------------------------------------------------------

void check_phases() {
  for (const bool transposed : {false, true}) {
    for (int kernel = 1; kernel <= 7; ++kernel)
      for (int stride = 1; stride <= 4; ++stride)
        for (int padding = 0; padding <= 3; ++padding)
          for (int dilation = 1; dilation <= 3; ++dilation)
            for (const int output : {1, 2, 9}) {
              const auto axis = (transposed ? transposed_axis : convolution_axis)(output, kernel, stride, padding, dilation);
              const GatherAxis by_formula{0, output, kernel, stride, padding, dilation, transposed};
              const std::string name = "phases of kernel " + std::to_string(kernel) + ", stride " + std::to_string(stride);
              check::holds(by_formula.phases() == static_cast<int>(axis.phases.size()), name);
              check::holds(by_formula.step() == axis.step && by_formula.read() == axis.read, name);
              for (int i = 0; i < by_formula.phases(); ++i) {
                const PhaseAxis found = by_formula.phase(i);
                const Phase& phase = axis.phases[i];
                check::holds(found.start == phase.start && found.count == phase.count, name);
                check::holds(found.taps == static_cast<int>(phase.taps.size()), name);
                for (int j = 0; j < found.taps; ++j) {
                  check::holds(found.kernel + j * found.kernel_step == phase.taps[j].kernel, name + ", kernel");
                  check::holds(found.offset + j * found.offset_step == phase.taps[j].offset, name + ", offset");
                }
              }
            }
  }
}

template <class Shape, template <class, class> class Multiplier, class T>
void check_shares(const std::string& name) {
  std::vector<int> times(Shape::kNumel);
  for (int thread = 0; thread < kTileThreads; ++thread) {
    for (int i = 0; i < Multiplier<T, Shape>::kSums; ++i) {
      ++times[Multiplier<T, Shape>::row(thread, i) * Shape::kColumns + Multiplier<T, Shape>::column(thread, i)];
    }
  }
  check::holds(times == std::vector<int>(Shape::kNumel, 1), name + ": every element of a tile has one thread");
}

void check_splits() {
  check::holds(splits_for(8, 2048) == 32, "few tiles are split");
  check::holds(splits_for(1, 1 << 20) == 64, "at most 64 splits");
  check::holds(splits_for(64, 9) == 1, "a split has at least 8 steps");
  check::holds(splits_for(1000, 1000) == 1 && splits_for(1, 0) == 1, "many tiles are not split, nor none");
}

}  // namespace
}  // namespace fastgan::conv

int main() {
  using namespace fastgan::conv;
  check_phases();
  check_shares<Square, Fma, float>("Fma");
  check_shares<Thin, Fma, float>("Fma, thin");
  check_shares<Square, TensorCore, __half>("TensorCore");
  check_shares<Thin, TensorCore, __half>("TensorCore, thin");
  check_splits();
  for (const Layer& layer : kLayers) {
    check_layer<__nv_bfloat16, true, true>(layer, "bfloat16");
    if ((&layer - kLayers) % 2) check_layer<float, false, true>(layer, "float32");
  }
  check_layer<double, false, false>(kLayers[2], "float64");
  check_layer<double, false, false>(kLayers[6], "float64");
  check_layer<__half, true, false>(kLayers[0], "float16");
  check_layer<__half, true, false>(kLayers[6], "float16");
  check_layer<__nv_bfloat16, false, false>(kLayers[5], "bfloat16");
}

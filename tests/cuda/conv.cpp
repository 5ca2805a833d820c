// The kernels of csrc/conv/cuda_tile.cuh and cuda_scatter.cuh, and the arithmetic of cuda_index.cuh, against a convolution in float64.
#include "conv/cuda_tile.cuh"
#include "conv/cuda_scatter.cuh"

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
  if (plan.splits > 1) partial = check::unwritten<Compute<Out>>(int64_t{plan.splits} * plan.tiles() * numel);
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

// transposed: from the small map to the large one. fused: with a prologue, and moments of the output; otherwise with the sums of a
// backward, where the output is channels-last.
template <class T, Unit unit, class Shape, Side pending>
void check_gather(const Case<T>& c, bool transposed, bool contiguous, int splits, const std::string& name) {
  const emulator::Launch launch(splits);
  const Layer& l = c.layer;
  const int ins = transposed ? l.small_channels : l.large_channels, outs = transposed ? l.large_channels : l.small_channels;
  const int out_y = transposed ? l.large_y : l.small_y(), out_x = transposed ? l.large_x : l.small_x();
  const auto axis = [&](int small, int large, int kernel) {
    return GatherAxis{transposed ? small : large, transposed ? large : small, kernel, l.stride, l.padding, l.dilation, transposed};
  };
  constexpr bool fused = pending != Side::none;
  const int groups = l.images % 2 == 0 ? 2 : 1;
  const auto& input = transposed ? c.small : c.large;
  const Before<T> before(input, l.images, ins, groups, l.activation, padded<T>(ins));
  const int64_t image = int64_t{outs} * out_y * out_x, plane = int64_t{out_y} * out_x;
  const auto map = pad(input, ins);
  Gather<T> job{map.data(), nullptr, l.images, padded<T>(ins), outs, 0, axis(l.small_y(), l.large_y, l.kernel_y),
                axis(l.small_x(), l.large_x, l.kernel_x), {image, 1, int64_t{out_x} * outs, outs}, before.prologue};
  if (contiguous) {
    const int64_t nchw[] = {image, plane, out_x, 1};
    std::copy(nchw, nchw + 4, job.strides);
  }
  const int64_t taps = int64_t{l.kernel_y} * l.kernel_x, by_small = l.large_channels * taps, by_large = taps;
  const WeightStrides strides{transposed ? by_large : by_small, transposed ? by_small : by_large, l.kernel_x, 1};
  job.steps = steps_of(job);
  Plan plan = plan_of<Shape>(job, groups);
  plan.splits = splits;
  using Target = Panel<T, true, Shape::kColumns>;
  std::vector<Target> packed(int64_t{job.parts()} * plan.tiles_n * job.steps);
  std::memset(static_cast<void*>(packed.data()), 0xff, packed.size() * sizeof(Target));
  launch(pack_weight<T, T, Shape>, dim3(2, job.parts()), kThreads, job, plan.tiles_n, ins, c.weight.data(), strides, packed.data());
  job.weight = reinterpret_cast<const T*>(packed.data());

  auto output = check::unwritten<T>(transposed ? l.large_numel() : l.small_numel());
  std::vector<Compute<T>> partial;
  std::vector<Moments<Compute<T>>> moments(fused ? groups * chunks_of<Shape>(plan) * outs : 0, {-1, -1, -1});
  Store<T> store = store_of(output, partial, plan, Shape::kNumel, !contiguous && outs % kPackWidth<T> == 0);
  const auto bias = check::draw<T>(outs);
  store.bias = bias.data();
  store.activation = Activation::leaky_relu;
  store.negative_slope = Compute<T>(0.2);
  store.moments = fused ? moments.data() : nullptr;
  const auto x = check::draw<T>(static_cast<int64_t>(output.size()), 1, 1);
  const Before<T> below(x, l.images, outs, groups, l.activation, outs);
  std::vector<Sums<Compute<T>>> sums(fused || contiguous ? 0 : groups * chunks_of<Shape>(plan) * outs, {-1, -1});
  if (!sums.empty()) {
    store.sums = sums.data();
    store.below = x.data();
    store.made = below.prologue;
  }
  run<Shape, pending, unit>(launch, job, plan, store);

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
  check::close(what, output, ordered, kLimit<T, unit>);
  if (fused) check_moments<T>(what, moments, groups, outs, stored);
  if (!sums.empty()) check_sums<T>(what, sums, groups, outs, below.prologue, output, x);
  if (fused || !store.in_chunks) return;

  // The same as the gradient of what an activation made.
  const auto made = check::draw<T>(static_cast<int64_t>(output.size()));
  const double slope = splits > 1 ? 0 : 0.2;
  auto turned = check::unwritten<T>(static_cast<int64_t>(output.size()));
  store.output = turned.data();
  store.bias = nullptr;
  store.sums = nullptr;
  store.activation = splits > 1 ? Activation::relu : Activation::leaky_relu;
  store.activated = made.data();
  run<Shape, pending, unit>(launch, job, plan, store);
  for (size_t i = 0; i < truth.size(); ++i) ordered[i] = truth[i] * (to_compute(made[i]) > 0 ? 1 : slope);
  check::close(what + ", turned", turned, ordered, kLimit<T, unit>);
}

// In the shape that the library takes.
template <class T, Unit unit, Side pending>
void check_gather(const Case<T>& c, bool transposed, bool contiguous, int splits, const std::string& name) {
  const int outs = transposed ? c.layer.large_channels : c.layer.small_channels;
  if constexpr (unit == Unit::fma) {
    if (outs <= ThinFma::kColumns) return check_gather<T, unit, ThinFma, pending>(c, transposed, contiguous, splits, name + ", thin");
    check_gather<T, unit, Square, pending>(c, transposed, contiguous, splits, name);
  } else {
    if (outs <= Thin::kColumns) return check_gather<T, unit, Thin, pending>(c, transposed, contiguous, splits, name + ", thin");
    if (outs <= Half::kColumns) return check_gather<T, unit, Half, pending>(c, transposed, contiguous, splits, name + ", half");
    check_gather<T, unit, Wide, pending>(c, transposed, contiguous, splits, name);
  }
}

// From the small map to a large one of few channels, whose columns are in the order of the weight's taps or of its channels.
template <class T, Unit unit, Side pending>
void check_scatter(const Case<T>& c, bool by_tap, const std::string& name) {
  using A = Compute<T>;
  using Shape = std::conditional_t<unit == Unit::fma, Square, Half>;
  const emulator::Launch launch(11);
  const Layer& l = c.layer;
  const int ins = l.small_channels, outs = l.large_channels, taps = l.kernel_y * l.kernel_x, columns = taps * outs;
  const Before<T> before(c.small, l.images, ins, 1, l.activation, padded<T>(ins));
  const auto map = pad(c.small, ins);
  const auto one_by_one = [](int size) { return GatherAxis{size, size, 1, 1, 0, 1, false}; };
  const int64_t row = int64_t{l.small_x()} * columns;
  Gather<T> job{map.data(), nullptr, l.images, padded<T>(ins), columns, 0, one_by_one(l.small_y()), one_by_one(l.small_x()),
                {l.small_y() * row, 1, row, columns}, before.prologue};
  job.steps = steps_of(job);
  Plan plan = plan_of<Shape>(job, 1);
  plan.splits = 2;
  std::vector<T> weight(c.weight);
  for (int64_t i = 0; by_tap && i < l.weight_numel(); ++i) {  // [small][large][taps] to [small][taps][large]
    weight[i / columns * columns + i % taps * outs + i / taps % outs] = c.weight[i];
  }
  using Target = Panel<T, true, Shape::kColumns>;
  std::vector<Target> packed(int64_t{plan.tiles_n} * job.steps);
  launch(pack_weight<T, T, Shape>, dim3(2, 1), kThreads, job, plan.tiles_n, ins, weight.data(), WeightStrides{1, columns, 0, 0},
         packed.data());
  job.weight = reinterpret_cast<const T*>(packed.data());
  auto products = check::unwritten<A>(l.small_numel() / ins * columns);
  std::vector<A> partial;
  run<Shape, pending, unit>(launch, job, plan, store_of(products, partial, plan, Shape::kNumel, columns % kPackWidth<A> == 0));

  auto output = check::unwritten<T>(l.large_numel());
  const auto bias = check::draw<T>(outs);
  const auto axis = [&](int small, int large, int kernel) {
    return GatherAxis{small, large, kernel, l.stride, l.padding, l.dilation, true};
  };
  const int64_t line = int64_t{l.large_x} * outs;
  launch(add_taps<T>, 3, kThreads,
         Scattered<T>{products.data(), l.images, outs, columns, by_tap ? outs : 1, by_tap ? 1 : taps,
                      axis(l.small_y(), l.large_y, l.kernel_y), axis(l.small_x(), l.large_x, l.kernel_x), bias.data(),
                      Activation::leaky_relu, A(0.2), output.data(), {l.large_y * line, 1, line, outs}});
  std::vector<double> truth(output.size());
  const auto& from = pending == Side::left ? before.values : c.small;
  l.each([&](int64_t small, int64_t at, int64_t large) { truth[large] += to_compute(c.weight[at]) * double{to_compute(from[small])}; });
  for (int64_t i = 0; i < l.large_numel(); ++i) {
    const double z = truth[i] + to_compute(bias[i % outs]);
    truth[i] = z > 0 ? z : 0.2 * z;
  }
  check::close(name + ", scattered", output, truth, kLimit<T, unit>);
}

// Out: of the gradient.
template <class T, Unit unit, Side pending, class Out = T>
void check_wgrad(const Case<T>& c, int splits, bool channels_last, const std::string& name) {
  using Shape = std::conditional_t<unit == Unit::fma, Square, Wide>;
  const Layer& l = c.layer;
  const int64_t taps = int64_t{l.kernel_y} * l.kernel_x;
  constexpr bool on_small = pending == Side::left;
  const int of_before = on_small ? l.small_channels : l.large_channels;
  const Before<T> before(on_small ? c.small : c.large, l.images, of_before, l.images % 2 == 0 ? 2 : 1, l.activation,
                         padded<T>(of_before));
  const auto small = pad(c.small, l.small_channels), large = pad(c.large, l.large_channels);
  Wgrad<T> job{small.data(), large.data(), l.images, l.small_channels, padded<T>(l.small_channels), l.large_channels,
               padded<T>(l.large_channels), {l.small_y(), l.large_y, l.kernel_y, l.stride, l.padding, l.dilation},
               {l.small_x(), l.large_x, l.kernel_x, l.stride, l.padding, l.dilation},
               {l.large_channels * taps, taps, l.kernel_x, 1}, before.prologue};
  if (channels_last) {
    const int64_t strides[] = {l.large_channels * taps, 1, int64_t{l.kernel_x} * l.large_channels, l.large_channels};
    std::copy(strides, strides + 4, job.strides);
  }
  Plan plan = plan_of<Shape>(job, 1);
  plan.splits = splits;
  auto output = check::unwritten<Out>(l.weight_numel());
  std::vector<Compute<Out>> partial;
  const bool in_chunks = channels_last && l.large_channels % kPackWidth<Out> == 0;
  run<Shape, pending, unit>(emulator::Launch{9}, job, plan, store_of(output, partial, plan, Shape::kNumel, in_chunks));
  std::vector<double> truth(output.size());
  const auto& of_small = pending == Side::left ? before.values : c.small;
  const auto& of_large = pending == Side::right ? before.values : c.large;
  l.each([&](int64_t small, int64_t weight, int64_t large) {
    const int64_t at = channels_last ? (weight / taps / l.large_channels * taps + weight % taps) * l.large_channels +
                                           weight / taps % l.large_channels
                                     : weight;
    truth[at] += to_compute(of_small[small]) * double{to_compute(of_large[large])};
  });
  check::close(name + ", wgrad", output, truth, std::is_same_v<T, Out> ? kLimit<T, unit> : check::kLimit<Out>);
}

// all: of the kernels, or only those that do the most, which takes less time to compile.
template <class T, Unit unit, bool all>
void check_layer(const Layer& layer, const std::string& name_of_kind) {
  const Case<T> c(layer);
  const std::string name = name_of_kind + ", " + layer.name;
  check_gather<T, unit, Side::left>(c, true, true, 1, name + ", fused");
  if (layer.large_channels <= kMostScattered) check_scatter<T, unit, Side::left>(c, true, name + ", fused");
  check_gather<T, unit, Side::left>(c, false, true, 3, name + ", NCHW, fused, split");
  check_wgrad<T, unit, Side::right>(c, 2, false, name + ", large one fused, split");
  if constexpr (all) {
    if (layer.large_channels <= kMostScattered) check_scatter<T, unit, Side::none>(c, false, name);
    check_gather<T, unit, Side::none>(c, false, false, 1, name);
    check_gather<T, unit, Side::none>(c, true, false, 2, name + ", split");
    check_wgrad<T, unit, Side::none>(c, 3, true, name + ", channels-last, split");
    check_wgrad<T, unit, Side::left>(c, 1, false, name + ", small one fused");
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      check_wgrad<T, unit, Side::right, float>(c, 1, true, name + ", channels-last, into float32, large one fused");
    }
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

template <class Multiplier, class Shape>
void check_shares(const std::string& name) {
  std::vector<int> times(Shape::kNumel);
  for (int thread = 0; thread < Shape::kThreads; ++thread) {
    for (int i = 0; i < Multiplier::kSums; ++i) {
      ++times[Multiplier::row(thread, i) * Shape::kColumns + Multiplier::column(thread, i)];
    }
  }
  check::holds(times == std::vector<int>(Shape::kNumel, 1), name + ": every element of a tile has one thread");
}

template <class Shape>
void check_shares_of_tensor_cores(const std::string& name) {
  check_shares<Warps<__half, Shape>, Shape>(name + ", warps");
  check_shares<Warpgroups<__half, Shape>, Shape>(name + ", warpgroups");
}

void check_counters() {
  for (const Radix radix : {Radix{64, 4, 4}, Radix{8, 4, 4}, Radix{24, 1, 2}, Radix{3, 5, 7}, Radix{128, 1, 1}}) {
    for (const int by : {8, 16, 32, 64}) {
      Counter counter(5, radix);
      const Counter step(by, radix);
      for (int64_t value = 5; value < radix.low * radix.middle * radix.high; value += by) {
        const Counter expected(value, radix);
        check::holds(counter.low == expected.low && counter.middle == expected.middle && counter.high == expected.high, "a counter");
        counter.advance(step, radix);
      }
    }
  }
}

void check_splits() {
  check::holds(splits_for(8, 2048) == 20, "few tiles are split");
  check::holds(splits_for(1, 1 << 20) == 128, "at most 128 splits");
  check::holds(splits_for(64, 7) == 1, "a split has at least 4 steps");
  check::holds(splits_for(128, 1000) == 1 && splits_for(1, 0) == 1, "many tiles are not split, nor none");
}

}  // namespace
}  // namespace fastgan::conv

int main() {
  using namespace fastgan::conv;
  check_phases();
  check_shares<Fma<float, Square>, Square>("Fma");
  check_shares<Fma<float, ThinFma>, ThinFma>("Fma, thin");
  check_shares_of_tensor_cores<Wide>("wide");
  check_shares_of_tensor_cores<Half>("half");
  check_shares_of_tensor_cores<Thin>("thin");
  check_counters();
  check_splits();
  for (const Layer& layer : kLayers) {
    check_layer<__nv_bfloat16, Unit::tensor_cores, true>(layer, "bfloat16, warpgroups");
    const auto number = &layer - kLayers;
    if (number % 2) check_layer<float, Unit::fma, true>(layer, "float32");
    if (number % 4 == 2) check_layer<__nv_bfloat16, Unit::warps, true>(layer, "bfloat16, warps");
  }
  check_layer<float, Unit::warps, false>(kLayers[0], "TF32");
  check_layer<float, Unit::warps, false>(kLayers[2], "TF32");
  check_layer<float, Unit::warps, false>(kLayers[7], "TF32");
  check_layer<double, Unit::fma, false>(kLayers[2], "float64");
  check_layer<double, Unit::fma, false>(kLayers[6], "float64");
  check_layer<__half, Unit::tensor_cores, false>(kLayers[0], "float16, warpgroups");
  check_layer<__half, Unit::tensor_cores, false>(kLayers[6], "float16, warpgroups");
  check_layer<__nv_bfloat16, Unit::fma, false>(kLayers[5], "bfloat16, without tensor cores");
}

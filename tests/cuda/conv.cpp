// The kernels of csrc/conv/cuda_pack.cuh, cuda_tile.cuh and cuda_scatter.cuh against a convolution in float64.
#include "conv/cuda_scatter.cuh"

#include "conv_cases.h"

namespace fastgan::conv {
namespace {

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
  const GatherTaps along{padded<T>(ins), axis(l.small_y(), l.large_y, l.kernel_y), axis(l.small_x(), l.large_x, l.kernel_x)};
  const int steps = along.steps(kDepth<T>);
  Gather<T> job{along, map.data(), nullptr, l.images, outs, steps, {image, 1, int64_t{out_x} * outs, outs}, before.prologue};
  if (contiguous) {
    const int64_t nchw[] = {image, plane, out_x, 1};
    std::copy(nchw, nchw + 4, job.strides);
  }
  const int64_t taps = int64_t{l.kernel_y} * l.kernel_x, by_small = l.large_channels * taps, by_large = taps;
  const WeightStrides strides{transposed ? by_large : by_small, transposed ? by_small : by_large, l.kernel_x, 1};
  Plan plan = plan_of<Shape>(job, groups);
  plan.splits = splits;
  const auto packed = pack<T>(launch, {along, ins, outs, steps, Shape::kColumns, strides, c.weight.data(), false, nullptr, 0}, c.weight);
  job.weight = packed.data();

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
  const GatherTaps along{padded<T>(ins), one_by_one(l.small_y()), one_by_one(l.small_x())};
  const int steps = along.steps(kDepth<T>);
  Gather<T> job{along, map.data(), nullptr, l.images, columns, steps, {l.small_y() * row, 1, row, columns}, before.prologue};
  Plan plan = plan_of<Shape>(job, 1);
  plan.splits = 2;
  std::vector<T> weight(c.weight);
  for (int64_t i = 0; by_tap && i < l.weight_numel(); ++i) {  // [small][large][taps] to [small][taps][large]
    weight[i / columns * columns + i % taps * outs + i / taps % outs] = c.weight[i];
  }
  const Packing<T> packing{along, ins, columns, steps, Shape::kColumns, {1, columns, 0, 0}, weight.data(), false, nullptr, 0};
  const auto packed = pack<T>(launch, packing, weight);
  job.weight = packed.data();
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

}  // namespace
}  // namespace fastgan::conv

int main() {
  using namespace fastgan::conv;
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

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
    {"3 to 64", 2, 64, 3, 8, 8, 4, 4, 2, 1, 1},
    {"64 to 40", 1, 40, 64, 8, 8, 4, 4, 2, 1, 1},
    {"100 to one pixel", 3, 17, 100, 4, 4, 4, 4, 1, 0, 1},
    {"3x3, odd", 2, 5, 17, 7, 9, 3, 3, 1, 1, 1},
    {"one by one", 2, 15, 31, 5, 3, 1, 1, 1, 0, 1},
    {"7x7, stride 2", 1, 8, 3, 11, 13, 7, 7, 2, 3, 1},
    {"5x2, stride 3", 2, 6, 9, 13, 11, 5, 2, 3, 2, 1},
    {"6x6, far padding", 1, 3, 8, 5, 4, 6, 6, 2, 5, 1},
    {"dilation", 1, 9, 6, 12, 10, 3, 3, 2, 2, 2},
    {"stride beyond kernel", 1, 4, 6, 9, 8, 2, 2, 3, 0, 1},
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

template <class Out>
Store<Out> store_of(std::vector<Out>& output, std::vector<Compute<Out>>& partial, const Plan& plan) {
  const auto total = static_cast<int64_t>(output.size());
  if (plan.splits > 1) partial = check::unwritten<Compute<Out>>(plan.splits * total);
  return {output.data(), total, plan.splits > 1 ? partial.data() : nullptr, nullptr, 1, 1, Activation::none, 0};
}

// transposed: from the small map to the large one.
template <class T, bool tensor_cores>
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

  const int64_t image = int64_t{outs} * out_y * out_x, plane = int64_t{out_y} * out_x;
  Gather<T> job{(transposed ? c.small : c.large).data(), packed.data(), l.images, ins, outs,
                axis(l.small_y(), l.large_y, l.kernel_y), axis(l.small_x(), l.large_x, l.kernel_x), are_chunks<T>(ins),
                {image, 1, int64_t{out_x} * outs, outs}};
  if (contiguous) {
    const int64_t nchw[] = {image, plane, out_x, 1};
    std::copy(nchw, nchw + 4, job.strides);
  }
  Plan plan = plan_of(job);
  plan.splits = splits;
  auto output = check::unwritten<T>(transposed ? l.large_numel() : l.small_numel());
  std::vector<Compute<T>> partial;
  Store<T> store = store_of(output, partial, plan);
  const auto bias = check::draw<T>(outs);
  store.bias = bias.data();
  store.channels = outs;
  store.channel_stride = contiguous ? plane : 1;
  store.activation = Activation::leaky_relu;
  store.negative_slope = Compute<T>(0.2);
  run<tensor_cores>(launch, job, plan, store);

  std::vector<double> truth(output.size());
  l.each([&](int64_t small, int64_t weight, int64_t large) {
    const double w = to_compute(c.weight[weight]);
    if (transposed) truth[large] += w * to_compute(c.small[small]);
    else truth[small] += w * to_compute(c.large[large]);
  });
  std::vector<double> ordered(truth.size());
  for (int64_t i = 0; i < static_cast<int64_t>(truth.size()); ++i) {
    double z = truth[i] + to_compute(bias[i % outs]);
    z = z > 0 ? z : 0.2 * z;
    const int64_t pixel = i / outs % plane;
    ordered[contiguous ? i / image * image + i % outs * plane + pixel : i] = z;
  }
  check::close(name + (transposed ? ", transposed" : ", forward"), output, ordered, check::kLimit<T>);
}

template <class T, class Out, bool tensor_cores>
void check_wgrad(const Case<T>& c, int splits, const std::string& name) {
  const Layer& l = c.layer;
  const int64_t taps = int64_t{l.kernel_y} * l.kernel_x;
  const Wgrad<T> job{c.small.data(), c.large.data(), l.images, l.small_channels, l.large_channels,
                     {l.small_y(), l.large_y, l.kernel_y, l.stride, l.padding, l.dilation},
                     {l.small_x(), l.large_x, l.kernel_x, l.stride, l.padding, l.dilation},
                     are_chunks<T>(l.small_channels), are_chunks<T>(l.large_channels),
                     {l.large_channels * taps, taps, l.kernel_x, 1}};
  Plan plan = plan_of(job);
  plan.splits = splits;
  auto output = check::unwritten<Out>(l.weight_numel());
  std::vector<Compute<Out>> partial;
  run<tensor_cores>(emulator::Launch{9}, job, plan, store_of(output, partial, plan));
  std::vector<double> truth(output.size());
  l.each([&](int64_t small, int64_t weight, int64_t large) {
    truth[weight] += to_compute(c.small[small]) * double{to_compute(c.large[large])};
  });
  check::close(name + ", wgrad", output, truth, check::kLimit<Out>);
}

template <class T, bool tensor_cores>
void check_layer(const Layer& layer, const std::string& dtype) {
  const Case<T> c(layer);
  const std::string name = dtype + (tensor_cores ? ", tensor cores, " : ", ") + layer.name;
  check_gather<T, tensor_cores>(c, false, false, 1, name);
  check_gather<T, tensor_cores>(c, true, true, 1, name);
  check_gather<T, tensor_cores>(c, false, true, 3, name + ", NCHW, split");
  check_gather<T, tensor_cores>(c, true, false, 2, name + ", split");
  check_wgrad<T, T, tensor_cores>(c, 3, name + ", split");
  if constexpr (std::is_same_v<T, __half>) {
    check_wgrad<T, float, tensor_cores>(c, 1, name + ", float32");
  } else {
    check_wgrad<T, T, tensor_cores>(c, 1, name);
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

template <class Multiplier>
void check_shares(const std::string& name) {
  std::vector<int> times(kTile * kTile);
  for (int thread = 0; thread < kTileThreads; ++thread) {
    for (int i = 0; i < kSums; ++i) ++times[Multiplier::row(thread, i) * kTile + Multiplier::column(thread, i)];
  }
  check::holds(times == std::vector<int>(kTile * kTile, 1), name + ": every element of a tile has one thread");
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
  check_shares<Fma<float>>("Fma");
  check_shares<TensorCore<__half>>("TensorCore");
  check_splits();
  for (const Layer& layer : kLayers) {
    check_layer<float, false>(layer, "float32");
    check_layer<__nv_bfloat16, true>(layer, "bfloat16");
  }
  check_layer<double, false>(kLayers[2], "float64");
  check_layer<double, false>(kLayers[6], "float64");
  check_layer<__half, true>(kLayers[0], "float16");
  check_layer<__half, true>(kLayers[6], "float16");
  check_layer<__nv_bfloat16, false>(kLayers[5], "bfloat16");
}

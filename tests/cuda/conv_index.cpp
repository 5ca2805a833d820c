// The arithmetic of csrc/conv/cuda_index.cuh and cuda_tile.cuh: phases against plan.h, counters, shares of a tile, splits.
#include "check.h"
#include "conv/cuda_tile.cuh"
#include "conv/plan.h"

namespace fastgan::conv {
namespace {

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
              check::holds(by_formula.phases == static_cast<int>(axis.phases.size()), name);
              check::holds(by_formula.step() == axis.step && by_formula.read() == axis.read, name);
              for (int i = 0; i < by_formula.phases; ++i) {
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
  constexpr int kHigh = 4;
  for (const Radix radix : {Radix{64, 4}, Radix{8, 4}, Radix{24, 1}, Radix{3, 5}, Radix{128, 1}}) {
    for (const int by : {8, 16, 32, 64}) {
      Counter counter(5, radix);
      const Counter step(by, radix);
      for (int value = 5; value < radix.low * radix.middle * kHigh; value += by) {
        const Counter expected(value, radix);
        check::holds(counter.low == expected.low && counter.middle == expected.middle && counter.high == expected.high, "a counter");
        counter.advance(step, radix);
      }
    }
  }
}

void check_taps_inside() {
  for (const int taps : {0, 1, 2, 4, kMostTaps})
    for (const int step : {1, 2, 3})
      for (const int size : {1, 3, 8})
        for (int position = -2 * kMostTaps; position < 2 * kMostTaps; ++position) {
          unsigned expected = 0;
          for (int j = 0; j < taps; ++j) expected |= unsigned{is_below(position + j * step, size)} << j;
          check::holds(taps_inside(position, {0, 1, taps, 0, 1, 0, step}, size) == expected, "taps inside an image");
        }
}

void check_divisors() {
  constexpr int kMost = std::numeric_limits<int>::max();
  std::uniform_int_distribution<int> draw(1, kMost);
  for (int i = 0; i < 2000; ++i) {
    const int value = i < 1000 ? i + 1 : i % 2 ? kMost - i + 1000 : draw(check::random());
    const Divisor divisor(value);
    const int64_t multiple = int64_t{value} * (kMost / value);
    for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{value} - 1, int64_t{value}, int64_t{value} + 1, multiple - 1, multiple,
                            int64_t{kMost}, int64_t{draw(check::random())}}) {
      if (n > kMost) continue;
      const int dividend = static_cast<int>(n);
      check::holds(divisor.into(dividend) == dividend / value && divisor.rest(dividend) == dividend % value,
                   "division by " + std::to_string(value));
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
  check_taps_inside();
  check_divisors();
  check_counters();
  check_splits();
}

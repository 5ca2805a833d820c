// The yardstick of the benchmarks: how fast the engine's micro-kernel multiplies where its operands lie in the second-level
// cache, as a convolution's do. What a convolution reaches of it is the engine's own doing.
#include <algorithm>
#include <chrono>
#include <random>

#include "conv/exports.h"
#include "conv/packed.h"

namespace fastgan::conv {
namespace {

constexpr int64_t kExtent = 256;  // of the sums: a tile's operands fit a first-level cache
constexpr int64_t kOperandBytes = kPackedBytes / 3;  // of each side
constexpr double kSweepSeconds = 4e-3;  // at least, of what is timed: waking threads takes microseconds

template <class Body>
double seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Sweeps over the operands, each thread over its own.
template <class S>
class Sweeps {
 public:
  static double here() { return seconds(sweep); }

  static double on_all(int64_t repeats) {
    return seconds([&] {
      torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t first, int64_t last) {
        for (int64_t i = (last - first) * repeats; i > 0; --i) sweep();
      });
    });
  }

  static double operations(int64_t repeats) {  // of all threads
    const auto& tile = tile_of<S>();
    const int64_t one = 2 * tile.rows * tile.columns * kExtent;
    return static_cast<double>(torch::stable::get_num_threads() * repeats * left_tiles() * right_panels() * one);
  }

 private:
  static int64_t left_tiles() { return std::max<int64_t>(1, kOperandBytes / (tile_of<S>().rows * kExtent * sizeof(S))); }
  static int64_t right_panels() {
    return std::max<int64_t>(1, kOperandBytes / (tile_of<S>().columns * kExtent * sizeof(S)));
  }

  // Every tile of rows with every panel of columns.
  static void sweep() {
    const auto& tile = tile_of<S>();
    const InUse<S> in_use(tile);
    const S* const left = operand<100>(left_tiles() * tile.rows * kExtent);
    const S* const right = operand<101>(right_panels() * tile.columns * kExtent);
    int64_t rows[kMaxTileRows];
    for (int64_t m = 0; m < tile.rows; ++m) rows[m] = m * kExtent;
    const int64_t segment = 0;
    alignas(64) Compute<S> result[kMaxTileRows * kMaxTileColumns];
    for (int64_t panel = 0; panel < right_panels(); ++panel) {
      for (int64_t t = 0; t < left_tiles(); ++t) {
        tile.gemm(left + t * tile.rows * kExtent, rows, &segment, 1, kExtent, right + panel * tile.columns * kExtent, false,
                  result);
      }
    }
  }

  // Numbers of all kinds, as a convolution's are: of zeros or ones a processor multiplies more a second, because few bits change.
  template <int purpose>  // of the scratch memory
  static const S* operand(int64_t elements) {
    S* const memory = scratch<S, purpose>(elements);
    if (to_compute(memory[elements - 1]) != Compute<S>(1)) {
      std::minstd_rand random;
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < elements; ++i) memory[i] = from_compute<S>(static_cast<Compute<S>>(normal(random)));
      memory[elements - 1] = from_compute<S>(Compute<S>(1));  // it is filled
    }
    return memory;
  }
};

}  // namespace
}  // namespace fastgan::conv

double fastgan_gemm_peak(bool bfloat16, double milliseconds) {
  using namespace fastgan::conv;
  double best = 0;
  dispatch_packed("gemm_peak", bfloat16 ? fastgan::ScalarType::BFloat16 : fastgan::ScalarType::Float,
                  [&](auto, auto packed) {
    using Threads = Sweeps<decltype(packed)>;
    Threads::on_all(1);  // starts them, and fills their operands
    const double one = std::min({Threads::here(), Threads::here(), Threads::here()});
    const auto repeats = static_cast<int64_t>(kSweepSeconds / one) + 1;
    for (double spent = 0; spent == 0 || spent < milliseconds * 1e-3;) {
      const double seconds = Threads::on_all(repeats);
      best = std::max(best, Threads::operations(repeats) / seconds);
      spent += seconds;
    }
  });
  return best * 1e-9;
}

// Checks the AMX micro-kernel on emulated tiles; built by test_tile_amx.py under sanitizers, which see every read because
// operands lie in blocks of exactly their size. Values are small integers, so that sums are exact in any order, and what
// no row may read is NaN.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "conv/amx.h"
#include "conv/tile.h"

namespace fastgan::conv {
namespace {

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

BFloat16 bf16(float value) { return from_compute<BFloat16>(value); }

const float kNaN = std::numeric_limits<float>::quiet_NaN();

// How the rows of A lie.
enum class Spacing { even, same, halves, upper_only, uneven, spare_rows, backwards };
constexpr const char* kSpacings[] = {"even", "same", "halves", "upper_only", "uneven", "spare_rows", "backwards"};

std::vector<int64_t> rows_of(Spacing spacing, int64_t apart) {
  std::vector<int64_t> rows(tile_amx.rows);
  for (int m = 0; m < tile_amx.rows; ++m) rows[m] = m * apart;
  for (int m = 0; m < tile_amx.rows; ++m) {
    if (spacing == Spacing::same) rows[m] = 3;
    if (spacing == Spacing::halves && m >= 16) rows[m] += apart + m;
    if (spacing == Spacing::upper_only && m >= 16) rows[m] += m % 3;
    if (spacing == Spacing::uneven) rows[m] += m * m;
    if (spacing == Spacing::spare_rows && m >= 21) rows[m] = 0;
    if (spacing == Spacing::backwards) rows[m] = (tile_amx.rows - 1 - m) * apart;
  }
  return rows;
}

// What gemm's own frame holds when it starts.
__attribute__((noinline)) void fill_stack_with_nan() {
  volatile BFloat16 below[1 << 13];
  for (auto& value : below) value.bits = 0x7fc0;
}

void check_gemm(Spacing spacing, int64_t segment_count, int64_t extent, bool add, std::mt19937& random) {
  const std::string name = std::string(kSpacings[static_cast<int>(spacing)]) + ", " + std::to_string(segment_count) +
                           " segments of " + std::to_string(extent) + (add ? ", added" : ", overwritten");
  std::uniform_int_distribution<int> integer(-8, 8);
  const auto rows = rows_of(spacing, segment_count * extent + 7);
  std::vector<int64_t> segments(segment_count);
  for (int64_t s = 0; s < segment_count; ++s) segments[s] = (segment_count - 1 - s) * (extent + 1);
  int64_t end = 0;
  for (const int64_t row : rows) {
    for (const int64_t segment : segments) end = std::max(end, row + segment + extent);
  }
  std::vector<BFloat16> a(end, bf16(kNaN)), b(segment_count * extent * tile_amx.columns);
  a.shrink_to_fit();
  for (const int64_t row : rows) {
    for (const int64_t segment : segments) {
      for (int64_t k = 0; k < extent; ++k) a[row + segment + k] = bf16(integer(random));
    }
  }
  for (auto& value : b) value = bf16(integer(random));
  std::vector<float> before(tile_amx.rows * tile_amx.columns, kNaN);
  if (add) {
    for (float& value : before) value = integer(random);
  }
  std::vector<float> out = before;
  fill_stack_with_nan();
  tile_amx.gemm(a.data(), rows.data(), segments.data(), segment_count, extent, b.data(), add, out.data());
  for (int m = 0; m < tile_amx.rows; ++m) {
    for (int n = 0; n < tile_amx.columns; ++n) {
      double sum = add ? before[m * tile_amx.columns + n] : 0;
      for (int64_t s = 0; s < segment_count; ++s) {
        for (int64_t k = 0; k < extent; ++k) {
          const int64_t pair = s * extent / 2 + k / 2;
          sum += double(to_compute(a[rows[m] + segments[s] + k])) * to_compute(b[(pair * tile_amx.columns + n) * 2 + k % 2]);
        }
      }
      check(out[m * tile_amx.columns + n] == sum, name);
    }
  }
  if (extent % tile_amx.depth != 0) return;
  const int64_t size = extent * tile_amx.columns, apart = size + 3 * tile_amx.columns;
  std::vector<BFloat16> spread(segment_count > 0 ? (segment_count - 1) * apart + size : 0, bf16(kNaN));
  for (int64_t s = 0; s < segment_count; ++s) std::copy_n(b.begin() + s * size, size, spread.begin() + s * apart);
  fill_stack_with_nan();
  const bool is_even = spacing == Spacing::even || spacing == Spacing::same || spacing == Spacing::halves || spacing == Spacing::backwards;
  if (!is_even) return;  // rows are copied across segments
  std::vector<float> again = before;
  tile_amx.gemm_apart(a.data(), rows.data(), segments.data(), segment_count, extent, spread.data(), apart, add, again.data(),
                      a.data(), 64);
  check(again == out, name + ", apart");
}

void check_gemms(unsigned seed) {
  std::mt19937 random(seed);
  tile_amx.begin();
  for (int spacing = 0; spacing < 7; ++spacing) {
    for (const int64_t segment_count : {0, 1, 2, 5}) {
      for (const int64_t extent : {2, 30, 32, 34, 64, 96, 130}) {
        for (const bool add : {false, true}) {
          check_gemm(static_cast<Spacing>(spacing), segment_count, extent, add, random);
        }
      }
    }
  }
  tile_amx.end();
}

// One element of a product of tiles of one pair: total + (a[0] * b[0] + a[1] * b[1]).
float product(float total, const float (&a)[2], const float (&b)[2]) {
  TileShapes shapes = {1, 0, {}, {4, 4, 4}, {1, 1, 1}};
  const BFloat16 pairs[2][2] = {{bf16(a[0]), bf16(a[1])}, {bf16(b[0]), bf16(b[1])}};
  _tile_loadconfig(&shapes);
  _tile_loadd(0, &total, 4);
  _tile_loadd(1, pairs[0], 4);
  _tile_loadd(2, pairs[1], 4);
  _tile_dpbf16ps(0, 1, 2);
  _tile_stored(0, &total, 4);
  _tile_release();
  return total;
}

void check_arithmetic() {
  const float tiny = 0x1p-126f;
  check(product(1, {2, 3}, {5, 7}) == 32, "a product");
  check(product(0, {tiny / 2, 0}, {1, 0}) == 0, "a subnormal input is zero");
  check(product(tiny / 2, {0, 0}, {1, 1}) == 0, "a subnormal accumulator is zero");
  check(product(0, {tiny, 0}, {0.5f, 0}) == 0, "a subnormal product is zero");
  check(product(0x1p24f, {1, 0}, {1, 0}) == 0x1p24f, "ties go to even");
  check(product(0x1p24f + 2, {1, 0}, {1, 0}) == 0x1p24f + 4, "ties go to even");
  check(product(0x1p24f, {1, 1}, {1, 1}) == 0x1p24f + 2, "a pair is added up first");
  check(std::isnan(product(0, {kNaN, 0}, {0, 0})), "NaN stays");
}

}  // namespace
}  // namespace fastgan::conv

int main(int count, char**) {
  using namespace fastgan::conv;
  if (count > 1) {  // any argument: the mistake that has to be noticed
    const int64_t rows[32] = {}, segments[1] = {};
    float out[1024];
    tile_amx.gemm(nullptr, rows, segments, 0, 32, nullptr, false, out);
    return 0;
  }
  check_arithmetic();
  check_gemms(0);
  std::thread other(check_gemms, 1);  // its tiles are its own
  check_gemms(2);
  other.join();
}

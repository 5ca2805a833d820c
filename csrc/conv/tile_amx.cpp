// The micro-kernel for AMX: 32 rows by 32 columns in 2x2 accumulators of 16x16, 32 bfloat16 of k at a time.
//
// A step of k is four multiplications of 16 cycles; it loads 64 lines of 64 bytes, which two load ports do in 32 cycles where the
// lines are in the first-level cache. So multiplication bounds it as long as they are, and callers hand over some hundreds of k at a
// time: 256 of k are 16 KiB of A and 16 of B. Rows of A that are not evenly spaced, in each half, are copied, which takes longer than
// their products.
#include "conv/tile.h"

#if FASTGAN_EMULATE_AMX || (FASTGAN_X86 && (__has_include(<amxbf16intrin.h>) || __has_include(<amxintrin.h>)))

#include <algorithm>

#include "conv/amx.h"

namespace fastgan::conv {
namespace {

constexpr int kPair = 2;               // neighbours in k, side by side in B
constexpr int kSide = 16;              // rows and columns of an accumulator
constexpr int kDepth = kPair * kSide;  // of k in a tile of A or B
constexpr int kRows = 2 * kSide, kColumns = 2 * kSide;
// Bytes from a line to the next: of copied rows of A, of B, of the result.
constexpr int64_t kLine = kDepth * sizeof(BFloat16), kLineB = kPair * kColumns * sizeof(BFloat16);
constexpr int64_t kLineOut = kColumns * sizeof(float), kSumBytes = kRows * kLineOut;
static_assert(kRows <= kMaxTileRows && kColumns <= kMaxTileColumns);

// Tiles 0 to 3 are the accumulators, 4 and 5 the upper and the lower rows of A, 6 and 7 the left and the right columns of B;
// all of them 16 lines of 64 bytes. A constant, because gcc's _tile_loadconfig names only the first 8 bytes to the compiler.
constexpr TileShapes kShapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

FASTGAN_AMX void begin() { _tile_loadconfig(&kShapes); }
FASTGAN_AMX void end() { _tile_release(); }

// Asks for some lines; returns what follows them.
template <int lines, int locality>
FASTGAN_AMX inline const char* fetch_lines(const void* from) {
  const auto* const memory = static_cast<const char*>(from);
#pragma GCC unroll 8
  for (int i = 0; i < lines; ++i) __builtin_prefetch(memory + 64 * i, 0, locality);
  return memory + 64 * lines;
}

// Adds a step of k. Strides are in bytes.
FASTGAN_AMX inline void multiply(const BFloat16* upper, int64_t upper_stride, const BFloat16* lower,
                                 int64_t lower_stride, const BFloat16* b) {
  _tile_loadd(4, upper, upper_stride);
  _tile_loadd(6, b, kLineB);
  _tile_loadd(7, b + kPair * kSide, kLineB);
  _tile_loadd(5, lower, lower_stride);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

FASTGAN_AMX inline bool are_evenly_spaced(const int64_t* rows) {
  const int64_t apart = rows[1] - rows[0];
  int64_t differences = 0;  // without a branch, so that vectors compare them
  for (int m = 0; m < kSide; ++m) differences |= rows[m] - rows[0] - m * apart;
  return differences == 0;
}

// Rows of A that a tile cannot read where they lie: brings kDepth of k after kDepth to a place, across segments.
struct Collect {
  const BFloat16* const a;
  const int64_t *const rows, *const segments;
  const int64_t segment_count, extent;
  int64_t segment = 0, k = 0;

  // How many of k there were; zeros follow them.
  FASTGAN_AMX int64_t next(BFloat16 (*lines)[kDepth]) {
    int64_t count = 0;
    while (count < kDepth && segment < segment_count) {
      const int64_t some = std::min(kDepth - count, extent - k);
      const BFloat16* const from = a + segments[segment] + k;
      for (int m = 0; m < kRows; ++m) copy_some(from + rows[m], some, lines[m] + count);
      count += some, k += some;
      if (k == extent) ++segment, k = 0;
    }
    static constexpr BFloat16 kZeros[kDepth] = {};
    if (count > 0 && count < kDepth) {
      for (int m = 0; m < kRows; ++m) copy_some(kZeros, kDepth - count, lines[m] + count);
    }
    return count;
  }
};

FASTGAN_AMX void gemm_apart(const BFloat16* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent,
                            const BFloat16* b, int64_t apart, bool add, float* out, const void* next, int64_t bytes) {
  float *const lower_out = out + kSide * kColumns;
  if (add) {
    _tile_loadd(0, out, kLineOut);
    _tile_loadd(1, out + kSide, kLineOut);
    _tile_loadd(2, lower_out, kLineOut);
    _tile_loadd(3, lower_out + kSide, kLineOut);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  // Whole steps are read where they lie, unless they end in the middle of segments, and then what is left.
  const int64_t* const lower = rows + kSide;
  const bool is_whole = extent % kDepth == 0, is_even = are_evenly_spaced(rows) && are_evenly_spaced(lower);
  Collect collect{a, rows, segments, segment_count, extent};
  if (is_even && (is_whole || segment_count == 1)) {
    constexpr auto kBytes = static_cast<int64_t>(sizeof(BFloat16));
    const int64_t upper_stride = (rows[1] - rows[0]) * kBytes, lower_stride = (lower[1] - lower[0]) * kBytes;
    const int64_t whole = extent - extent % kDepth;
    // Whoever adds up sums in turn has the next ones behind these; they are asked for some lines a step.
    const char *ahead = reinterpret_cast<const char*>(out + kRows * kColumns), *const end = add ? ahead + kSumBytes : ahead;
    static_assert(kSumBytes % (8 * 64) == 0);
    const int64_t skip = apart - extent * kColumns;
    for (int64_t s = 0; s < segment_count; ++s, b += is_whole ? skip : 0) {
      for (int64_t k = segments[s]; k < segments[s] + whole; k += kDepth, b += kDepth * kColumns) {
        if (ahead < end) ahead = fetch_lines<8, 3>(ahead);
        if (bytes > 0) next = fetch_lines<4, 2>(next), bytes -= 4 * 64;
        multiply(a + rows[0] + k, upper_stride, a + lower[0] + k, lower_stride, b);
      }
    }
    collect.segment = is_whole ? segment_count : 0, collect.k = is_whole ? 0 : whole;
  }
  if (collect.segment < segment_count) {
    // A step's lines are written while the one before is multiplied, so that no load waits for a store just made.
    alignas(64) BFloat16 lines[2][kRows][kDepth], last[kDepth * kColumns];
    int64_t count = collect.next(lines[0]);
    for (int i = 0; count > 0; i ^= 1, b += kDepth * kColumns) {
      const int64_t next = collect.next(lines[i ^ 1]);
      if (count < kDepth) {  // the end of b: zeros again, for what lies behind it may be NaN
        std::memset(last, 0, sizeof(last));
        std::memcpy(last, b, count * kColumns * sizeof(BFloat16));
        b = last;
      }
      in_order(lines), in_order(last);
      multiply(lines[i][0], kLine, lines[i][kSide], kLine, b);
      in_order(lines);
      count = next;
    }
  }
  _tile_stored(0, out, kLineOut);
  _tile_stored(1, out + kSide, kLineOut);
  _tile_stored(2, lower_out, kLineOut);
  _tile_stored(3, lower_out + kSide, kLineOut);
}

void gemm(const BFloat16* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent,
          const BFloat16* b, bool add, float* out) {
  gemm_apart(a, rows, segments, segment_count, extent, b, extent * kColumns, add, out, nullptr, 0);
}

}  // namespace

extern const Tile<BFloat16> tile_amx = {{kRows, gemm}, kColumns, kPair, kDepth, {}, nullptr, begin, end, gemm_apart};

}  // namespace fastgan::conv

#else

namespace fastgan::conv {
extern const Tile<BFloat16> tile_amx = {};
}

#endif

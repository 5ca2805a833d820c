// The AMX instructions of tile_amx.cpp, by the names that compilers give them. Under FASTGAN_EMULATE_AMX plain C++ takes
// their place, for machines without AMX and for sanitizers, which do not see what a tile instruction reads. What the
// processor answers with a fault, the emulation answers with a sentence and abort().
#pragma once

#include <cstdint>
#include <cstring>

#include "common/element.h"

#if FASTGAN_EMULATE_AMX
#include <cmath>
#include <cstdio>
#include <cstdlib>
#define FASTGAN_AMX
#else
#include <immintrin.h>
#define FASTGAN_AMX \
  __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq")))
#endif

namespace fastgan::conv {
namespace {

// What _tile_loadconfig reads.
struct alignas(64) TileShapes {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];  // only the first eight tiles exist
  uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64);

#if FASTGAN_EMULATE_AMX

constexpr int kTiles = 8, kTileRows = 16, kTileBytes = 64;

struct EmulatedTiles {
  bool is_configured = false;
  TileShapes shapes;
  alignas(64) uint8_t data[kTiles][kTileRows][kTileBytes];
};
inline EmulatedTiles& emulated() {
  static thread_local EmulatedTiles tiles;
  return tiles;
}

inline void require(bool holds, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "fastgan: emulated AMX: %s.\n", rule);
  std::abort();
}

inline EmulatedTiles& configured() {
  require(emulated().is_configured, "a tile is used before _tile_loadconfig or after _tile_release");
  return emulated();
}

inline void _tile_release() { emulated().is_configured = false; }

inline void _tile_loadconfig(const void* from) {
  auto& tiles = emulated();
  tiles = {};
  std::memcpy(&tiles.shapes, from, sizeof(TileShapes));
  require(tiles.shapes.palette == 1 && tiles.shapes.start_row == 0, "the palette must be 1, and the first row 0");
  for (const uint8_t byte : tiles.shapes.reserved) require(byte == 0, "reserved bytes of the configuration must be 0");
  for (int i = 0; i < 16; ++i) {
    const int rows = tiles.shapes.rows[i], bytes = tiles.shapes.row_bytes[i];
    require(i < kTiles || (rows == 0 && bytes == 0), "there are eight tiles");
    require(rows <= kTileRows && bytes <= kTileBytes && (rows == 0) == (bytes == 0), "a tile is at most 16 x 64 bytes");
  }
  tiles.is_configured = true;
}

inline void _tile_zero(int tile) { std::memset(configured().data[tile], 0, kTileRows * kTileBytes); }

inline void _tile_loadd(int tile, const void* from, int64_t stride) {
  auto& tiles = configured();
  _tile_zero(tile);
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row) {
    std::memcpy(tiles.data[tile][row], static_cast<const uint8_t*>(from) + row * stride, tiles.shapes.row_bytes[tile]);
  }
}

inline void _tile_stored(int tile, void* to, int64_t stride) {
  auto& tiles = configured();
  for (int row = 0; row < tiles.shapes.rows[tile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, tiles.data[tile][row], tiles.shapes.row_bytes[tile]);
  }
}

constexpr float kLeastNormal = 0x1p-126f;
inline float flushed(float value) { return std::fabs(value) < kLeastNormal ? std::copysign(0.0f, value) : value; }

constexpr int kTileSums = kTileBytes / sizeof(float), kPairs = kTileRows;

// bfloat16 come in pairs of neighbours in k: [line][number of the pair][which of the two].
struct TileValues {
  float at[kTileRows][2][kPairs];
};
inline TileValues values_of(int tile) {
  TileValues values;
  for (int row = 0; row < kTileRows; ++row) {
    BFloat16 elements[2 * kPairs];
    std::memcpy(elements, configured().data[tile][row], sizeof(elements));
    for (int i = 0; i < 2 * kPairs; ++i) values.at[row][i % 2][i / 2] = flushed(to_compute(elements[i]));
  }
  return values;
}

// A row of the result. Optimised in every build, and unwatched by sanitizers: it stays in these arrays, and a test under sanitizers
// would spend most of its time here. Fused or not is the same: a product of two bfloat16 is exact in float32.
__attribute__((optimize("O3"), no_sanitize("address", "undefined"))) inline void add_products(const float (*left)[kPairs],
                                                                                            const TileValues& right, int pairs,
                                                                                            float* total) {
  const auto flush = [](float value) __attribute__((always_inline)) {
    return value < kLeastNormal && value > -kLeastNormal ? __builtin_copysignf(0.0f, value) : value;
  };
  float sums[2][kTileSums] = {};
  for (int k = 0; k < pairs; ++k) {
    for (int i = 0; i < 2; ++i) {
      const float factor = left[i][k];
      for (int n = 0; n < kTileSums; ++n) sums[i][n] = flush(factor * right.at[k][i][n] + sums[i][n]);
    }
  }
  for (int n = 0; n < kTileSums; ++n) total[n] = flush(flush(total[n]) + flush(sums[0][n] + sums[1][n]));
}

// The manual's operation: even and odd elements of k are summed apart from zero on, then added up, then to the tile.
inline void _tile_dpbf16ps(int to, int a, int b) {
  auto& tiles = configured();
  const auto* const rows = tiles.shapes.rows;
  const auto* const bytes = tiles.shapes.row_bytes;
  require(rows[to] == rows[a] && bytes[to] == bytes[b] && bytes[a] == 4 * rows[b], "shapes of a product do not match");
  const TileValues left = values_of(a), right = values_of(b);
  for (int m = 0; m < rows[to]; ++m) {
    float total[kTileSums];
    std::memcpy(total, tiles.data[to][m], sizeof(total));
    add_products(left.at[m], right, rows[b], total);
    std::memcpy(tiles.data[to][m], total, bytes[to]);
  }
}

// Copies count <= 32 elements; nothing beyond them is read or written.
inline void copy_some(const BFloat16* from, int64_t count, BFloat16* to) {
  std::memcpy(to, from, count * sizeof(BFloat16));
}

#else

FASTGAN_AMX inline void copy_some(const BFloat16* from, int64_t count, BFloat16* to) {
  const auto which = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  _mm512_mask_storeu_epi16(to, which, _mm512_maskz_loadu_epi16(which, from));
}

#endif

// To stand between writing to memory and _tile_loadd of it, on both sides: gcc's intrinsic names an address but no memory,
// so that without this the compiler drops the writes, moves them behind the load, or later ones before it.
inline void in_order(const void* memory) { asm volatile("" ::"r"(memory) : "memory"); }

}  // namespace
}  // namespace fastgan::conv

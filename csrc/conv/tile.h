// The micro-kernel of every convolution: a tile of a matrix product whose left rows lie wherever they lie.
//
//   out[m][n] = sum over segments s and k < extent of  a[rows[m] + segments[s] + k] * b[s][k][n]
//
// A convolution's forward: m is an output pixel, a segment is a tap of the kernel, k is an input channel. Its weight
// gradient: m is an input channel, a segment is a row of output pixels, k is a pixel in it. So one kernel an instruction set
// serves both, and nothing is copied to make rows of patches.
//
// Compiled once for each instruction set (tile_kernels.cpp; tile_amx.cpp). S is the element type of the packed operands:
// BFloat16 where the instruction set multiplies pairs of them (then k goes in steps of two), float or double otherwise.
#pragma once

#include <cstdint>

#include "common/element.h"

namespace fastgan::conv {

inline constexpr int kMaxTileRows = 32;
inline constexpr int kMaxTileColumns = 32;

template <class S>
struct TileRows {
  using A = Compute<S>;
  int rows = 0;  // 0 where the instruction set has none
  // b: [segment_count][extent / step][columns][step]. out: [rows][columns], added to where `add`, otherwise overwritten.
  void (*gemm)(const S* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent,
               const S* b, bool add, A* out) = nullptr;
  // The same for matrices, for steps of 1 only. With left rows `distance` apart, the next tile's are fetched into cache:
  //   out[m][n] = sum over k < extent of  a[m * distance + k] * b[k][n]
  void (*gemm_rows)(const S* a, int64_t distance, int64_t extent, const S* b, bool add, A* out) = nullptr;
};

template <class S>
struct Tile : TileRows<S> {
  using A = Compute<S>;
  int columns = 0;
  int step = 1;  // what `extent` is a multiple of
  int depth = 1;  // what it should be a multiple of, to be fast
  TileRows<S> smaller[2];  // with fewer rows, for what is left at the end
  // With a left operand that is packed as the right one is, [k][columns]:  a[rows[m] + k * columns] * b[k][n]
  void (*gemm_columns)(const S* a, const int64_t* rows, int64_t extent, const S* b, bool add, A* out) = nullptr;
  // Where they are there, a thread calls gemm between the two: InUse (packed.h).
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  // As gemm; meanwhile `bytes` from `next` on are asked for, by AMX some lines a step, as many as fit: asked for all at once, lines that
  // come from far away hold up those that the product reads. Each segment of b is `apart` from the one before: extent * columns, where
  // they follow each other. If they do not, extent has to be a multiple of depth, and rows evenly spaced.
  void (*gemm_apart)(const S* a, const int64_t* rows, const int64_t* segments, int64_t segment_count, int64_t extent, const S* b,
                     int64_t apart, bool add, A* out, const void* next, int64_t bytes) = nullptr;

  // What the next of `left` rows go to, so that few spare ones are computed.
  const TileRows<S>& next(int64_t left) const {
    const TileRows<S>* best = this;
    for (const auto& some : smaller) {
      if (left <= some.rows || (left > this->rows && left <= 2 * some.rows)) best = &some;
    }
    return *best;
  }
};

struct Tiles {
  Tile<float> float32;
  Tile<double> float64;
  Tile<BFloat16> bfloat16;
};

const Tiles& tiles();  // for the instruction set in use
extern const Tile<BFloat16> tile_amx;  // empty where the compiler does not know AMX

}  // namespace fastgan::conv

// The tensor cores of Hopper (sm_90a): a warpgroup, four warps, multiplies operands that lie in shared memory, beside whatever else
// its threads do. PTX ISA, "Asynchronous warpgroup level matrix multiply-accumulate instructions".
//
// Panels (cuda_panel.cuh) are in the order that the instructions name 128-byte swizzle.
#pragma once

#include "conv/cuda_device.cuh"

namespace fastgan::conv {

#if defined(FASTGAN_EMULATED_DEVICE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasWarpgroups = true;
#else
inline constexpr bool kHasWarpgroups = false;
#endif

// An operand: where it begins, and how far its blocks of 8 rows of 128 bytes are apart ("stride"), and, where neighbours in memory
// differ in m or n, its blocks of 64 of these ("leading"). PTX ISA, "Matrix descriptor"; all in units of 16 bytes.
FASTGAN_HOST_DEVICE inline uint64_t descriptor_of(unsigned address, unsigned leading_bytes) {
  constexpr uint64_t kSwizzle128 = 1, kStride = 8 * 128 / 16;
  const auto in_units = [](unsigned bytes) { return uint64_t{bytes / 16 & 0x3fff}; };
  return in_units(address) | in_units(leading_bytes) << 16 | kStride << 32 | kSwizzle128 << 62;
}

// Of what begins so many bytes behind. In the lower half alone: shared memory ends before its 18 bits do.
FASTGAN_HOST_DEVICE inline uint64_t descriptor_after(uint64_t descriptor, unsigned bytes) {
  return (descriptor & ~uint64_t{0xffffffff}) | (static_cast<uint32_t>(descriptor) + bytes / 16);
}

#if defined(FASTGAN_EMULATED_DEVICE)

using emulator::begin_products;
using emulator::commit_products;
using emulator::fence_shared_writes;
using emulator::wait_for_products;
using emulator::warpgroup_multiply_add;

#else

// Makes this thread's copies and stores to shared memory visible to what reads it beside the threads.
__device__ inline void fence_shared_writes() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Before the first product, and after the sums were touched.
__device__ inline void begin_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void commit_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Until then the sums must not be touched, nor the operands overwritten.
__device__ inline void wait_for_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

#define FASTGAN_8_SUMS(i)                                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FASTGAN_32_SUMS(i) FASTGAN_8_SUMS(i), FASTGAN_8_SUMS(i + 8), FASTGAN_8_SUMS(i + 16), FASTGAN_8_SUMS(i + 24)
#define FASTGAN_32_NAMES                                                        \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FASTGAN_WGMMA(columns, type, names, operands)                                                                        \
  "{ .reg .pred add; setp.eq.u32 add, 0, 0; wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" names \
  "}, " operands "; }"
#define FASTGAN_WGMMA_8(type) \
  asm volatile(FASTGAN_WGMMA(8, type, "%0, %1, %2, %3", "%4, %5, add, 1, 1, %6, %6") \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
               : "l"(left), "l"(right), "n"(transposed))
#define FASTGAN_WGMMA_64(type) \
  asm volatile(FASTGAN_WGMMA(64, type, FASTGAN_32_NAMES, "%32, %33, add, 1, 1, %34, %34") \
               : FASTGAN_32_SUMS(0) \
               : "l"(left), "l"(right), "n"(transposed))
#define FASTGAN_WGMMA_128(type) \
  asm volatile(FASTGAN_WGMMA(128, type, \
                             FASTGAN_32_NAMES ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63", \
                             "%64, %65, add, 1, 1, %66, %66") \
               : FASTGAN_32_SUMS(0), FASTGAN_32_SUMS(32) \
               : "l"(left), "l"(right), "n"(transposed))

#endif

// d += left right, of 64 x 16 by 16 x `columns`. A lane of warp w of the four holds d[i] of
//   row 16 w + lane / 4 + 8 (i / 2 % 2), column 8 (i / 4) + lane % 4 * 2 + i % 2
// transposed: neighbours of the operands in memory differ in m and in n, otherwise in k.
template <class T, int columns, bool transposed>
__device__ inline void warpgroup_multiply_add(float (&d)[columns / 2], uint64_t left, uint64_t right) {
  static_assert(columns == 8 || columns == 64 || columns == 128);
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr bool is_half = std::is_same_v<T, __half>;
  if constexpr (columns == 8 && is_half) FASTGAN_WGMMA_8("f16");
  if constexpr (columns == 8 && !is_half) FASTGAN_WGMMA_8("bf16");
  if constexpr (columns == 64 && is_half) FASTGAN_WGMMA_64("f16");
  if constexpr (columns == 64 && !is_half) FASTGAN_WGMMA_64("bf16");
  if constexpr (columns == 128 && is_half) FASTGAN_WGMMA_128("f16");
  if constexpr (columns == 128 && !is_half) FASTGAN_WGMMA_128("bf16");
#endif
}

#endif

}  // namespace fastgan::conv

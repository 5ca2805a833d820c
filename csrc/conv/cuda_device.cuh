// What the tile kernel needs of the device: copies to shared memory that run beside the arithmetic, and the tensor cores of a warp.
// Those of four warps are in cuda_warpgroup.cuh.
//
// Both came with compute capability 8.0; code for older ones has no kernel that needs them (kHasTensorCores), and none is launched.
#pragma once

#include "common/device.cuh"

namespace fastgan::conv {

constexpr int kFirstTensorCores = 80;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kHasTensorCores = false;
#else
inline constexpr bool kHasTensorCores = true;
#endif

// ---- shared memory ------------------------------------------------------------------------------------------------------

#if defined(FASTGAN_EMULATED_DEVICE)

using emulator::commit_copies;
using emulator::copy_16;
using emulator::wait_for_copies;

#else

// 16 bytes, or zeros; both addresses are multiples of 16. A thread's copies since its last commit are a group; a group is complete
// for that thread after wait_for_copies<n> with n later groups or fewer.
__device__ inline void copy_16(void* shared, const void* global, bool zeros) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(zeros ? 0 : 16)
               : "memory");
#else
  *static_cast<uint4*>(shared) = zeros ? uint4{0, 0, 0, 0} : *static_cast<const uint4*>(global);
#endif
}
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int newer>
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(newer) : "memory");
#endif
}

#endif

// ---- tensor cores -------------------------------------------------------------------------------------------------------

// Four matrices of 8 x 8 elements of 16 bits from shared memory, one into each register. A lane names where row lane % 8 of
// matrix lane / 8 lies, 16 aligned bytes; it gets the elements lane % 4 * 2 and the next of row lane / 4 of every matrix, or of
// their transposes. PTX ISA, ldmatrix.
template <bool transposed>
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(FASTGAN_EMULATED_DEVICE)
  emulator::load_matrices<transposed>(to, row);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
#endif
}

// To the nearest of 10 bits, as tensor cores take float32.
template <int n>
__device__ inline void round_to_tf32(uint32_t (&values)[n][4]) {
#pragma unroll
  for (auto& four : values) {
#pragma unroll
    for (uint32_t& value : four) {
#if defined(FASTGAN_EMULATED_DEVICE)
      value = (value + 0x1000) & ~0x1fffu;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
      asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(value) : "f"(__uint_as_float(value)));
#endif
    }
  }
}

// d += a b, of 16 x 16 by 16 x 8, or in TF32 16 x 8 by 8 x 8, by the threads of a warp. Who holds what: PTX ISA, mma.m16n8k16,
// "Matrix fragments for .f16 / .bf16", and mma.m16n8k8, ".tf32". In a lane, with group = lane / 4 and pair = lane % 4 * 2:
//   a[i]: rows group + 8 (i % 2), columns pair + 8 (i / 2) and the next     b[i]: rows pair + 8 i and the next, column group
//   in TF32:                      column lane % 4 + 4 (i / 2)                     row lane % 4 + 4 i
//   d[i]: row group + 8 (i / 2), column pair + i % 2
template <class T>
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(FASTGAN_EMULATED_DEVICE)
  emulator::multiply_add<T>(d, a, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, float>) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

}  // namespace fastgan::conv

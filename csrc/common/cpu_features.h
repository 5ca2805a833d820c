// What this CPU can do, and which instruction set the kernels use.
#pragma once

namespace fastgan {

// In order: each includes those before it.
//   avx2: AVX2, FMA, F16C      avx512: F, BW, VL, DQ      amx: AMX-TILE, AMX-BF16, AVX512-BF16
enum class Isa { scalar, avx2, avx512, amx };

const char* isa_name(Isa isa);

struct CpuFeatures {
  bool avx2 = false, fma = false, f16c = false;
  bool avx512 = false, avx512_bf16 = false, avx512_fp16 = false;  // avx512: F, BW, VL and DQ
  bool amx_bf16 = false;                     // the tiles, and the kernel lets this process use them
};

// Found once a process; false where the operating system does not save the registers.
const CpuFeatures& cpu_features();

// The best that the CPU has, capped by the environment variable FASTGAN_CPU_ISA, which is read once.
// Throws std::invalid_argument where that is set to an unknown name.
Isa cpu_isa();

}  // namespace fastgan

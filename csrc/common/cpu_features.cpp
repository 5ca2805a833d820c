#include "common/cpu_features.h"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if FASTGAN_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastgan {
namespace {

#if FASTGAN_X86

struct Leaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(uint32_t leaf, uint32_t subleaf) {
  Leaf r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(uint32_t word, int position) { return (word >> position) & 1u; }

// Which register states the operating system saves. Only valid where CPUID says OSXSAVE.
uint64_t saved_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

#if FASTGAN_EMULATE_AMX  // conv/amx.h
constexpr bool kEmulatesAmx = true;
#else
constexpr bool kEmulatesAmx = false;
#endif

// Linux hands out the tile registers on request, once a process.
bool request_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

CpuFeatures detect() {
  CpuFeatures f;
  const Leaf basic = cpuid(1, 0);
  if (!bit(basic.ecx, 27)) return f;  // OSXSAVE
  const uint64_t saved = saved_states();
  const auto saves = [saved](uint64_t mask) { return (saved & mask) == mask; };
  const bool ymm = saves(0x6), zmm = saves(0xe6), tiles = saves(0x60000);

  const Leaf extended = cpuid(7, 0), more = cpuid(7, 1);
  f.fma = ymm && bit(basic.ecx, 12);
  f.f16c = ymm && bit(basic.ecx, 29);
  f.avx2 = ymm && bit(extended.ebx, 5);
  f.avx512 = zmm && bit(extended.ebx, 16) && bit(extended.ebx, 17) && bit(extended.ebx, 30) && bit(extended.ebx, 31);
  f.avx512_bf16 = f.avx512 && extended.eax >= 1 && bit(more.eax, 5);
  f.avx512_fp16 = f.avx512 && bit(extended.edx, 23);
  f.amx_bf16 = kEmulatesAmx || (tiles && bit(extended.edx, 24) && bit(extended.edx, 22) && request_tiles());
  return f;
}

#else

CpuFeatures detect() { return {}; }

#endif

Isa best(const CpuFeatures& f) {
  if (!(f.avx2 && f.fma && f.f16c)) return Isa::scalar;
  if (!f.avx512) return Isa::avx2;
  return f.amx_bf16 && f.avx512_bf16 ? Isa::amx : Isa::avx512;
}

Isa cap() {
  const char* text = std::getenv("FASTGAN_CPU_ISA");
  if (!text || !*text) return Isa::amx;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (std::string(text) == isa_name(isa)) return isa;
  }
  throw std::invalid_argument(std::string("The environment variable FASTGAN_CPU_ISA is '") + text +
                              "'; set it to amx, avx512, avx2 or scalar, or unset it.");
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* names[] = {"scalar", "avx2", "avx512", "amx"};
  return names[static_cast<int>(isa)];
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

Isa cpu_isa() {
  static const Isa isa = [] {
    const Isa most = cap(), have = best(cpu_features());
    return have < most ? have : most;
  }();
  return isa;
}

}  // namespace fastgan

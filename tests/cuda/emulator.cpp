// The emulator itself: what it shows, and what it must notice. The argument names one thing to do.
#include <string>

#include "check.h"

namespace {

__global__ void reverse(const int* from, int* to, bool with_barrier) {
  __shared__ int shared[64];
  shared[threadIdx.x] = from[blockIdx.x * 64 + threadIdx.x];
  if (with_barrier) __syncthreads();
  to[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void sum_of_warp(const int* from, int* to, unsigned* even) {
  int sum = from[threadIdx.x];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  const unsigned votes = __ballot_sync(~0u, from[threadIdx.x] % 2 == 0);
  to[threadIdx.x] = __shfl_sync(~0u, sum, 0);
  if (threadIdx.x % 32 == 0) even[threadIdx.x / 32] = votes;
}

// Two groups of copies; `to` is what is there when so many of them may be on their way.
template <int newer>
__global__ void copy(const uint4* from, uint32_t* to) {
  __shared__ uint4 shared[2][64];
  for (auto& group : shared) {
    group[threadIdx.x] = {};
    emulator::copy_16(&group[threadIdx.x], from + threadIdx.x, threadIdx.x == 63);
    emulator::commit_copies();
  }
  emulator::wait_for_copies<newer>();
  for (int group = 0; group < 2; ++group) to[group * 64 + threadIdx.x] = shared[group][threadIdx.x].x;
}

// Ones in left's first row and right's first 8 columns, in the order of a 128-byte swizzle, are 16 in as many sums; with `late`
// overwritten before they are waited for.
__global__ void product(float* to, bool late) {
  auto* const left = reinterpret_cast<__half*>(emulator::dynamic_shared());
  auto* const right = left + 64 * 64;
  for (int i = threadIdx.x; i < (64 + 8) * 64; i += 128) {
    const bool is_one = i / 64 == 0 || i / 64 >= 64;
    left[i] = fastgan::from_compute<__half>(is_one ? 1 : 0);
  }
  __syncthreads();
  const auto descriptor = [](const void* of) {
    return uint64_t{emulator::shared_address(of) / 16} | uint64_t{64} << 32 | uint64_t{1} << 62;
  };
  float sums[4] = {};
  emulator::warpgroup_multiply_add<__half, 8, false>(sums, descriptor(left), descriptor(right));
  if (late) right[threadIdx.x] = fastgan::from_compute<__half>(2);
  emulator::wait_for_products();
  for (int i = 0; i < 4; ++i) to[threadIdx.x * 4 + i] = sums[i];
}

__global__ void beyond_dynamic() { emulator::dynamic_shared()[1024] = 1; }

__global__ void diverge(bool hang) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    if (hang) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
}

__global__ void beyond(int* to, int index) {
  __shared__ int shared[64];
  shared[threadIdx.x + index] = 1;
  *to = shared[threadIdx.x];
}

__global__ void beyond_global(int* to, int index) { to[index + threadIdx.x] = 1; }

bool reverses(bool with_barrier) {
  std::vector<int> from(192), to(192, -1);
  for (int i = 0; i < 192; ++i) from[i] = i;
  emulator::Launch{7}(reverse, 3, 64, from.data(), to.data(), with_barrier);
  for (int i = 0; i < 192; ++i) {
    if (to[i] != i / 64 * 64 + 63 - i % 64) return false;
  }
  return true;
}

void check_copies() {
  std::vector<uint4> from(64, uint4{7, 7, 7, 7});
  std::vector<uint32_t> to(128, 1), none(128, 0);
  const emulator::Launch launch(2);
  launch(copy<2>, 1, 64, from.data(), to.data());
  check::holds(to == none, "copies that are not waited for are not seen");
  launch(copy<1>, 1, 64, from.data(), to.data());
  check::holds(to[0] == 7 && to[62] == 7 && to[63] == 0 && to[64] == 0, "copies, or zeros, of a group that is waited for");
  launch(copy<0>, 1, 64, from.data(), to.data());
  check::holds(to[64] == 7 && to[126] == 7, "copies of all groups");
}

void check_products() {
  std::vector<float> sums(512), expected(512, 0), late(512);
  for (int i = 0; i < 4; ++i) expected[i * 4] = expected[i * 4 + 1] = 16;  // lanes 0 to 3 have row 0
  const emulator::Launch launch(5);
  launch.with_shared<product>(72 * 128, 1, 128, sums.data(), false);
  check::holds(sums == expected, "a warpgroup's product");
  launch.with_shared<product>(72 * 128, 1, 128, late.data(), true);
  check::holds(late != expected, "an operand that is overwritten before it is waited for is seen");
}

void check_warps() {
  std::vector<int> from(64), to(64);
  std::vector<unsigned> even(2);
  for (int i = 0; i < 64; ++i) from[i] = i;
  emulator::Launch{1}(sum_of_warp, 1, 64, from.data(), to.data(), even.data());
  check::holds(to[5] == 496 && to[40] == 496 + 32 * 32, "the sums of two warps");
  check::holds(even[0] == 0x55555555u && even[1] == even[0], "the votes of two warps");
}

}  // namespace

int main(int, char** arguments) {
  const std::string what = arguments[1] ? arguments[1] : "";
  const emulator::Launch launch(3);
  int one = 0;
  if (what == "hang") launch(diverge, 1, 32, true);
  if (what == "lines") launch(diverge, 1, 32, false);
  if (what == "shared") launch(beyond, 1, 64, &one, 1);
  if (what == "dynamic") launch.with_shared<beyond_dynamic>(100, 1, 1);
  if (what == "global") launch(beyond_global, 1, 1, &one, 1);
  if (!what.empty()) return 0;
  check::holds(reverses(true), "a block reverses its elements");
  check::holds(!reverses(false), "a missing barrier is seen");
  check_copies();
  check_products();
  check_warps();
}

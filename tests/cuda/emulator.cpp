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

__global__ void copy(const uint4* from, uint32_t* to, bool waits) {
  __shared__ uint4 shared[64];
  shared[threadIdx.x] = {};
  emulator::copy_16(&shared[threadIdx.x], from + threadIdx.x, threadIdx.x == 63);
  if (waits) emulator::wait_for_copies();
  to[threadIdx.x] = shared[threadIdx.x].x;
}

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
  std::vector<uint32_t> to(64, 1);
  emulator::Launch{2}(copy, 1, 64, from.data(), to.data(), false);
  check::holds(to == std::vector<uint32_t>(64, 0), "a copy that is not waited for is not seen");
  emulator::Launch{2}(copy, 1, 64, from.data(), to.data(), true);
  check::holds(to[0] == 7 && to[62] == 7 && to[63] == 0, "a copy, or zeros, that are waited for");
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
  if (what == "global") launch(beyond_global, 1, 1, &one, 1);
  if (!what.empty()) return 0;
  check::holds(reverses(true), "a block reverses its elements");
  check::holds(!reverses(false), "a missing barrier is seen");
  check_copies();
  check_warps();
}

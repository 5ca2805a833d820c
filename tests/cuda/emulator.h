// Runs CUDA kernels on a CPU, compiled by g++ with this file in front (-include): a fiber a thread, one block at a time.
//
// Blocks, and the threads between two barriers, run in an order that the seed shuffles, so that a result which depends on
// the order changes. Sanitizers see every access, those to shared memory too. A barrier that some threads of a block never
// reach, or reach at another line, ends the program with a sentence. Asynchronous copies are made when they are waited for.
// What this cannot show: the order in which a device makes memory visible, and speed.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "common/element.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define FASTGAN_EMULATED_DEVICE 1
#define __global__
#define __device__
#define __host__
#define __shared__ static  // of the block that runs; what an earlier one left is still there, as on a device
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

using __half = fastgan::Half;
using __nv_bfloat16 = fastgan::BFloat16;

namespace emulator {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kExchangedBytes = 64;  // a lane, at most

[[noreturn]] inline void stop(const char* sentence, int line = 0) {
  std::fprintf(stderr, "emulator: block (%u, %u, %u), thread (%u, %u, %u), line %d: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z, line, sentence);
  std::exit(1);
}

struct Copy {
  void* to;
  const void* from;  // null: zeros
};
using Copies = std::vector<Copy>;

struct Fiber {
  enum State { ready, at_barrier, at_collective, done };
  State state = ready;
  int line = 0;            // where it waits
  unsigned exchanges = 0;  // collectives so far
  ucontext_t context;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Copies copies;               // since the last commit
  std::vector<Copies> groups;  // of those that are not waited for yet
  std::vector<std::function<void()>> products;  // the same
};

class Block {
 public:
  Block(dim3 size, std::mt19937& random) : size_(size), random_(random), fibers_(size.x * size.y * size.z) {
    static std::vector<std::unique_ptr<char[]>> stacks;  // of all launches
    while (stacks.size() < fibers_.size()) stacks.emplace_back(new char[kStackBytes]);
    for (auto& slots : exchanged_) slots.resize(fibers_.size());
    for (unsigned i = 0; i < fibers_.size(); ++i) {
      fibers_[i].stack = stacks[i].get();
      order_.push_back(i);
    }
  }

  void run(const std::function<void()>& kernel) {
    kernel_ = &kernel;
    current_block() = this;
    for (auto& fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack;
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Block::enter, 0);
      fiber.state = Fiber::ready;
      fiber.exchanges = 0;
      fiber.copies.clear();
      fiber.groups.clear();
      fiber.products.clear();
    }
    do {
      std::shuffle(order_.begin(), order_.end(), random_);
      for (const unsigned thread : order_) {
        if (fibers_[thread].state == Fiber::ready) resume(thread);
      }
    } while (release());
  }

  void wait(Fiber::State where, int line) {
    Fiber& fiber = fibers_[current_];
    fiber.state = where;
    fiber.line = line;
    leave(fiber, false);
  }

  // What every lane of the calling thread's warp brings to this collective.
  template <class Value>
  std::array<Value, kLanes> exchange(const Value& value, int line) {
    static_assert(sizeof(Value) <= kExchangedBytes && std::is_trivially_copyable_v<Value>);
    const unsigned thread = current_, first = thread / kLanes * kLanes;
    // No lane is two collectives ahead of another, so two sets of slots are enough.
    auto& slots = exchanged_[fibers_[thread].exchanges++ % 2];
    std::memcpy(slots[thread].data(), &value, sizeof(Value));
    wait(Fiber::at_collective, line);
    std::array<Value, kLanes> values{};
    for (unsigned lane = 0; lane < kLanes && first + lane < fibers_.size(); ++lane) {
      std::memcpy(&values[lane], slots[first + lane].data(), sizeof(Value));
    }
    return values;
  }

  Fiber& fiber() { return fibers_[current_]; }
  unsigned lane() const { return current_ % kLanes; }
  bool toss() { return random_() % 2; }

  static Block*& current_block() {
    static Block* block = nullptr;
    return block;
  }

 private:
  static void enter() {
    Block& block = *current_block();
    block.arrived(nullptr);
    (*block.kernel_)();
    Fiber& fiber = block.fibers_[block.current_];
    fiber.state = Fiber::done;
    block.leave(fiber, true);
  }

  void resume(unsigned thread) {
    current_ = thread;
    threadIdx = dim3(thread % size_.x, thread / size_.x % size_.y, thread / (size_.x * size_.y));
    Fiber& fiber = fibers_[thread];
    void* fake_stack = nullptr;
    departing(&fake_stack, fiber.stack, kStackBytes);
    swapcontext(&scheduler_, &fiber.context);
    arrived(fake_stack);
  }

  void leave(Fiber& fiber, bool for_good) {
    departing(for_good ? nullptr : &fiber.fake_stack, scheduler_stack_, scheduler_bytes_);
    swapcontext(&fiber.context, &scheduler_);
    arrived(fiber.fake_stack);
  }

  // AddressSanitizer has to be told of every change of stack.
  void departing([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* to, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(fake_stack, to, bytes);
#endif
  }
  void arrived([[maybe_unused]] void* fake_stack) {
#ifdef __SANITIZE_ADDRESS__
    const void* from = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &from, &bytes);
    if (!scheduler_stack_) {  // the first fiber comes from there
      scheduler_stack_ = from;
      scheduler_bytes_ = bytes;
    }
#endif
  }

  // Lets go on what may: warps whose threads are all at a collective, or the block, all at its barrier. False at the end.
  bool release() {
    bool any = false, all_done = true;
    for (size_t first = 0; first < fibers_.size(); first += kLanes) {
      any |= release(first, std::min(first + kLanes, fibers_.size()), Fiber::at_collective);
    }
    any = any || release(0, fibers_.size(), Fiber::at_barrier);
    for (const auto& fiber : fibers_) all_done &= fiber.state == Fiber::done;
    if (!any && !all_done) stop("the block hangs: its threads wait at different barriers or collectives.");
    return !all_done;
  }

  bool release(size_t begin, size_t end, Fiber::State where) {
    int line = 0;
    for (size_t i = begin; i < end; ++i) {
      if (fibers_[i].state == Fiber::done) continue;
      if (fibers_[i].state != where) return false;
      if (line && fibers_[i].line != line) stop("threads meet at barriers of different lines.", fibers_[i].line);
      line = fibers_[i].line;
    }
    for (size_t i = begin; i < end; ++i) {
      if (fibers_[i].state == where) fibers_[i].state = Fiber::ready;
    }
    return line != 0;
  }

  dim3 size_;
  std::mt19937& random_;
  std::vector<Fiber> fibers_;
  std::vector<unsigned> order_;
  std::vector<std::array<unsigned char, kExchangedBytes>> exchanged_[2];
  const std::function<void()>* kernel_ = nullptr;
  unsigned current_ = 0;
  ucontext_t scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;
};

// A launch's, as long as was asked for, so that a sanitizer sees the first access beyond.
constexpr size_t kSharedAlignment = 1024;
inline unsigned char*& shared_memory() {
  static unsigned char* memory = nullptr;
  return memory;
}
inline unsigned char* dynamic_shared() { return shared_memory(); }
inline unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(shared) - shared_memory());
}

// Called as the operators' own Launch is (common/cuda.cuh).
class Launch {
 public:
  explicit Launch(unsigned seed) : random_(seed) {}

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    if (grid.x * grid.y * grid.z == 0) stop("a launch needs at least one block.", __LINE__);
    gridDim = grid;
    blockDim = block;
    std::vector<dim3> blocks;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) blocks.emplace_back(x, y, z);
      }
    }
    std::shuffle(blocks.begin(), blocks.end(), random_);
    Block fibers(block, random_);
    for (const dim3& index : blocks) {
      blockIdx = index;
      fibers.run([&] { kernel(arguments...); });
    }
  }

  template <auto kernel, class... Arguments>
  void with_shared(size_t bytes, dim3 grid, dim3 block, Arguments... arguments) const {
    bytes = (bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kSharedAlignment, bytes), std::free);
    std::memset(memory.get(), 0xff, bytes);  // not-a-numbers: nothing may count on what is there
    shared_memory() = static_cast<unsigned char*>(memory.get());
    (*this)(kernel, grid, block, arguments...);
  }

 private:
  mutable std::mt19937 random_;
};

// cp.async.cg and its groups: a copy is made as late as it may be, when its thread waits for it, so that whoever reads the target
// before that reads what was there.
inline void copy_16(void* shared, const void* global, bool zeros) {
  Block::current_block()->fiber().copies.push_back({shared, zeros ? nullptr : global});
}
inline void commit_copies() {
  Fiber& fiber = Block::current_block()->fiber();
  fiber.groups.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}
template <int newer>
void wait_for_copies() {
  auto& groups = Block::current_block()->fiber().groups;
  for (; groups.size() > newer; groups.erase(groups.begin())) {
    for (const auto& copy : groups.front()) {
      *static_cast<uint4*>(copy.to) = copy.from ? *static_cast<const uint4*>(copy.from) : uint4{0, 0, 0, 0};
    }
  }
}

// ldmatrix.sync.m8n8.x4, as csrc/conv/cuda_device.cuh describes it.
template <bool transposed>
void load_matrices(uint32_t (&to)[4], const void* row) {
  auto& block = *Block::current_block();
  const auto rows = block.exchange(static_cast<const std::array<uint16_t, 8>*>(row), __LINE__);
  const unsigned across = block.lane() / 4, along = block.lane() % 4 * 2;
  if (reinterpret_cast<uintptr_t>(row) % 16) stop("ldmatrix needs rows at multiples of 16 bytes.", __LINE__);
  for (unsigned i = 0; i < 4; ++i) {
    const auto element = [&](unsigned k) { return transposed ? (*rows[i * 8 + k])[across] : (*rows[i * 8 + across])[k]; };
    to[i] = element(along) | uint32_t{element(along + 1)} << 16;
  }
}

// mma.sync.m16n8k16, or k8 in TF32, with float sums, as csrc/conv/cuda_device.cuh describes the lanes' shares; its sums are rounded
// once.
template <class T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr unsigned kEach = 4 / sizeof(T), kDepth = 8 * kEach, kHalf = kDepth / 2;  // elements of a register, of a row
  struct Share {
    T a[4][kEach], b[2][kEach];
  } mine;
  static_assert(sizeof(mine.a) == sizeof(a) && sizeof(mine.b) == sizeof(b));
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  auto& block = *Block::current_block();
  const auto shares = block.exchange(mine, __LINE__);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = block.lane() / 4 + 8 * (i / 2), column = block.lane() % 4 * 2 + i % 2;
    double sum = d[i];
    for (unsigned k = 0; k < kDepth; ++k) {
      const T left = shares[row % 8 * 4 + k % kHalf / kEach].a[row / 8 + k / kHalf * 2][k % kEach];
      const T right = shares[column * 4 + k % kHalf / kEach].b[k / kHalf][k % kEach];
      sum += double{fastgan::to_compute(left)} * fastgan::to_compute(right);
    }
    d[i] = static_cast<float>(sum);
  }
}

// wgmma and what belongs to it, as csrc/conv/cuda_warpgroup.cuh describes it. A device reads the operands at some time between the
// product's issue and the end of the wait for it; here it is one of both, by chance. Every thread makes its own sums.
inline void fence_shared_writes() {}
inline void begin_products() {}
inline void commit_products() {}
inline void wait_for_products() {
  auto& products = Block::current_block()->fiber().products;
  for (const auto& product : products) product();
  products.clear();
}

// An element of an operand, by its descriptor.
template <class T>
double operand(uint64_t descriptor, bool transposed, unsigned mn, unsigned k) {
  const auto bytes = [&](unsigned shift) { return static_cast<unsigned>(descriptor >> shift & 0x3fff) * 16; };
  if (descriptor >> 62 != 1) stop("only operands with a 128-byte swizzle are emulated.", __LINE__);
  const unsigned start = bytes(0), leading = bytes(16), stride = bytes(32);
  const unsigned address = transposed ? start + mn / 64 * leading + mn % 64 * 2 + k / 8 * stride + k % 8 * 128
                                      : start + mn / 8 * stride + mn % 8 * 128 + k * 2;
  const unsigned swizzled = address ^ (address / 128 % 8 * 16);
  return fastgan::to_compute(*reinterpret_cast<const T*>(shared_memory() + swizzled));
}

template <class T, int columns, bool transposed>
void warpgroup_multiply_add(float (&d)[columns / 2], uint64_t left, uint64_t right) {
  auto& block = *Block::current_block();
  const unsigned lane = block.lane(), warp = threadIdx.x / kLanes % 4;
  const auto product = [&d, left, right, lane, warp] {
    double rows[2][16];
    for (unsigned i = 0; i < 32; ++i) rows[i / 16][i % 16] = operand<T>(left, transposed, 16 * warp + lane / 4 + i / 16 * 8, i % 16);
    for (unsigned j = 0; j < columns / 4; ++j) {
      double column[16];
      for (unsigned k = 0; k < 16; ++k) column[k] = operand<T>(right, transposed, 8 * (j / 2) + lane % 4 * 2 + j % 2, k);
      for (unsigned row = 0; row < 2; ++row) {
        float& sum = d[j / 2 * 4 + row * 2 + j % 2];
        sum = static_cast<float>(std::inner_product(column, column + 16, rows[row], double{sum}));
      }
    }
  };
  if (block.toss()) return block.fiber().products.push_back(product);
  wait_for_products();  // the sums are made in order
  product();
}

}  // namespace emulator

#define __syncthreads() ::emulator::Block::current_block()->wait(::emulator::Fiber::at_barrier, __LINE__)
#define __syncwarp() ::emulator::Block::current_block()->wait(::emulator::Fiber::at_collective, __LINE__)

[[noreturn]] inline void __trap() { std::abort(); }

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Of whole warps: the masks of CUDA's functions of these names are those of all lanes.
template <class Value>
Value __shfl_sync(unsigned, Value value, int from) {
  return ::emulator::Block::current_block()->exchange(value, __LINE__)[from % ::emulator::kLanes];
}
template <class Value>
Value __shfl_xor_sync(unsigned, Value value, int lanes) {
  auto& block = *::emulator::Block::current_block();
  return block.exchange(value, __LINE__)[block.lane() ^ lanes];
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto votes = ::emulator::Block::current_block()->exchange(predicate, __LINE__);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < ::emulator::kLanes; ++lane) bits |= unsigned(votes[lane] != 0) << lane;
  return bits;
}

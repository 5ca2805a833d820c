// Which kernel each operator ran, how often, and, where that was asked for, how long.
//
// Every library keeps its own table and exports the C functions below; `fastgan._C` reads them (csrc/python/module.cpp).
#pragma once

#include <cstdint>
#include <string_view>

struct AtenRecordFunctionOpaque;  // torch's

namespace fastgan {

struct Counter;

// One run of `kernel` by `op`: counted when this is made, and timed until its scope ends where fastgan_time_kernels() switched
// that on. Times are of the host: on a GPU, of the launch. Lock-free; only the first run of a new pair allocates.
class Counted {
 public:
  Counted(std::string_view op, std::string_view kernel);
  ~Counted();
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  Counter& counter_;
  const int64_t begin_;  // steady-clock nanoseconds
  const bool timed_;
  AtenRecordFunctionOpaque* recorded_ = nullptr;
};

// A trace is what this thread counted since begin_trace(), in parts: of each block of a run one.
void begin_trace();
void end_trace_of_block();

// What a library says about one kernel since the last reset: calls, nanoseconds while timing was on, and when it last ran, in
// steady-clock nanoseconds, so that the libraries' entries can be put in order.
using CounterVisitor = void (*)(void* context, const char* op, const char* kernel, uint64_t calls, int64_t total_ns,
                                int64_t last_ns);
// Without a kernel: the end of a part.
using TraceVisitor = void (*)(void* context, const char* op, const char* kernel);

}  // namespace fastgan

extern "C" {
__attribute__((visibility("default"))) void fastgan_visit_counters(fastgan::CounterVisitor visit, void* context);
__attribute__((visibility("default"))) void fastgan_reset_counters();
__attribute__((visibility("default"))) void fastgan_time_kernels(bool on);
// This thread's trace, oldest first; it is empty then.
__attribute__((visibility("default"))) void fastgan_take_trace(fastgan::TraceVisitor visit, void* context);
}

// Which kernel each operator ran, and how often.
//
// Every library keeps its own table and exports the two C functions below; `fastgan._C` reads them (csrc/python/module.cpp).
#pragma once

#include <cstdint>
#include <string_view>

namespace fastgan {

// Notes one run of `kernel` by `op`. Lock-free; only the first call of a new pair allocates.
void count(std::string_view op, std::string_view kernel);

// What a library says about one kernel: calls since the last reset, and when it last ran, in steady-clock nanoseconds,
// so that the libraries' entries can be put in order.
using CounterVisitor = void (*)(void* context, const char* op, const char* kernel, uint64_t calls, int64_t last_ns);

}  // namespace fastgan

extern "C" {
__attribute__((visibility("default"))) void fastgan_visit_counters(fastgan::CounterVisitor visit, void* context);
__attribute__((visibility("default"))) void fastgan_reset_counters();
}

#include "common/counters.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

namespace fastgan {

struct Counter {
  const std::string op, kernel, name;
  Counter* const next;
  std::atomic<uint64_t> calls{0};
  std::atomic<int64_t> total_ns{0}, last_ns{0};
};

namespace {

// Buckets of singly linked lists that only ever grow, so a reader needs no lock and an entry never moves.
std::array<std::atomic<Counter*>, 256> table{};

size_t bucket_of(std::string_view op, std::string_view kernel) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (const auto text : {op, kernel}) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  }
  return (hash ^ (hash >> 16)) % table.size();
}

Counter* find(Counter* from, const Counter* until, std::string_view op, std::string_view kernel) {
  for (; from != until; from = from->next) {
    if (from->op == op && from->kernel == kernel) return from;
  }
  return nullptr;
}

Counter& counter_of(std::string_view op, std::string_view kernel) {
  auto& bucket = table[bucket_of(op, kernel)];
  Counter* head = bucket.load(std::memory_order_acquire);
  if (Counter* found = find(head, nullptr, op, kernel)) return *found;
  // Another thread may add the same pair meanwhile: look again at what came in front before each new try.
  for (;;) {
    auto* added = new Counter{std::string(op), std::string(kernel), std::string(op) + "/" + std::string(kernel), head};
    const Counter* const seen = head;
    if (bucket.compare_exchange_strong(head, added, std::memory_order_acq_rel)) return *added;
    delete added;
    if (Counter* found = find(head, seen, op, kernel)) return *found;
  }
}

template <class Body>
void for_each_counter(const Body& body) {
  for (auto& bucket : table) {
    for (Counter* at = bucket.load(std::memory_order_acquire); at; at = at->next) body(*at);
  }
}

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

std::atomic<bool> is_timing{false};

// Null ends a part. What comes after so many is left out: whoever wants a trace takes it soon after it began.
constexpr size_t kMostTraced = 1024;
thread_local std::vector<const Counter*> trace;

void add_to_trace(const Counter* counter) {
  if (trace.size() < kMostTraced) trace.push_back(counter);
}


}  // namespace

Counted::Counted(std::string_view op, std::string_view kernel)
    : counter_(counter_of(op, kernel)), begin_(now()), timed_(is_timing.load(std::memory_order_relaxed)) {
  counter_.calls.fetch_add(1, std::memory_order_relaxed);
  counter_.last_ns.store(begin_, std::memory_order_relaxed);
  add_to_trace(&counter_);
  if (aoti_record_function_start(counter_.name.c_str(), nullptr, nullptr, 0, &recorded_) != AOTI_TORCH_SUCCESS) recorded_ = nullptr;
}

Counted::~Counted() {
  if (recorded_) aoti_record_function_end(recorded_);
  if (timed_) counter_.total_ns.fetch_add(now() - begin_, std::memory_order_relaxed);
}

void begin_trace() { trace.clear(); }
void end_trace_of_block() { add_to_trace(nullptr); }

}  // namespace fastgan

void fastgan_visit_counters(fastgan::CounterVisitor visit, void* context) {
  fastgan::for_each_counter([&](const fastgan::Counter& counter) {
    const uint64_t calls = counter.calls.load(std::memory_order_relaxed);
    if (calls) {
      visit(context, counter.op.c_str(), counter.kernel.c_str(), calls,
            counter.total_ns.load(std::memory_order_relaxed), counter.last_ns.load(std::memory_order_relaxed));
    }
  });
}

void fastgan_reset_counters() {
  fastgan::for_each_counter([](fastgan::Counter& counter) {
    counter.calls.store(0, std::memory_order_relaxed);
    counter.total_ns.store(0, std::memory_order_relaxed);
  });
}

void fastgan_time_kernels(bool on) { fastgan::is_timing.store(on, std::memory_order_relaxed); }

void fastgan_take_trace(fastgan::TraceVisitor visit, void* context) {
  for (const fastgan::Counter* counter : fastgan::trace) {
    counter ? visit(context, counter->op.c_str(), counter->kernel.c_str()) : visit(context, nullptr, nullptr);
  }
  fastgan::trace.clear();
}

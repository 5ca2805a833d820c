#include "common/counters.h"

#include <array>
#include <atomic>
#include <chrono>
#include <string>

namespace fastgan {

struct Counter {
  const std::string op, kernel;
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
    auto* added = new Counter{std::string(op), std::string(kernel), head};
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

// A ring: one block of a run counts about five kernels, and whoever asks does so after each.
struct Trace {
  static constexpr size_t kMost = 16;
  std::array<const Counter*, kMost> entries;
  size_t size = 0;
  void add(const Counter& counter) { entries[size++ % kMost] = &counter; }
};
thread_local Trace trace;

}  // namespace

Counted::Counted(std::string_view op, std::string_view kernel)
    : counter_(counter_of(op, kernel)), begin_(now()), timed_(is_timing.load(std::memory_order_relaxed)) {
  counter_.calls.fetch_add(1, std::memory_order_relaxed);
  counter_.last_ns.store(begin_, std::memory_order_relaxed);
  trace.add(counter_);
}

Counted::~Counted() {
  if (timed_) counter_.total_ns.fetch_add(now() - begin_, std::memory_order_relaxed);
}

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
  auto& trace = fastgan::trace;
  for (size_t i = trace.size > trace.kMost ? trace.size - trace.kMost : 0; i < trace.size; ++i) {
    const fastgan::Counter& counter = *trace.entries[i % trace.kMost];
    visit(context, counter.op.c_str(), counter.kernel.c_str());
  }
  trace.size = 0;
}

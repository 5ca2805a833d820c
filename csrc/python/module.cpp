// fastgan._C: what the build is, what the CPU can do, and which kernels ran. It is not linked to torch, and no tensor
// crosses it: the operators are in the dispatcher, in libraries of their own.
#undef TORCH_TARGET_VERSION  // torch 2.11's pybind11 refuses to be included under it, and nothing here is torch's

#include <dlfcn.h>
#include <malloc.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "build_facts.h"  // written by the build
#include "common/counters.h"
#include "common/cpu_features.h"
#include "conv/exports.h"

namespace py = pybind11;

namespace {

// The functions of one loaded library of operators.
struct Library {
  decltype(&fastgan_visit_counters) visit;
  decltype(&fastgan_reset_counters) reset;
  decltype(&fastgan_time_kernels) time;
  decltype(&fastgan_take_trace) take_trace;
  decltype(&fastgan_visit_engine_rules) visit_rules;  // null in the library for GPUs, and so is
  decltype(&fastgan_gemm_peak) gemm_peak;
};

std::map<std::string, Library>& libraries() {
  static std::map<std::string, Library> all;  // by device; guarded by the interpreter lock
  return all;
}

void attach(const std::string& device, const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (!handle) throw std::runtime_error("The library " + path + " is not loaded; load it before its counters are read.");
  Library library;
  const auto find = [handle](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(handle, name));
    return function != nullptr;
  };
  if (!find(library.visit, "fastgan_visit_counters") || !find(library.reset, "fastgan_reset_counters") ||
      !find(library.time, "fastgan_time_kernels") || !find(library.take_trace, "fastgan_take_trace")) {
    throw std::runtime_error("The library " + path + " has no kernel counters.");
  }
  find(library.visit_rules, "fastgan_visit_engine_rules");
  find(library.gemm_peak, "fastgan_gemm_peak");
  libraries()[device] = library;
}

struct Entry {
  std::string op, kernel;
  uint64_t calls;
  int64_t total_ns, last_ns;
};

std::vector<Entry> entries() {
  std::vector<Entry> all;
  const auto add = [](void* to, const char* op, const char* kernel, uint64_t calls, int64_t total_ns, int64_t last_ns) {
    static_cast<std::vector<Entry>*>(to)->push_back({op, kernel, calls, total_ns, last_ns});
  };
  for (const auto& [device, library] : libraries()) library.visit(add, &all);
  return all;
}

std::map<std::string, uint64_t> kernel_counters() {
  std::map<std::string, uint64_t> counters;
  for (const auto& entry : entries()) counters[entry.op + "/" + entry.kernel] += entry.calls;
  return counters;
}

std::map<std::string, double> kernel_seconds() {
  std::map<std::string, double> seconds;
  for (const auto& entry : entries()) {
    if (entry.total_ns) seconds[entry.op + "/" + entry.kernel] += static_cast<double>(entry.total_ns) * 1e-9;
  }
  return seconds;
}

void time_kernels(bool on) {
  for (const auto& [device, library] : libraries()) library.time(on);
}

// Each kernel's name is made once: a run's trace has some 30, after every pass.
// A trace's parts, each made once: a training run's thousands of steps run the same kernels. Never destroyed, since Python may be gone
// by then.
py::tuple take_trace(const std::string& device) {
  struct Entry {
    const char *op, *kernel;
  };
  std::vector<Entry> entries;
  const auto add = [](void* to, const char* op, const char* kernel) { static_cast<std::vector<Entry>*>(to)->push_back({op, kernel}); };
  const auto at = libraries().find(device);
  if (at != libraries().end()) at->second.take_trace(add, &entries);
  if (!entries.empty() && entries.back().kernel) entries.push_back({nullptr, nullptr});

  std::vector<const void*> key;  // by where the counters, which never move, keep their names
  for (const auto& entry : entries) key.push_back(entry.kernel);
  static auto& known = *new std::map<std::vector<const void*>, py::tuple>();
  const auto [found, is_new] = known.try_emplace(std::move(key));
  if (is_new) {
    py::list parts, part;
    for (const auto& [op, kernel] : entries) {
      if (kernel) {
        part.append(std::string(op) + "/" + kernel);
      } else {
        parts.append(py::tuple(part));
        part = py::list();
      }
    }
    found->second = py::tuple(parts);
  }
  return found->second;
}

std::vector<std::pair<std::string, std::string>> engine_rules() {
  std::vector<std::pair<std::string, std::string>> rules;
  const auto add = [](void* to, const char* engine, const char* convolutions) {
    static_cast<decltype(rules)*>(to)->emplace_back(engine, convolutions);
  };
  for (const auto& [device, library] : libraries()) {
    if (library.visit_rules) library.visit_rules(add, &rules);
  }
  return rules;
}

double gemm_peak(bool bfloat16, double milliseconds) {
  for (const auto& [device, library] : libraries()) {
    if (!library.gemm_peak) continue;
    const py::gil_scoped_release release;
    return library.gemm_peak(bfloat16, milliseconds);
  }
  throw std::runtime_error("The operators for CPUs are not loaded, so there is no micro-kernel to measure.");
}

std::map<std::string, std::string> last_kernels() {
  std::map<std::string, Entry> last;
  for (const auto& entry : entries()) {
    const auto [at, is_new] = last.emplace(entry.op, entry);
    if (!is_new && entry.last_ns > at->second.last_ns) at->second = entry;
  }
  std::map<std::string, std::string> kernels;
  for (const auto& [op, entry] : last) kernels[op] = entry.kernel;
  return kernels;
}

void reset_counters() {
  for (const auto& [device, library] : libraries()) library.reset();
}

py::object build_info() { return py::module_::import("json").attr("loads")(FASTGAN_BUILD_FACTS); }

std::map<std::string, bool> cpu_features() {
  const auto& f = fastgan::cpu_features();
  return {{"avx2", f.avx2},     {"fma", f.fma},
          {"f16c", f.f16c},     {"avx512", f.avx512},
          {"avx512_bf16", f.avx512_bf16}, {"avx512_fp16", f.avx512_fp16}, {"amx_bf16", f.amx_bf16}};
}

// Freed memory stays with the process. A training step frees and asks for the same activations again and again; handed back
// to the kernel, each of their pages is faulted in and zeroed anew: 17,000 a step of DCGAN-64 at batch 64.
bool keep_heap() {
#ifdef __GLIBC__
  constexpr int kNever = 0, kTrim = 1 << 30, kPad = 64 << 20;
  return mallopt(M_MMAP_MAX, kNever) && mallopt(M_TRIM_THRESHOLD, kTrim) && mallopt(M_TOP_PAD, kPad);
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts, CPU features and kernel counters of fastgan.";
  m.def("build_info", &build_info, "How the native libraries were built, as a dict.");
  m.def("cpu_features", &cpu_features, "{name: whether this CPU and operating system have it}.");
  m.def("cpu_isa", [] { return fastgan::isa_name(fastgan::cpu_isa()); },
        "The instruction set the kernels use, after the cap FASTGAN_CPU_ISA. Raises ValueError where that is unknown.");
  m.def("attach", &attach, py::arg("device"), py::arg("path"),
        "Read the counters of a device's operators from now on, which are the loaded library at `path`.");
  m.def("kernel_counters", &kernel_counters, "{'op/kernel': calls since the last reset}.");
  m.def("time_kernels", &time_kernels, py::arg("on"), "Have every run of a kernel timed from now on, or no more.");
  m.def("kernel_seconds", &kernel_seconds, "{'op/kernel': seconds since the last reset}, of those that were timed.");
  m.def("take_trace", &take_trace, py::arg("device"),
        "(('op/kernel', ...), ...): what this thread ran on a device since its last run began, of each of its blocks, oldest first.");
  m.def("engine_rules", &engine_rules,
        "[(engine, convolutions)]: which engine runs which convolutions on a CPU; the first that fits.");
  m.def("gemm_peak", &gemm_peak, py::arg("bfloat16"), py::arg("milliseconds"),
        "GFLOP/s of the convolutions' micro-kernel on operands in cache, on torch's threads: the best of so many ms.");
  m.def("last_kernels", &last_kernels, "{op: the kernel it last ran}, of those run since the last reset.");
  m.def("keep_heap", &keep_heap,
        "Have the C library keep freed memory for the next allocation, for the whole process; whether it can.");
  m.def("reset_counters", &reset_counters, "Set every counter to zero.");
}

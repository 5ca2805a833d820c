// fastgan._C: what the build is, what the CPU can do, and which kernels ran. It is not linked to torch, and no tensor
// crosses it: the operators are in the dispatcher, in libraries of their own.
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

namespace py = pybind11;

namespace {

// The counter functions of one loaded library of operators.
struct Library {
  decltype(&fastgan_visit_counters) visit;
  decltype(&fastgan_reset_counters) reset;
};

std::map<std::string, Library>& libraries() {
  static std::map<std::string, Library> all;  // by path; guarded by the interpreter lock
  return all;
}

void attach(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
  if (!handle) throw std::runtime_error("The library " + path + " is not loaded; load it before its counters are read.");
  const Library library{reinterpret_cast<decltype(Library::visit)>(dlsym(handle, "fastgan_visit_counters")),
                        reinterpret_cast<decltype(Library::reset)>(dlsym(handle, "fastgan_reset_counters"))};
  if (!library.visit || !library.reset) throw std::runtime_error("The library " + path + " has no kernel counters.");
  libraries()[path] = library;
}

struct Entry {
  std::string op, kernel;
  uint64_t calls;
  int64_t last_ns;
};

std::vector<Entry> entries() {
  std::vector<Entry> all;
  const auto add = [](void* to, const char* op, const char* kernel, uint64_t calls, int64_t last_ns) {
    static_cast<std::vector<Entry>*>(to)->push_back({op, kernel, calls, last_ns});
  };
  for (const auto& [path, library] : libraries()) library.visit(add, &all);
  return all;
}

std::map<std::string, uint64_t> kernel_counters() {
  std::map<std::string, uint64_t> counters;
  for (const auto& entry : entries()) counters[entry.op + "/" + entry.kernel] += entry.calls;
  return counters;
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
  for (const auto& [path, library] : libraries()) library.reset();
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
  m.def("attach", &attach, py::arg("path"), "Read the counters of the loaded library at `path` from now on.");
  m.def("kernel_counters", &kernel_counters, "{'op/kernel': calls since the last reset}.");
  m.def("last_kernels", &last_kernels, "{op: the kernel it last ran}, of those run since the last reset.");
  m.def("keep_heap", &keep_heap,
        "Have the C library keep freed memory for the next allocation, for the whole process; whether it can.");
  m.def("reset_counters", &reset_counters, "Set every counter to zero.");
}

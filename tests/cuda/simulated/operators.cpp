// torch's operators of CUDA tensors, computed by the kernels for CPUs on the same memory, since the device is simulated.
//
// Where the stream is captured, an operator runs twice: now on copies of what it writes to, because its results' sizes have to be
// known, and at every launch of the graph.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAGuard.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "work.h"

namespace {

using at::Tensor;
using c10::IValue;
using torch::jit::Stack;

// Those that make tensors, or look at them in another way, and launch nothing.
const std::set<std::string> kKept = {
    "empty.memory_format", "empty_strided", "as_strided", "view", "view.dtype", "_reshape_alias", "_unsafe_view", "alias", "detach",
    "unfold", "view_as_real", "view_as_complex", "set_", "set_.source_Storage", "set_.source_Storage_storage_offset",
    "set_.source_Tensor", "resize_", "is_set_to", "is_pinned", "_pin_memory", "record_stream", "_local_scalar_dense",
    "_efficientzerotensor"};
// Those whose result the host has to know.
const std::set<std::string> kWaiting = {"equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive"};
// Those that write running statistics, which their schemas do not say.
const std::set<std::string> kWritesStatistics = {"native_batch_norm", "cudnn_batch_norm"};
const std::vector<std::string> kRandom = {"normal", "uniform", "random", "bernoulli", "dropout", "rand", "multinomial", "exponential"};

// Every device draws other numbers: SIMULATED_SEED stands for one.
const uint64_t kSeed = std::getenv("SIMULATED_SEED") ? std::atoll(std::getenv("SIMULATED_SEED")) : 0;

const bool kTraces = std::getenv("SIMULATED_TRACE") != nullptr;

constexpr uint64_t kDrawn = 4;  // how far a random operator moves a generator's offset

std::string name_of(const c10::OperatorName& name) {
  const auto base = name.name.substr(std::strlen("aten::"));
  return name.overload_name.empty() ? base : base + "." + name.overload_name;
}

// For each tensor of a value, lists included.
template <class Change>
IValue map_tensors(const IValue& value, const Change& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(change(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector()) list.push_back(tensor ? std::optional(change(*tensor)) : std::nullopt);
    return list;
  }
  return value;
}

Tensor on_host(const Tensor& tensor) {
  const auto& storage = tensor.storage();
  const auto bytes = static_cast<int64_t>(storage.nbytes());
  const auto flat = at::from_blob(storage.mutable_data(), {bytes}, at::TensorOptions().dtype(at::kByte));
  auto result = at::empty({0}, tensor.options().device(at::kCPU));
  result.set_(flat.storage(), tensor.storage_offset(), tensor.sizes(), tensor.strides());
  result._set_conj(tensor.is_conj());
  result._set_neg(tensor.is_neg());
  return result;
}

bool shares_memory(const Tensor& a, const Tensor& b) {
  return a.has_storage() && b.has_storage() && a.storage().nbytes() > 0 && a.storage().data() == b.storage().data();
}

void compute(const c10::OperatorHandle& op, Stack& stack) {
  const c10::impl::ExcludeDispatchKeyGuard below(c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  op.callBoxed(&stack);
}

class Call {
 public:
  Call(const c10::OperatorHandle& op, Stack given) : op_(op), name_(name_of(op.operator_name())), given_(std::move(given)) {
    for (const auto& value : given_) hosts_.push_back(to_host(value));
    if (!device_.is_cuda()) device_ = c10::Device(c10::kCUDA, c10::cuda::current_device());
    check_devices();
  }

  Stack run() {
    const c10::cuda::CUDAGuard guard(device_);
    const auto stream = at::cuda::getCurrentCUDAStream(device_.index()).stream();
    if (kWaiting.count(name_)) C10_CUDA_CHECK(cudaStreamSynchronize(stream));
    return simulated::is_capturing(stream) ? record(stream) : run_now();
  }

 private:
  struct Pair {
    Tensor device, host;
  };

  IValue to_host(const IValue& value) {
    if (value.isDevice() && value.toDevice().is_cuda()) {
      device_ = value.toDevice().has_index() ? value.toDevice() : c10::Device(c10::kCUDA, c10::cuda::current_device());
      return c10::Device(c10::kCPU);
    }
    if (value.isGenerator()) return IValue();
    return map_tensors(value, [&](const Tensor& tensor) {
      if (!tensor.defined() || !tensor.is_cuda()) return tensor;
      if (!device_.is_cuda()) device_ = tensor.device();
      pairs_.push_back({tensor, on_host(tensor)});
      return pairs_.back().host;
    });
  }

  void check_devices() const {
    for (const auto& value : given_) {
      map_tensors(value, [&](const Tensor& tensor) {
        const bool fits = !tensor.defined() || tensor.dim() == 0 || tensor.device() == device_;
        TORCH_CHECK(fits, name_, ": expected all tensors to be on ", device_, ", but one is on ", tensor.device());
        return tensor;
      });
    }
  }

  bool is_written(size_t i) const {
    const auto* const alias = op_.schema().arguments()[i].alias_info();
    return (alias && alias->isWrite()) || (kWritesStatistics.count(name_) && (i == 3 || i == 4));
  }

  // A result's tensor on the device: an argument, a view of one, or a new one, which is then among the `made`.
  IValue to_device(const IValue& result, const std::vector<Pair>& pairs, std::vector<Pair>& made) const {
    return map_tensors(result, [&](const Tensor& host) {
      if (!host.defined()) return host;
      for (const auto& pair : pairs) {
        if (host.is_same(pair.host)) return pair.device;
      }
      for (const auto& pair : pairs) {
        if (!shares_memory(host, pair.host)) continue;
        auto view = at::empty({0}, pair.device.options().dtype(host.dtype()));
        return view.set_(pair.device.storage(), host.storage_offset(), host.sizes(), host.strides());
      }
      made.push_back({at::empty_strided(host.sizes(), host.strides(), host.options().device(device_)), host});
      return made.back().device;
    });
  }

  static void copy(const Tensor& host, void* to, size_t bytes) {
    if (host.numel()) std::memcpy(to, host.const_data_ptr(), bytes);
  }

  // Results that an operator is to write to, and that have no elements yet, get as many as it makes.
  void begin_growing() {
    for (size_t i = 0; i < given_.size(); ++i) {
      if (!is_written(i) || !given_[i].isTensor() || !given_[i].toTensor().is_cuda() || given_[i].toTensor().numel()) continue;
      growing_.push_back(i);
      exchange(i, at::empty({0}, given_[i].toTensor().options().device(at::kCPU)));
    }
  }
  void end_growing(const Stack& computed) {
    for (const size_t i : growing_) {
      const Tensor device = given_[i].toTensor(), host = computed[i].toTensor();
      device.resize_(host.sizes());
      device.as_strided_(host.sizes(), host.strides());
      if (host.numel()) copy(host, device.mutable_data_ptr(), host.storage().nbytes());
    }
  }
  void exchange(size_t i, const Tensor& host) {
    for (auto& pair : pairs_) {
      if (pair.device.is_same(given_[i].toTensor())) pair.host = host;
    }
    hosts_[i] = host;
  }

  at::CUDAGeneratorImpl* generator() const {
    for (const auto& value : given_) {
      if (value.isGenerator() && value.toGenerator().defined()) return value.toGenerator().get<at::CUDAGeneratorImpl>();
    }
    return at::cuda::detail::getDefaultCUDAGenerator(device_.index()).get<at::CUDAGeneratorImpl>();
  }

  // Where a random operator takes its generator. The same numbers come for the same seed and offset, as on a device.
  std::optional<size_t> random_argument() const {
    const auto& arguments = op_.schema().arguments();
    const auto is_part = [&](const auto& part) { return name_.find(part) != name_.npos; };
    if (std::none_of(kRandom.begin(), kRandom.end(), is_part)) return {};
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].name() == "generator") return i;
    }
    return {};
  }
  static at::Generator generator_at(uint64_t seed, uint64_t offset) {
    return at::detail::createCPUGenerator(1000003 * (seed + kSeed) + offset);
  }

  Stack run_now() {
    if (const auto place = random_argument()) {
      hosts_[*place] = generator_at(generator()->current_seed(), generator()->get_offset());
      generator()->set_offset(generator()->get_offset() + kDrawn);
    }
    begin_growing();
    Stack results = hosts_;
    compute(op_, results);
    end_growing(hosts_);
    std::vector<Pair> made;
    for (auto& result : results) result = to_device(result, pairs_, made);
    for (const auto& [device, host] : made) {
      if (host.numel()) copy(host, device.mutable_data_ptr(), device.storage().nbytes());
    }
    return results;
  }

  Stack record(cudaStream_t stream) {
    if (kTraces) std::fprintf(stderr, "simulated: captures aten::%s\n", name_.c_str());
    begin_growing();
    auto pairs = pairs_;
    Stack trial = hosts_;
    for (size_t i = 0; i < trial.size(); ++i) {
      if (!is_written(i)) continue;
      trial[i] = map_tensors(trial[i], [&](const Tensor& host) {
        const Tensor twin = host.defined() ? host.clone() : host;
        for (const auto& pair : pairs_) {
          if (pair.host.is_same(host)) pairs.push_back({pair.device, twin});
        }
        return twin;
      });
    }
    const auto place = random_argument();
    at::PhiloxCudaState state;  // where a launch finds its seed and offset
    if (place) {
      state = generator()->philox_cuda_state(kDrawn);
      trial[*place] = generator_at(0, 0);
    }
    const Stack written = trial;
    compute(op_, trial);
    end_growing(written);
    for (const size_t i : growing_) exchange(i, on_host(given_[i].toTensor()));
    std::vector<Pair> made;
    for (auto& result : trial) result = to_device(result, pairs, made);
    for (const auto& [device, host] : made) {  // indices that the next trial looks something up by
      if (at::isIntegralType(host.scalar_type(), true)) copy(host, device.mutable_data_ptr(), device.storage().nbytes());
    }

    // The graph holds addresses, and no tensor of the device: with one it would keep the graph of autograd.
    std::vector<std::pair<void*, size_t>> targets;
    for (const auto& pair : made) targets.emplace_back(pair.device.mutable_data_ptr(), pair.device.storage().nbytes());
    std::vector<Tensor> arguments;
    for (const auto& pair : pairs_) arguments.push_back(pair.host);
    simulated::submit(stream, [op = op_, hosts = hosts_, arguments, targets, place, state] {
      Stack results = hosts;
      if (place) results[*place] = generator_at(*state.seed_.ptr, *state.offset_.ptr + state.offset_intragraph_);
      compute(op, results);
      auto target = targets.begin();
      for (const auto& result : results) {
        map_tensors(result, [&](const Tensor& host) {
          const auto is_argument = [&](const Tensor& argument) { return host.is_same(argument) || shares_memory(host, argument); };
          if (!host.defined() || std::any_of(arguments.begin(), arguments.end(), is_argument)) return host;
          copy(host, target->first, target->second);
          ++target;
          return host;
        });
      }
    });
    return trial;
  }

  const c10::OperatorHandle& op_;
  const std::string name_;
  const Stack given_;
  Stack hosts_;              // the same arguments, on the host
  std::vector<Pair> pairs_;  // their tensors
  std::vector<size_t> growing_;
  c10::Device device_{c10::kCPU};
};

void run(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const auto begin = stack->end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size());
  Stack given(begin, stack->end());
  stack->erase(begin, stack->end());
  const bool is_copy = op.operator_name().name == "aten::copy_";
  if (is_copy && given[0].toTensor().device() != given[1].toTensor().device()) {  // by the runtime's own copies
    stack->push_back(at::native::copy_(given[0].toTensor(), given[1].toTensor(), given[2].toBool()));
    return;
  }
  for (auto& result : Call(op, std::move(given)).run()) stack->push_back(std::move(result));
}

// In the place of every operator's kernel for CUDA.
void install() {
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (name.name.rfind("aten::", 0) != 0 || kKept.count(name_of(name)) || !op || !op->hasSchema()) continue;
    if (name.name != "aten::copy_" && !op->hasKernelForDispatchKey(c10::DispatchKey::CUDA)) continue;
    library.impl(name_of(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&run>());
  }
}

}  // namespace

PYBIND11_MODULE(operators, module) { module.def("install", &install); }

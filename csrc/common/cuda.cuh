// What every CUDA file needs on the host: dtypes, data pointers, and the launch sequence (device guard, current stream,
// launch, check).
#pragma once

#include <torch/csrc/stable/macros.h>  // STD_CUDA_CHECK, which torch 2.11's other headers do not bring along

#include <array>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "common/checks.h"
#include "common/device.cuh"

namespace fastgan::cuda {

template <class Body>
auto dispatch_dtype(const char* op, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Double: return body(double{});
    case ScalarType::Float: return body(float{});
    case ScalarType::BFloat16: return body(__nv_bfloat16{});
    case ScalarType::Half: return body(__half{});
    default: fail(op, "argument 'input' has ", dtype_name(dtype), "; float64, float32, float16 and bfloat16 are supported.");
  }
}

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// ---- launching ----------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__

// A number other than 0 for each device, found when it is first asked for: asking the driver takes as long as a launch.
class PerDevice {
 public:
  template <class Find>
  int get(int device, const Find& find) {
    if (device >= kMost) return find();
    int value = values_[device].load(std::memory_order_relaxed);
    if (value == 0) values_[device].store(value = find(), std::memory_order_relaxed);
    return value;
  }

 private:
  static constexpr int kMost = 64;
  std::array<std::atomic<int>, kMost> values_{};
};

namespace {
__global__ void probe() { follow(); }
}  // namespace

// Which architecture the code was compiled for that runs on a device, the current one, 80 for 8.0: also where that is older than the
// device, because it is compiled from PTX as it is loaded.
inline int architecture_on(int device) {
  static PerDevice found;
  return found.get(device, [] {
    cudaFuncAttributes attributes{};
    STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe));
    return attributes.ptxVersion;
  });
}

// Makes the tensor's device current while it lives, and launches on that device's current stream.
class Launch {
 public:
  explicit Launch(const Tensor& on) : device_(on.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int architecture() const { return architecture_on(device_); }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    launch(0, kernel, grid, block, arguments...);
  }

  // With so many bytes for dynamic_shared(), of one kernel always as many.
  template <auto kernel, class... Arguments>
  void with_shared(size_t bytes, dim3 grid, dim3 block, Arguments... arguments) const {
    static PerDevice is_allowed;
    const auto all = static_cast<int>(bytes + kSharedAlignment);
    is_allowed.get(device_, [all] {
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, all));
      return 1;
    });
    launch(all, kernel, grid, block, arguments...);
  }

 private:
  template <class... Parameters, class... Arguments>
  void launch(size_t shared, void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    static const bool wish = [] {
      const char* const given = std::getenv("FASTGAN_OVERLAP");
      return given && std::string_view(given) == "1";
    }();
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream_;
    config.attrs = &early;
    config.numAttrs = wish && architecture() >= kFirstToFollow;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  }

  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

#else

using Launch = emulator::LibraryLaunch;  // of what stands in front of the sources: tests/cuda/

#endif

}  // namespace fastgan::cuda

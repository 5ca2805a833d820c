// What every CUDA file needs on the host: dtypes, data pointers, and the launch sequence (device guard, current stream,
// launch, check).
#pragma once

#include <utility>

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

// Makes the tensor's device current while it lives, and launches on that device's current stream.
class Launch {
 public:
  explicit Launch(const Tensor& on) : guard_(on.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    kernel<<<grid, block, 0, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // With so many bytes for dynamic_shared().
  template <class... Parameters, class... Arguments>
  void with_shared(size_t bytes, void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    const auto all = static_cast<int>(bytes + kSharedAlignment);
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, all));
    kernel<<<grid, block, all, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Which architecture the code was compiled for that runs on the current device, 80 for 8.0: also where that is older than the device,
// because it is compiled from PTX as it is loaded.
template <class... Parameters>
int architecture_of(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  return attributes.ptxVersion;
}

#else

template <class... Parameters>
int architecture_of(void (*)(Parameters...)) {
  return 90;
}
struct Launch : emulator::Launch {
  explicit Launch(const Tensor&) : emulator::Launch(1) {}
};

#endif

}  // namespace fastgan::cuda

// In front of every source of the CUDA library (-include): its kernels run on the emulator, on the simulated device's streams.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/tensor.h"
#include "emulator.h"
#include "simulated/work.h"

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace emulator {

class LibraryLaunch {
 public:
  explicit LibraryLaunch(const fastgan::Tensor& on) : guard_(on.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  int architecture() const { return 90; }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) const {
    simulated::submit(stream_, [=] { Launch(1)(kernel, grid, block, static_cast<Parameters>(arguments)...); });
  }

  template <auto kernel, class... Arguments>
  void with_shared(size_t bytes, dim3 grid, dim3 block, Arguments... arguments) const {
    simulated::submit(stream_, [=] { Launch(1).with_shared<kernel>(bytes, grid, block, arguments...); });
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace emulator

// A CUDA runtime without a device, loaded in front of torch's (LD_PRELOAD): devices, memory, errors. Memory is the host's.
//
// Functions that are in no file here are the real runtime's, which says that there is no driver. Kernels of torch's own cannot run:
// its operators are computed by those for CPUs (operators.cpp).
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "state.h"

using namespace simulated;

namespace {

constexpr size_t kTotalBytes = size_t{140} << 30, kFreeBytes = size_t{20} << 30;  // said, and really to be had

struct Allocation {
  size_t bytes;
  bool on_host;
  int device;
};

std::map<uintptr_t, Allocation> allocations;
size_t allocated[kMostDevices];

const Allocation* find_allocation(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return nullptr;
  const auto& [begin, allocation] = *std::prev(after);
  return address < begin + std::max<size_t>(1, allocation.bytes) ? &allocation : nullptr;
}

std::map<const void*, std::string>& kernel_names() {
  static auto* const names = new std::map<const void*, std::string>;
  return *names;
}

cudaError_t refuse(const void* kernel) {
  const auto found = kernel_names().find(kernel);
  std::fprintf(stderr, "simulated: a kernel of torch's own cannot run: %s\n",
               found == kernel_names().end() ? "unknown" : found->second.c_str());
  return fail(cudaErrorLaunchFailure, "launch");
}

}  // namespace

extern "C" {

// ---- devices ------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  const char* const wanted = std::getenv("SIMULATED_DEVICES");
  *count = std::clamp(wanted ? std::atoi(wanted) : 1, 0, kMostDevices);
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  int count;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return fail(cudaErrorInvalidDevice, "cudaSetDevice");
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* of, int) {
  *of = {};
  std::strcpy(of->name, "simulated");
  of->major = 9;
  of->totalGlobalMem = kTotalBytes;
  of->multiProcessorCount = 132;
  of->warpSize = 32;
  of->maxThreadsPerBlock = 1024;
  of->maxThreadsPerMultiProcessor = 2048;
  of->regsPerBlock = of->regsPerMultiprocessor = 65536;
  of->sharedMemPerBlock = 48 << 10;
  of->sharedMemPerBlockOptin = 227 << 10;
  of->sharedMemPerMultiprocessor = 228 << 10;
  of->unifiedAddressing = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : attribute == cudaDevAttrMultiProcessorCount ? 132 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return check_is_safe("cudaDeviceSynchronize"); }

// ---- errors -------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    default: return "an error of the simulated device";
  }
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorSimulated"; }

// ---- memory -------------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const auto error = check_is_safe("cudaMalloc")) return error;
  Lock lock(mutex);
  *pointer = nullptr;
  if (allocated[current_device] + bytes > kFreeBytes) return fail(cudaErrorMemoryAllocation, "cudaMalloc");
  *pointer = mmap(nullptr, std::max<size_t>(1, bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (*pointer == MAP_FAILED) stop("the host has no memory left.");
  if (bytes <= 64 << 20) std::memset(*pointer, 0xff, bytes);  // not-a-numbers: nothing may count on what is there
  allocations[reinterpret_cast<uintptr_t>(*pointer)] = {bytes, false, current_device};
  allocated[current_device] += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (const auto error = check_is_safe("cudaFree")) return error;
  Lock lock(mutex);
  if (!pointer) return cudaSuccess;
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == allocations.end()) stop("memory is freed that was not allocated.");
  allocated[found->second.device] -= found->second.bytes;
  munmap(pointer, std::max<size_t>(1, found->second.bytes));
  allocations.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  if (const auto error = check_is_safe("cudaHostAlloc")) return error;
  Lock lock(mutex);
  constexpr size_t kPage = 4096;
  *pointer = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  allocations[reinterpret_cast<uintptr_t>(*pointer)] = {bytes, true, current_device};
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  if (const auto error = check_is_safe("cudaFreeHost")) return error;
  Lock lock(mutex);
  allocations.erase(reinterpret_cast<uintptr_t>(pointer));
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = kFreeBytes - allocated[current_device];
  *total = kTotalBytes;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* of, const void* pointer) {
  Lock lock(mutex);
  const Allocation* const found = find_allocation(pointer);
  *of = {};
  of->type = !found ? cudaMemoryTypeUnregistered : found->on_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  of->device = found ? found->device : -2;
  of->devicePointer = of->hostPointer = const_cast<void*>(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (const auto error = check_is_safe("cudaMemcpy")) return error;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Lock lock(mutex);
  if (!find_allocation(to) || !find_allocation(from)) {
    if (const auto error = check_may_wait(stream_of(stream), "a copy of pageable memory")) return error;
  }
  submit(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const auto error = check_is_safe("cudaMemset")) return error;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  submit(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

// ---- kernels of torch's own ---------------------------------------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) {
  static void* nothing = nullptr;
  return &nothing;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* kernel, char*, const char* name, int, void*, void*, void*, void*, int*) {
  kernel_names()[kernel] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 0; }
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t) { return refuse(kernel); }
cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t) { return refuse(kernel); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* kernel, void**) { return refuse(kernel); }
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, cudaStream_t) { return 0; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaSuccess; }

// ---- the driver ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  if (result) *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}
// This library stands for libcuda.so.1 too. torch's compiler of kernels needs these names to be loaded, and calls none of them.
#define WITHOUT_DRIVER(name) \
  int name() { return cudaErrorNotSupported; }
WITHOUT_DRIVER(cuCtxGetCurrent)
WITHOUT_DRIVER(cuCtxSetCurrent)
WITHOUT_DRIVER(cuDeviceGet)
WITHOUT_DRIVER(cuDeviceGetAttribute)
WITHOUT_DRIVER(cuDevicePrimaryCtxRetain)
WITHOUT_DRIVER(cuFuncGetAttribute)
WITHOUT_DRIVER(cuFuncSetAttribute)
WITHOUT_DRIVER(cuFuncSetCacheConfig)
WITHOUT_DRIVER(cuGetErrorString)
WITHOUT_DRIVER(cuLaunchCooperativeKernel)
WITHOUT_DRIVER(cuLaunchKernel)
WITHOUT_DRIVER(cuLinkAddData_v2)
WITHOUT_DRIVER(cuLinkComplete)
WITHOUT_DRIVER(cuLinkCreate_v2)
WITHOUT_DRIVER(cuModuleGetFunction)
WITHOUT_DRIVER(cuModuleLoad)
WITHOUT_DRIVER(cuModuleLoadData)
WITHOUT_DRIVER(cuModuleLoadDataEx)
WITHOUT_DRIVER(cuModuleUnload)
WITHOUT_DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor)
WITHOUT_DRIVER(cuPointerGetAttribute)
WITHOUT_DRIVER(cuTensorMapEncodeTiled)

}  // extern "C"

// A stand-in for libtorch_cuda.so to link against: the CUDA part of torch's stable ABI, as names only.
//
// _cuda.so is linked against this on every machine, so that it is built alike where torch has CUDA and where it has not.
// The real library, of the same soname, takes its place at run time. A name that a kernel uses and that is missing here
// fails the link; add it.
#define STUB(name) \
  extern "C" __attribute__((visibility("default"))) void name() {}

// torch/csrc/inductor/aoti_torch/c/shim.h
STUB(aoti_torch_create_cuda_guard)
STUB(aoti_torch_delete_cuda_guard)
STUB(aoti_torch_cuda_guard_set_index)
STUB(aoti_torch_create_cuda_stream_guard)
STUB(aoti_torch_delete_cuda_stream_guard)
STUB(aoti_torch_get_current_cuda_stream)
STUB(aoti_torch_cuda_caching_allocator_raw_alloc)
STUB(aoti_torch_cuda_caching_allocator_raw_delete)

// torch/csrc/stable/c/shim.h
STUB(torch_get_current_cuda_blas_handle)
STUB(torch_set_current_cuda_stream)
STUB(torch_get_cuda_stream_from_pool)
STUB(torch_cuda_stream_synchronize)
STUB(torch_c10_cuda_check_msg)
STUB(torch_c10_cuda_free_error_msg)

// What the simulated CUDA runtime (runtime.cpp) offers to those that do a device's work.
#pragma once

#include <functional>

typedef struct CUstream_st* cudaStream_t;

namespace simulated {

// Whether work of this stream is recorded into a graph.
bool is_capturing(cudaStream_t stream);
// Does the work at once, or at every launch of the graph that its stream is captured into.
void submit(cudaStream_t stream, std::function<void()> work);

}  // namespace simulated

// The simulated runtime's streams, events and graphs. A stream does its work at once, in the order of the calls, or records it where
// it is captured. What a capture refuses is refused as the runtime's documentation says: to wait, to allocate or to copy pageable
// memory inside, to leave another stream's work unjoined.
//
// What this cannot show: work of two streams, or of host and device, that overlaps and should not.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "state.h"

namespace simulated {

namespace {

Stream default_streams[kMostDevices];
unsigned long long next_id = 1;

cudaStreamCaptureStatus status_of(const Stream& stream) {
  if (!stream.capture) return cudaStreamCaptureStatusNone;
  return stream.capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
}

}  // namespace

// SIMULATED_TRACE=1: every error and every captured graph is told.
bool traces() {
  static const bool set = std::getenv("SIMULATED_TRACE") != nullptr;
  return set;
}

cudaError_t fail(cudaError_t error, const char* what) {
  if (traces()) std::fprintf(stderr, "simulated: error %d: %s\n", error, what);
  return last_error = error;
}

[[noreturn]] void stop(const char* sentence) {
  std::fprintf(stderr, "simulated: %s\n", sentence);
  std::abort();
}

size_t this_thread() {
  static std::atomic<size_t> count{0};
  thread_local const size_t id = ++count;
  return id;
}

Stream& stream_of(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread) return default_streams[current_device];
  auto* stream = reinterpret_cast<Stream*>(handle);
  if (!streams.count(stream)) stop("a stream is used that does not exist.");
  return *stream;
}

// A call that might wait for the device: it breaks off the captures that its thread's mode looks out for.
cudaError_t check_is_safe(const char* what) {
  Lock lock(mutex);
  cudaError_t result = cudaSuccess;
  for (auto& capture : captures) {
    const bool is_mine = capture->thread == this_thread(), is_relaxed = capture->mode == cudaStreamCaptureModeRelaxed;
    const bool is_global = thread_mode == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal;
    if (thread_mode == cudaStreamCaptureModeRelaxed || !(is_global || (is_mine && !is_relaxed))) continue;
    capture->valid = false;
    result = fail(cudaErrorStreamCaptureUnsupported, what);
  }
  return result;
}

// A call that waits for this stream.
cudaError_t check_may_wait(Stream& stream, const char* what) {
  if (!stream.capture) return cudaSuccess;
  const bool was_valid = std::exchange(stream.capture->valid, false);
  return fail(was_valid ? cudaErrorStreamCaptureUnsupported : cudaErrorStreamCaptureInvalidated, what);
}

cudaError_t check_may_wait(Event& event, const char* what) {
  if (!event.is_captured()) return check_is_safe(what);
  event.capture->valid = false;
  return fail(cudaErrorCapturedEvent, what);
}

bool is_capturing(cudaStream_t stream) {
  Lock lock(mutex);
  return stream_of(stream).capture != nullptr;
}

void submit(cudaStream_t handle, std::function<void()> work) {
  Lock lock(mutex);
  Stream& stream = stream_of(handle);
  if (!stream.capture) return work();
  if (!stream.capture->valid) return;
  stream.capture->graph->work.push_back(std::move(work));
  if (&stream != stream.capture->origin) stream.capture->unjoined.insert(&stream);
}

}  // namespace simulated

using namespace simulated;

extern "C" {

// ---- streams and events -------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int priority) {
  Lock lock(mutex);
  auto* const stream = new Stream{current_device, priority};
  streams.insert(stream);
  *handle = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) { return cudaStreamCreateWithPriority(handle, flags, 0); }
cudaError_t cudaStreamCreate(cudaStream_t* handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Lock lock(mutex);
  Stream& stream = stream_of(handle);
  streams.erase(&stream);
  delete &stream;
  return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  *priority = stream_of(handle).priority;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Lock lock(mutex);
  return check_may_wait(stream_of(handle), "cudaStreamSynchronize");
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Lock lock(mutex);
  return check_may_wait(stream_of(handle), "cudaStreamQuery");
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  submit(stream, [=] { function(data); });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  *handle = reinterpret_cast<cudaEvent_t>(new Event{current_device});
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  delete reinterpret_cast<Event*>(handle);
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t on, unsigned) {
  Lock lock(mutex);
  auto& event = *reinterpret_cast<Event*>(handle);
  Stream& stream = stream_of(on);
  if (on && stream.device != event.device) return fail(cudaErrorInvalidResourceHandle, "an event of another device");
  if (stream.capture && !stream.capture->valid) return fail(cudaErrorStreamCaptureInvalidated, "cudaEventRecord");
  event = {event.device, true, std::chrono::steady_clock::now(), &stream, stream.capture};
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecordWithFlags(event, stream, 0); }
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(mutex);
  return check_may_wait(*reinterpret_cast<Event*>(event), "cudaEventQuery");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(mutex);
  return check_may_wait(*reinterpret_cast<Event*>(event), "cudaEventSynchronize");
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const auto elapsed = reinterpret_cast<Event*>(to)->at - reinterpret_cast<Event*>(from)->at;
  *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t on, unsigned) {
  Lock lock(mutex);
  Stream& stream = stream_of(handle);
  const auto& event = *reinterpret_cast<Event*>(on);
  if (!event.recorded) return cudaSuccess;
  if (!event.is_captured()) {
    if (!stream.capture) return cudaSuccess;
    stream.capture->valid = false;
    return fail(cudaErrorStreamCaptureIsolation, "a captured stream waits for work that is not captured");
  }
  if (!event.capture->valid) return fail(cudaErrorStreamCaptureInvalidated, "cudaStreamWaitEvent");
  if (!stream.capture) stream.capture = event.capture;
  if (&stream == event.capture->origin) event.capture->unjoined.erase(event.stream);
  return cudaSuccess;
}

// ---- graphs -------------------------------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Lock lock(mutex);
  Stream& stream = stream_of(handle);
  if (!handle || stream.capture) return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamBeginCapture");
  stream.capture = std::shared_ptr<Capture>(new Capture{&stream, mode, this_thread(), next_id++});
  captures.push_back(stream.capture);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Lock lock(mutex);
  *graph = nullptr;
  const auto capture = stream_of(handle).capture;
  if (!capture || capture->origin != &stream_of(handle)) return fail(cudaErrorIllegalState, "cudaStreamEndCapture");
  for (Stream* stream : streams) {
    if (stream->capture == capture) stream->capture = nullptr;
  }
  captures.erase(std::find(captures.begin(), captures.end(), capture));
  capture->ended = true;
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != this_thread()) {
    return fail(cudaErrorStreamCaptureWrongThread, "cudaStreamEndCapture");
  }
  if (!capture->valid) return fail(cudaErrorStreamCaptureInvalidated, "cudaStreamEndCapture");
  if (!capture->unjoined.empty()) return fail(cudaErrorStreamCaptureUnjoined, "cudaStreamEndCapture");
  if (traces()) std::fprintf(stderr, "simulated: a graph of %zu nodes\n", capture->graph->work.size());
  *graph = reinterpret_cast<cudaGraph_t>(capture->graph.release());
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Lock lock(mutex);
  *status = status_of(stream_of(handle));
  return cudaSuccess;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges, size_t* count) {
  if (edges) *edges = nullptr;
#else
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                                        cudaGraph_t* graph, const cudaGraphNode_t** nodes, size_t* count) {
#endif
  Lock lock(mutex);
  const Stream& stream = stream_of(handle);
  *status = status_of(stream);
  if (id) *id = stream.capture ? stream.capture->id : 0;
  if (graph) *graph = stream.capture ? reinterpret_cast<cudaGraph_t>(stream.capture->graph.get()) : nullptr;
  if (nodes) *nodes = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = reinterpret_cast<Graph*>(graph)->work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  *ready = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(ready, graph, flags);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
  submit(stream, [graph = reinterpret_cast<Graph*>(ready)] {
    for (const auto& work : graph->work) work();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
  delete reinterpret_cast<Graph*>(ready);
  return cudaSuccess;
}

}  // extern "C"

// What the files of the simulated CUDA runtime share: streams, events, captures, and what is refused while one goes on.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "work.h"

namespace simulated {

constexpr int kMostDevices = 8;

struct Graph {
  std::vector<std::function<void()>> work;
};

struct Stream;

struct Capture {
  Stream* origin;
  cudaStreamCaptureMode mode;
  size_t thread;
  unsigned long long id;
  bool valid = true, ended = false;
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  std::set<Stream*> unjoined{};  // other streams whose work the origin does not wait for yet
};

struct Stream {
  int device = 0, priority = 0;
  std::shared_ptr<Capture> capture{};
};

struct Event {
  int device;
  bool recorded = false;
  std::chrono::steady_clock::time_point at{};
  Stream* stream = nullptr;
  std::shared_ptr<Capture> capture{};

  bool is_captured() const { return capture && !capture->ended; }
};

inline std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
inline std::set<Stream*> streams;
inline std::vector<std::shared_ptr<Capture>> captures;  // that go on
inline thread_local int current_device = 0;
inline thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
inline thread_local cudaError_t last_error = cudaSuccess;

// Keeps the error for cudaGetLastError. With SIMULATED_TRACE=1 every error and every captured graph is told.
cudaError_t fail(cudaError_t error, const char* what);
bool traces();
[[noreturn]] void stop(const char* sentence);

size_t this_thread();
Stream& stream_of(cudaStream_t handle);

// For a call that might wait for the device: breaks off the captures that its thread's mode looks out for.
cudaError_t check_is_safe(const char* what);
// For a call that waits for a stream, or for an event.
cudaError_t check_may_wait(Stream& stream, const char* what);
cudaError_t check_may_wait(Event& event, const char* what);

}  // namespace simulated

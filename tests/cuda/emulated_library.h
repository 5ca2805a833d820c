// In front of every source of the CUDA library (-include): it then runs on the emulator, as the operators of CPU tensors.
#pragma once

#include "common/tensor.h"
#include "emulator.h"

namespace emulator {

struct LibraryLaunch : Launch {
  explicit LibraryLaunch(const fastgan::Tensor&) : Launch(1) {}
  int architecture() const { return 90; }
};

}  // namespace emulator

#define CUDA CPU  // the dispatch key that the sources register for

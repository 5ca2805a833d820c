// The convolution engine: forward, gradient of the input, gradient of the weight, for convolutions and transposed ones.
//
// There are two operations. `gather` computes every output pixel from the input pixels under the kernel; `wgrad` computes the
// weight's gradient. A convolution's forward is a gather in one phase; its data gradient, which is a transposed convolution's
// forward, is a gather for each of the stride x stride phases that output pixels come in, each with the taps that meet it
// (for a 4x4 kernel of stride 2: four phases of 2x2 taps). No zero is inserted anywhere.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/tensor.h"
#include "conv/pending.h"

namespace fastgan::conv {

struct Convolution {
  bool transposed;
  std::vector<int64_t> stride, padding, dilation, output_padding;
  int64_t groups;
  bool allow_tf32 = false;  // of float32, on a GPU
};

// What happens to a gather's output before it is stored.
struct Epilogue {
  OptionalTensor bias;  // [channels]
  int64_t activation;
  double negative_slope;
  OptionalTensor made = {};  // if there, what the activation made: the output is its gradient, and becomes that before the activation
};

enum class Pass { forward, dgrad, wgrad };
enum class Engine { aten, direct, winograd, scatter, matmul };  // see winograd.h, scatter.h and cuda_scatter.cuh, matmul.h

// Whether FASTGAN_ENGINE=native asks for our kernels; read once.
inline bool is_forced() {
  static const bool is = [] {
    const char* const wish = std::getenv("FASTGAN_ENGINE");
    return wish && std::string(wish) == "native";
  }();
  return is;
}

// What no engine of ours takes: groups, and emptiness.
inline bool is_possible(const Outline& input, const Tensor& weight, const Convolution& conv) {
  // Nobody means more; and with less no size that the engine multiplies out can overflow.
  constexpr int64_t kMost = 4096;
  for (const auto* values : {&conv.stride, &conv.padding, &conv.dilation}) {
    if (std::max((*values)[0], (*values)[1]) > kMost) return false;
  }
  return conv.groups == 1 && input.numel() > 0 && weight.numel() > 0;
}

// A side of the smaller image, and its pixels in a batch: a transposed convolution's input, or a convolution's output.
inline int64_t smaller_size(const Outline& input, const Tensor& weight, const Convolution& conv, int dim) {
  const int64_t size = input.size(2 + dim), reach = conv.dilation[dim] * (weight.size(2 + dim) - 1) + 1;
  return conv.transposed ? size : (size + 2 * conv.padding[dim] - reach) / conv.stride[dim] + 1;
}
inline int64_t smaller_pixels(const Outline& input, const Tensor& weight, const Convolution& conv) {
  return input.size(0) * smaller_size(input, weight, conv, 0) * smaller_size(input, weight, conv, 1);
}

// What this pass of a convolution runs on. FASTGAN_ENGINE=native takes ours wherever it can.
Engine engine_for(Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv);

// What the counters call a pass.
std::string engine_name(const char* pass, Engine engine, ScalarType dtype);

// A gather that a run has ahead of it: a convolution's forward, or its data gradient.
struct Planned {
  Pass pass;
  Outline input, output;  // the convolution's
  Tensor weight;
  const Convolution* conv;
  Engine engine;
  OptionalTensor packed = {};  // the weight, as the engine's kernels read it

  // The gather's own.
  const Outline& from() const { return pass == Pass::dgrad ? output : input; }
  const Outline& to() const { return pass == Pass::dgrad ? input : output; }
  bool transposed() const { return conv->transposed != (pass == Pass::dgrad); }
};

// Packs the weights of a run at once, where an engine's kernels do not pack as they go.
void pack(std::vector<Planned>& run);

// What is summed up of a gather's output while that is in cache: one of the two, or nothing.
struct Reduction {
  int64_t moment_groups = 0;       // if not 0, moments of so many groups of the batch, as batch_norm_act::statistics takes them
  const Pending* below = nullptr;  // if the output is the gradient of what this makes: parts, as batch_norm_act::backward_sums takes them
};

// output: [N, C_out, H_out, W_out], dense, overwritten. A data gradient reads the weight from the other end: `input` is then the
// gradient of the convolution's output, and the shapes are exchanged. weight: the planned one, or as weight_for has it. Returns what
// `reduction` asks for, where the engine can.
OptionalTensor gather(const Planned& planned, const Pending& input, const Tensor& weight, const Epilogue& epilogue,
                      const Reduction& reduction, const Tensor& output);

// Whether an engine's kernels do what is pending on such an input, as they take it in. The input of others has nothing pending.
bool is_fused(Engine engine, Pass pass, const Outline& input, const Tensor& weight, const Convolution& conv);

// The same for a gradient that is pending on the gradient of a convolution's output.
bool is_gradient_fused(Engine engine, const Pending& grad);

// Whether an engine's epilogue takes the gradient of an activation from what that made, for a channels-last output of its shape.
bool is_turned(Engine engine, const Tensor& made, int64_t activation);

// Whether an engine reads a float32 weight beside an input of bfloat16, and writes such a gradient; others are given a rounded one.
bool takes_float32_weight(Engine engine);

inline Tensor weight_for(Engine engine, const Tensor& weight, const Tensor& input) {
  return takes_float32_weight(engine) ? weight : to_dtype(weight, input.scalar_type());
}

// The gradient of the weight, in the weight's shape and grad_weight's dtype: the input's, or what takes_float32_weight allows.
void wgrad(Engine engine, const Pending& input, const Pending& grad_output, const Convolution& conv,
           const Tensor& grad_weight);

}  // namespace fastgan::conv

// Activations that operators fuse.
#pragma once

namespace fastgan {

// The numbers are part of the operators' schemas; fastgan/ops/activation.py holds the same table.
enum class Activation : int { none = 0, relu = 1, leaky_relu = 2, tanh = 3, sigmoid = 4 };
inline constexpr int kActivations = 5;

}  // namespace fastgan

// What is pending on a tensor, done to its pixels where they have just been packed: then neither an activation nor the gradient of a
// convolution's output has to be written.
#pragma once

#include "batch_norm_act/runs.h"
#include "conv/packed.h"
#include "conv/pending.h"

namespace fastgan::conv {

// For lines of packed channels in their own dtype: of another, the activation would have to be rounded as if it had been written.
template <class S>
class Prologue {
 public:
  // For lines that begin with channel `first` and are padded to `padded` channels.
  Prologue(const Pending& pending, int64_t first, int64_t padded) : padded_(padded) {
    using namespace batch_norm_act;
    slope_ = static_cast<A>(pending.negative_slope);
    if (pending.output) {
      output_ = image_of(*pending.output);
      image_stride_ = pending.output->stride(0);
      values_of_output_ = data<S>(*pending.output) + first * output_.channel_stride;
      output_.channels = std::min(padded, output_.channels - first);
      if (!pending.mean) activation_gradient_ = kernels<S>().activation_backward[pending.activation];
    }
    if (!pending.mean) return;
    const Geometry g = parameter_geometry(pending.geometry("conv"), is_per_sample(pending.weight, pending.bias));
    const Affine<A> affine(g, *pending.mean, *pending.invstd, pending.weight, pending.bias);
    period_ = padded / std::gcd(padded, int64_t{kPeriod}) * kPeriod;
    images_a_set_ = g.outer;
    values_.resize(g.groups * kArrays * period_);
    const int64_t channels = std::min(padded, g.channels - first);
    const A* arrays[kArrays] = {affine.mean.data(), affine.scale.data(), affine.shift.data()};
    if (pending.output) {
      gradient_ = kernels<S>().backward[pending.activation];
      arrays[3] = data<A>(*pending.coefficients), arrays[4] = arrays[3] + g.groups * g.channels;
    } else {
      forward_ = kernels<S>().forward[pending.activation];
    }
    A* to = values_.data();
    for (int64_t set = 0; set < g.groups; ++set) {
      for (const A* from : arrays) {
        for (int64_t at = 0; from && at < period_; at += padded) std::copy_n(from + set * g.channels + first, channels, to + at);
        to += period_;
      }
    }
  }

  explicit operator bool() const { return forward_ || is_gradient(); }  // whether anything is pending

  // To what Packing::pixels has made of one image. Padding pixels stay zero: they are the activation's, or its gradient's. What
  // becomes of padding channels meets zeros in the other operand.
  void apply(int64_t image, const Image& of, const Window& window, S* pixels) const {
    if (!*this) return;
    const int64_t top = std::clamp<int64_t>(window.top - window.first, 0, window.height);
    const int64_t bottom = std::clamp<int64_t>(window.top - window.first + of.height, top, window.height);
    const int64_t left = std::clamp<int64_t>(window.left, 0, window.width);
    const int64_t right = std::clamp<int64_t>(window.left + of.width, left, window.width);
    const int64_t length = (right - left) * padded_, line = window.width * padded_;
    const bool is_one_piece = length == line;
    const int64_t pieces = is_one_piece ? std::min<int64_t>(1, bottom - top) : bottom - top;
    const int64_t size = is_one_piece ? (bottom - top) * line : length;
    // Another tensor's pixels: where they lie, if they lie as these do, or packed alike.
    const S* others = nullptr;
    int64_t apart = line;
    if (is_gradient() && pieces > 0) {
      const S* const from = values_of_output_ + image * image_stride_;
      if (output_.channel_stride == 1 && output_.pixel_stride == padded_ && output_.row_stride == output_.width * padded_) {
        others = from + (window.first + top - window.top) * output_.row_stride + (left - window.left) * padded_;
        apart = output_.row_stride;
      } else {
        S* const packed = scratch<S, 15>(window.height * line);
        packing<S, S>().pixels(from, output_, window, padded_, packed);
        others = packed + top * line + left * padded_;
      }
    }
    const A* const at = values_.data() + image / images_a_set_ * kArrays * period_;
    const batch_norm_act::Parameters<A> parameters{at, at + period_, at + 2 * period_, slope_};
    for (int64_t y = 0; y < pieces; ++y) {
      S* const to = pixels + (top + y) * line + left * padded_;
      if (forward_) forward_(to, to, size, period_, parameters);
      if (gradient_) gradient_(to, others + y * apart, to, size, period_, parameters, at + 3 * period_, at + 4 * period_);
      if (activation_gradient_) activation_gradient_(to, others + y * apart, to, size, slope_);
    }
  }

 private:
  using A = Compute<S>;
  using Parameters = batch_norm_act::Parameters<A>;
  static constexpr int64_t kArrays = 5;

  bool is_gradient() const { return gradient_ || activation_gradient_; }

  const int64_t padded_;
  void (*forward_)(const S*, S*, int64_t, int64_t, const Parameters&) = nullptr;
  void (*gradient_)(const S*, const S*, S*, int64_t, int64_t, const Parameters&, const A*, const A*) = nullptr;
  void (*activation_gradient_)(const S*, const S*, S*, int64_t, A) = nullptr;
  A slope_{};
  Image output_{};
  int64_t image_stride_ = 0, period_ = 0, images_a_set_ = 1;
  const S* values_of_output_ = nullptr;
  std::vector<A> values_;  // [sets][mean, scale, shift, offset, slope][period]
};

}  // namespace fastgan::conv

// What is pending on an input, done to its pixels where they have just been packed: then no activation has to be written.
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
  Prologue(const Pending& pending, int64_t first, int64_t padded) {
    if (!pending.mean) return;
    using namespace batch_norm_act;
    const Geometry g = parameter_geometry(pending.geometry("conv"), is_per_sample(pending.weight, pending.bias));
    const Affine<A> affine(g, *pending.mean, *pending.invstd, pending.weight, pending.bias);
    kernel_ = kernels<S>().forward[pending.activation];
    slope_ = static_cast<A>(pending.negative_slope);
    padded_ = padded;
    period_ = padded / std::gcd(padded, int64_t{kPeriod}) * kPeriod;
    images_a_set_ = g.outer;
    values_.resize(g.groups * kArrays * period_);
    const int64_t channels = std::min(padded, g.channels - first);
    for (int64_t set = 0; set < g.groups; ++set) {
      A* to = values_.data() + set * kArrays * period_;
      for (const auto* from : {&affine.mean, &affine.scale, &affine.shift}) {
        for (int64_t at = 0; at < period_; at += padded) {
          std::copy_n(from->data() + set * g.channels + first, channels, to + at);
        }
        to += period_;
      }
    }
  }

  explicit operator bool() const { return kernel_ != nullptr; }  // whether anything is pending

  // To what Packing::pixels has made of one image. Padding pixels stay zero: they are the activation's. What an activation makes of
  // padding channels meets zeros in the other operand.
  void apply(int64_t image, const Image& of, const Window& window, S* pixels) const {
    if (!kernel_) return;
    const A* const at = values_.data() + image / images_a_set_ * kArrays * period_;
    const batch_norm_act::Parameters<A> parameters{at, at + period_, at + 2 * period_, slope_};
    const int64_t top = std::clamp<int64_t>(window.top - window.first, 0, window.height);
    const int64_t bottom = std::clamp<int64_t>(window.top - window.first + of.height, top, window.height);
    const int64_t left = std::clamp<int64_t>(window.left, 0, window.width);
    const int64_t right = std::clamp<int64_t>(window.left + of.width, left, window.width);
    const int64_t length = (right - left) * padded_, line = window.width * padded_;
    const auto to = [&](S* from, int64_t count) { kernel_(from, from, count, period_, parameters); };
    if (length == line) return to(pixels + top * line, (bottom - top) * line);  // in one piece
    for (int64_t y = top; y < bottom; ++y) to(pixels + y * line + left * padded_, length);
  }

 private:
  using A = Compute<S>;
  static constexpr int64_t kArrays = 3;
  void (*kernel_)(const S*, S*, int64_t, int64_t, const batch_norm_act::Parameters<A>&) = nullptr;
  A slope_{};
  int64_t padded_ = 0, period_ = 0, images_a_set_ = 1;
  std::vector<A> values_;  // [sets][mean, scale, shift][period]
};

}  // namespace fastgan::conv

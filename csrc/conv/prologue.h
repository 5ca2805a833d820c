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

  // Packing::pixels of an image of the tensor, with what is pending done. `pixels`: the image's, from channel `first` on. Padding pixels
  // stay zero: they are the activation's, or its gradient's. What becomes of padding channels meets zeros in the other operand.
  template <class T>
  void pack(const T* pixels, int64_t image, const Image& of, const Window& window, S* out) const {
    if constexpr (std::is_same_v<T, S>) {
      if (*this && lies_packed(of)) {
        clear_borders(of, window, out);
        return run(image, of, window, pixels, out);
      }
    }
    packing<T, S>().pixels(pixels, of, window, padded_, out);
    if (*this) run(image, of, window, nullptr, out);
  }

 private:
  using A = Compute<S>;
  using Parameters = batch_norm_act::Parameters<A>;
  static constexpr int64_t kArrays = 5;

  bool is_gradient() const { return gradient_ || activation_gradient_; }

  // Whether an image's rows are already what pixels() would make of them.
  bool lies_packed(const Image& of) const {
    return of.channel_stride == 1 && of.pixel_stride == padded_ && of.channels == padded_ && of.row_stride == of.width * padded_;
  }

  // The part of a window that is in the image.
  struct Inside {
    int64_t top, bottom, left, right;
    Inside(const Image& of, const Window& window)
        : top(std::clamp<int64_t>(window.top - window.first, 0, window.height)),
          bottom(std::clamp<int64_t>(window.top - window.first + of.height, top, window.height)),
          left(std::clamp<int64_t>(window.left, 0, window.width)),
          right(std::clamp<int64_t>(window.left + of.width, left, window.width)) {}
  };

  void clear_borders(const Image& of, const Window& window, S* out) const {
    const Inside in(of, window);
    const int64_t line = window.width * padded_;
    std::fill_n(out, in.top * line, S{});
    for (int64_t y = in.top; y < in.bottom; ++y) {
      std::fill_n(out + y * line, in.left * padded_, S{});
      std::fill(out + y * line + in.right * padded_, out + (y + 1) * line, S{});
    }
    std::fill(out + in.bottom * line, out + window.height * line, S{});
  }

  // From the image, or, where that is null, in place.
  void run(int64_t image, const Image& of, const Window& window, const S* from, S* out) const {
    const Inside in(of, window);
    const int64_t length = (in.right - in.left) * padded_, line = window.width * padded_;
    // Where a window's rows are an image's, they are one piece.
    const int64_t rows = in.bottom - in.top, pieces = length == line ? std::min<int64_t>(1, rows) : rows;
    const int64_t size = length == line ? rows * line : length;
    if (size == 0 || pieces == 0) return;
    const int64_t first_row = window.first + in.top - window.top, first_column = in.left - window.left;
    out += in.top * line + in.left * padded_;
    const auto rows_of = [&](const S* pixels, const Image& shape) { return pixels + first_row * shape.row_stride + first_column * padded_; };
    if (from) from = rows_of(from, of);
    // Another tensor's pixels: where they lie, if they lie packed, or packed alike.
    const S* others = nullptr;
    int64_t others_apart = line;
    if (is_gradient()) {
      others = values_of_output_ + image * image_stride_;
      if (lies_packed(output_)) {
        others = rows_of(others, output_), others_apart = output_.row_stride;
      } else {
        S* const packed = scratch<S, 15>(window.height * line);
        packing<S, S>().pixels(others, output_, window, padded_, packed);
        others = packed + in.top * line + in.left * padded_;
      }
    }
    const A* const at = values_.data() + image / images_a_set_ * kArrays * period_;
    const Parameters parameters{at, at + period_, at + 2 * period_, slope_};
    for (int64_t y = 0; y < pieces; ++y) {
      S* const to = out + y * line;
      const S *const here = from ? from + y * of.row_stride : to, *const other = others + y * others_apart;
      if (forward_) forward_(here, to, size, period_, parameters);
      if (gradient_) gradient_(here, other, to, size, period_, parameters, at + 3 * period_, at + 4 * period_);
      if (activation_gradient_) activation_gradient_(here, other, to, size, slope_);
    }
  }

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

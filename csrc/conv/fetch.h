// Memory that is needed next, asked for some lines at a time while something else is computed. A processor by itself looks only a
// few lines ahead, and a network's activations come from far away.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/tensor.h"
#include "conv/pack.h"

namespace fastgan::conv {

inline constexpr int64_t kCacheLine = 64;

// Asks for `bytes` from `memory` on, into the second-level cache.
inline void fetch(const void* memory, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(static_cast<const char*>(memory) + i, 0, 2);
}

// Some channels of some rows of some images.
class Fetch {
 public:
  Fetch() = default;

  // Rows and channels that are not there are left out.
  Fetch(const Tensor& tensor, const Image& image, int64_t first_image, int64_t images, int64_t first_row, int64_t rows,
        int64_t first_channel, int64_t channels) {
    const int64_t size = static_cast<int64_t>(tensor.element_size());
    const int64_t top = std::clamp<int64_t>(first_row, 0, image.height);
    rows = std::clamp<int64_t>(first_row + rows - top, 0, image.height - top);
    channels = std::clamp<int64_t>(image.channels - first_channel, 0, channels);
    if (rows == 0 || channels == 0) return;
    next_ = static_cast<const char*>(tensor.const_data_ptr()) +
            size * (first_image * tensor.stride(0) + top * image.row_stride + first_channel * image.channel_stride);
    const bool is_last = image.channel_stride == 1;
    const bool is_whole = is_last && image.pixel_stride == channels;  // all of a pixel's
    counts_[0] = images, strides_[0] = size * tensor.stride(0);
    counts_[1] = is_last ? rows : channels, strides_[1] = size * (is_last ? image.row_stride : image.channel_stride);
    counts_[2] = is_whole ? 1 : is_last ? image.width : rows;
    strides_[2] = size * (is_last ? image.pixel_stride : image.row_stride);
    bytes_ = size * (is_whole ? image.width * channels : is_last ? channels : image.width);
  }

  int64_t lines() const { return counts_[0] * counts_[1] * counts_[2] * ((bytes_ + kCacheLine - 1) / kCacheLine); }

  // So many of the next lines, or as many as lie one after the other, for somebody else to ask for: where, and how many bytes.
  std::pair<const void*, int64_t> take(int64_t lines) {
    if (lines <= 0 || !next_) return {nullptr, 0};
    const char* const from = next_ + at_;
    const int64_t bytes = std::min(lines * kCacheLine, bytes_ - at_);
    at_ += bytes;
    if (at_ >= bytes_) at_ = 0, advance(2);
    return {from, bytes};
  }

  void ask(int64_t lines) {
    for (; lines > 0 && next_; --lines) {
      __builtin_prefetch(next_ + at_, 0, 2);
      at_ += kCacheLine;
      if (at_ < bytes_) continue;
      at_ = 0;
      advance(2);
    }
  }

 private:
  void advance(int dim) {
    next_ += strides_[dim];
    if (++places_[dim] < counts_[dim]) return;
    next_ -= counts_[dim] * strides_[dim];
    places_[dim] = 0;
    if (dim > 0) return advance(dim - 1);
    next_ = nullptr;
  }

  const char* next_ = nullptr;
  int64_t counts_[3] = {}, strides_[3] = {}, places_[3] = {};
  int64_t bytes_ = 0, at_ = 0;  // of a run; asked for
};

}  // namespace fastgan::conv

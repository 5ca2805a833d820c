// What a gather sums up of its output, item by item, while that is in cache.
#pragma once

#include <algorithm>
#include <optional>

#include "batch_norm_act/runs.h"
#include "conv/items.h"

namespace fastgan::conv {

template <class T>
class ItemReduction {
 public:
  // Of items that have all channels and lie in one group of the batch each; of others nothing is taken.
  ItemReduction(const Reduction& wanted, const Gather& g, const Items& items, int64_t shares, const Tensor& output)
      : g_(g), output_(output) {
    const Pending* const below = wanted.below;
    const int64_t groups = below ? below->mean->size(0) : wanted.moment_groups;
    if (groups == 0 || shares > 1 || !is_channels_last(output) || items.count % groups != 0) return;
    if (output.size(0) % groups != 0 || output.size(0) / groups % items.images != 0) return;
    if (below) {
      if (!is_channels_last(below->input) || batch_norm_act::is_per_sample(below->weight, below->bias)) return;
      below_ = data<T>(below->input);
      sums_.emplace(*below->mean, *below->invstd, below->weight, below->bias, below->activation, below->negative_slope);
    }
    items_a_group_ = items.count / groups;
    result_ = empty({groups, items_a_group_, output.size(1), below ? 2 : 3}, ScalarType::Double, output);
    to_ = result_->mutable_data_ptr();
  }

  // Of an item that is complete.
  void take(int64_t item, int64_t first_image, int64_t images, int64_t first_row, int64_t rows) const {
    if (!result_) return;
    using namespace batch_norm_act;
    const int64_t top = first_row * g_.y.step, bottom = std::min(output_.size(2), (first_row + rows) * g_.y.step);
    const int64_t channels = output_.size(1), pixels = (bottom - top) * output_.size(3);
    const int64_t from = first_image * output_.stride(0) + top * output_.size(3) * channels;
    const int64_t pieces = bottom - top == output_.size(2) ? 1 : images;  // whole images are one
    const auto each_piece = [&](auto* to, const auto& add) {
      to += item * channels;
      std::fill_n(to, channels, std::decay_t<decltype(*to)>{});
      for (int64_t i = 0; i < pieces; ++i) add(from + i * output_.stride(0), pixels * images / pieces, to);
    };
    const T* const values = data<T>(output_);
    if (sums_) {
      each_piece(static_cast<ChannelSums*>(to_), [&](int64_t at, int64_t count, ChannelSums* to) {
        sums_->add(values + at, below_ + at, count, item / items_a_group_, to);
      });
    } else {
      each_piece(static_cast<ChannelMoments*>(to_), [&](int64_t at, int64_t count, ChannelMoments* to) {
        add_row_moments(values + at, count, channels, to);
      });
    }
  }

  const OptionalTensor& result() const { return result_; }

 private:
  const Gather& g_;
  const Tensor& output_;
  OptionalTensor result_;
  void* to_ = nullptr;
  int64_t items_a_group_ = 0;
  const T* below_ = nullptr;
  std::optional<batch_norm_act::RowSums<T>> sums_;
};

}  // namespace fastgan::conv

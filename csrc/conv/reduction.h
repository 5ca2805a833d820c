// What a gather sums up of its output, item by item, while that is in cache.
#pragma once

#include <algorithm>
#include <optional>

#include "batch_norm_act/channel_sums.h"
#include "conv/items.h"

namespace fastgan::conv {

template <class T, class S>
class ItemReduction {
 public:
  // Of items that have all channels (shares 1) and lie in one group of the batch each; of others nothing is taken.
  ItemReduction(const Reduction& wanted, const Gather& g, const Items& items, int64_t shares, const Tensor& output)
      : g_(g), output_(output) {
    const Pending* const below = wanted.below;
    const int64_t groups = below ? below->mean->size(0) : wanted.moment_groups;
    if (groups == 0 || shares > 1 || !is_channels_last(output)) return;
    if (groups > 1 && (output.size(0) % groups != 0 || output.size(0) / groups % items.images != 0)) return;
    if (below) {
      if (!is_channels_last(below->input) || batch_norm_act::is_per_sample(below->weight, below->bias)) return;
      below_ = data<T>(below->input);
      row_sums_.emplace(*below->mean, *below->invstd, below->weight, below->bias, below->activation, below->negative_slope);
    }
    items_a_group_ = items.count / groups;
    result_ = empty({groups, items_a_group_, output.size(1), below ? 2 : 3}, ScalarType::Double, output);
  }

  // Of an item that is complete; several threads at once, each of its own.
  void take(const Item<S>& item) {
    if (!result_) return;
    using namespace batch_norm_act;
    const T* const values = data<T>(output_);
    if (row_sums_) {
      each_piece<ChannelSums>(item, [&](int64_t at, int64_t count, ChannelSums* to) {
        row_sums_->add(values + at, below_ + at, count, item.number / items_a_group_, to);
      });
    } else {
      each_piece<ChannelMoments>(item, [&](int64_t at, int64_t count, ChannelMoments* to) {
        add_row_moments(values + at, count, output_.size(1), to);
      });
    }
  }

  const OptionalTensor& result() const { return result_; }

 private:
  // Calls add(first element, pixels, result) for each of an item's pieces that lie together.
  template <class Result, class Add>
  void each_piece(const Item<S>& item, const Add& add) {
    const int64_t top = item.first_row * g_.y.step, bottom = std::min(output_.size(2), (item.first_row + item.rows) * g_.y.step);
    const int64_t channels = output_.size(1), pixels = (bottom - top) * output_.size(3);
    const int64_t from = item.first_image * output_.stride(0) + top * output_.size(3) * channels;
    const int64_t pieces = bottom - top == output_.size(2) ? 1 : item.images;  // whole images are one
    auto* const to = static_cast<Result*>(result_->mutable_data_ptr()) + item.number * channels;
    std::fill_n(to, channels, Result{});
    for (int64_t i = 0; i < pieces; ++i) add(from + i * output_.stride(0), pixels * item.images / pieces, to);
  }

  const Gather& g_;
  const Tensor& output_;
  OptionalTensor result_;
  int64_t items_a_group_ = 0;
  const T* below_ = nullptr;
  std::optional<batch_norm_act::RowSums<T>> row_sums_;
};

}  // namespace fastgan::conv

// The weights of a run on a GPU, packed by one launch.
#include "conv/cuda_pack.cuh"
#include "conv/cuda_planned.cuh"

namespace fastgan::conv {
namespace {

// Without `to`.
template <class T>
Packing<T> packing_of(const Launch& launch, const Planned& planned) {
  const Tensor& weight = planned.weight;
  const GatherTaps taps = taps_of<T>(planned);
  const bool products = planned.engine == Engine::scatter;
  const int out_dim = planned.transposed() ? 1 : 0, outs = products ? columns_of(planned) : size(weight, out_dim);
  const WeightStrides strides = products ? WeightStrides{1, outs, 0, 0}
                                         : WeightStrides{weight.stride(out_dim), weight.stride(1 - out_dim), weight.stride(2), weight.stride(3)};
  int columns = 0;
  with_unit<T>(launch, *planned.conv, [&](auto unit) {
    if (products) {
      columns = ShapeOfProducts<unit()>::kColumns;
    } else {
      with_shape<unit()>(outs, [&](auto shape) { columns = shape.kColumns; });
    }
  });
  const bool from_float32 = sizeof(T) < 4 && weight.scalar_type() == ScalarType::Float;
  return {taps, size(weight, 1 - out_dim), outs, taps.steps(kDepth<T>), columns, strides, weight.const_data_ptr(), from_float32, nullptr, 0};
}

}  // namespace

void pack(std::vector<Planned>& run) {
  std::vector<Planned*> ours;
  for (auto& planned : run) {
    if (planned.engine != Engine::aten) ours.push_back(&planned);
  }
  if (ours.empty()) return;
  const Launch launch(ours[0]->weight);
  dispatch_dtype("conv", ours[0]->input.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    for (size_t first = 0; first < ours.size(); first += kMostPackings) {
      Packings<T> all{};
      int blocks = 0;
      std::vector<Tensor> dense;  // until the launch
      for (size_t i = first; i < ours.size() && i < first + kMostPackings; ++i) {
        Planned& planned = *ours[i];
        Packing<T>& packing = all.of[i - first] = packing_of<T>(launch, planned);
        if (planned.engine == Engine::scatter && !is_channels_last(planned.weight)) {
          packing.from = dense.emplace_back(as_contiguous(planned.weight)).const_data_ptr();
        }
        planned.packed = empty({packing.numel()}, planned.input.scalar_type(), planned.weight);
        packing.to = mutable_data<T>(*planned.packed);
        packing.blocks = packing.taps.parts() * packing.blocks_of_part();
        blocks += packing.blocks;
      }
      if (blocks > 0) launch(pack_weights<T>, blocks, kThreads, all);  // none where no tap meets the input
    }
  });
}

}  // namespace fastgan::conv

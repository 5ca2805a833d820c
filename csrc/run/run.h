// A run: a chain of blocks as one operator, so that a network's pass crosses from Python to here and back once.
#pragma once

#include "common/counters.h"
#include "run/block.h"

namespace fastgan::run {

constexpr const char* kName = "run";

// The layout of the operators' arguments, as fastgan/ops/blocks.py and run.py write them.
enum Integer { kConv, kStride, kPadding = 3, kDilation = 5, kOutputPadding = 7, kGroups = 9, kNorm, kActivation, kKeepsInput, kIntegers };
enum Real { kMomentum, kEps, kNegativeSlope, kReals };
enum Parameter { kWeight, kBias, kNormWeight, kNormBias, kParameters };
enum Running { kRunningMean, kRunningVar, kBatches, kRunning };
enum ConvKind { kNoConv, kConvolution, kTransposed };
enum NormKind { kNoNorm, kGiven, kTraining };
enum KeptTensor { kTensor, kMean, kInvstd, kKept };

// running: may be left out where nobody reads it.
inline std::vector<Block> blocks_of(const std::vector<OptionalTensor>& parameters, const std::vector<OptionalTensor>& running,
                                    const std::vector<int64_t>& integers, const std::vector<double>& reals, bool allow_tf32) {
  const size_t count = integers.size() / kIntegers;
  FASTGAN_CHECK(kName, count > 0 && integers.size() == count * kIntegers && reals.size() == count * kReals &&
                           parameters.size() == count * kParameters && (running.empty() || running.size() == count * kRunning),
                "there are ", parameters.size(), " parameters, ", running.size(), " running statistics, ", integers.size(), " integers and ",
                reals.size(), " reals; of each block ", int{kParameters}, ", ", int{kRunning}, ", ", int{kIntegers}, " and ", int{kReals},
                " are needed.");
  std::vector<Block> blocks(count);
  for (size_t i = 0; i < count; ++i) {
    Block& block = blocks[i];
    const int64_t* const ints = &integers[i * kIntegers];
    const double* const factors = &reals[i * kReals];
    const OptionalTensor* const tensors = &parameters[i * kParameters];
    const auto pair = [&](int first) { return std::vector<int64_t>{ints[first], ints[first + 1]}; };
    if (ints[kConv] != kNoConv) {
      FASTGAN_CHECK(kName, tensors[kWeight].has_value(), "block ", i, " has a convolution but no weight.");
      block.conv = Convolution{ints[kConv] == kTransposed, pair(kStride),  pair(kPadding), pair(kDilation),
                               pair(kOutputPadding),       ints[kGroups], allow_tf32};
    }
    FASTGAN_CHECK(kName, block.conv || ints[kNorm] != kNoNorm, "block ", i, " has neither a convolution nor a batch-norm; give it one.");
    block.weight = tensors[kWeight];
    block.bias = tensors[kBias];
    if (ints[kNorm] != kNoNorm) {
      block.norm = Norm{ints[kNorm] != kGiven, factors[kMomentum], factors[kEps], tensors[kNormWeight], tensors[kNormBias], {}};
      if (!running.empty()) {
        const OptionalTensor* const statistics = &running[i * kRunning];
        block.norm->running = {statistics[kRunningMean], statistics[kRunningVar], statistics[kBatches]};
      }
    }
    block.activation = ints[kActivation];
    block.negative_slope = factors[kNegativeSlope];
    block.keeps_input = ints[kKeepsInput] != 0;
  }
  return blocks;
}

// Each block's convolution, of a run on such an input: checked, on its engine, with what the engine packs. Of a block without one only
// input and output, which are alike. wanted: whose gathers are done.
inline std::vector<conv::Planned> planned(conv::Pass pass, const std::vector<Block>& blocks, const Tensor& input,
                                          const std::vector<bool>& wanted) {
  std::vector<conv::Planned> run(blocks.size());
  Outline outline(input);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    if (!block.conv) {
      run[i].input = run[i].output = outline;
      continue;
    }
    conv::check(outline, *block.weight, block.bias, *block.conv);
    const auto engine = wanted[i] ? conv::engine_for(pass, outline, *block.weight, *block.conv) : conv::Engine::aten;
    Outline output(conv::output_sizes(outline, *block.weight, *block.conv), input);
    run[i] = {pass, std::exchange(outline, output), output, *block.weight, &*block.conv, engine};
  }
  conv::pack(run);
  return run;
}

// Of each block the elements that it hands on, and the multiplications of its forward that an engine of ours makes; nothing is run.
inline std::vector<int64_t> work_op(const Tensor& input, const std::vector<OptionalTensor>& parameters, const std::vector<int64_t>& integers,
                                    const std::vector<double>& reals) {
  const auto blocks = blocks_of(parameters, {}, integers, reals, false);
  const auto run = planned(conv::Pass::forward, blocks, input, std::vector<bool>(blocks.size(), true));
  std::vector<int64_t> work;
  for (const auto& block : run) {
    const bool is_ours = block.conv && block.engine != conv::Engine::aten && block.engine != conv::Engine::matmul;
    work.insert(work.end(), {block.output.numel(), is_ours ? conv::multiplications(block) : 0});
  }
  return work;
}

// The output; with `keeps`, what backward needs comes before it: of each block its tensor, but for the run's own input, and with
// batch-norm mean and invstd. A last tensor that is the output is there once.
inline std::vector<Tensor> forward_op(const Tensor& input, const std::vector<OptionalTensor>& parameters,
                                      const std::vector<OptionalTensor>& running, const std::vector<int64_t>& integers,
                                      const std::vector<double>& reals, int64_t batch_groups, bool keeps, bool allow_tf32) {
  const auto blocks = blocks_of(parameters, running, integers, reals, allow_tf32);
  const auto run = planned(conv::Pass::forward, blocks, input, std::vector<bool>(blocks.size(), true));
  std::vector<Tensor> results;
  Pending pending = Pending::nothing_on(input);
  begin_trace();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    if (i > 0) end_trace_of_block();
    pending = forward(block, run[i], pending, batch_groups);
    if (!keeps) continue;
    const bool is_output = i + 1 == blocks.size() && !pending.mean, is_input = i == 0 && !block.conv;
    if (!is_output && !is_input) results.push_back(pending.input);
    if (block.norm) results.insert(results.end(), {*pending.mean, *pending.invstd});
  }
  results.push_back(pending.materialise());
  end_trace_of_block();
  return results;
}

// For compilers, which take no operator that both writes to its arguments and returns a list: leaves `running` as it is. Those that a
// batch-norm updates come behind the results, updated.
inline std::vector<Tensor> functional_op(const Tensor& input, const std::vector<OptionalTensor>& parameters,
                                         const std::vector<OptionalTensor>& running, const std::vector<int64_t>& integers,
                                         const std::vector<double>& reals, int64_t batch_groups, bool keeps, bool allow_tf32) {
  std::vector<OptionalTensor> updated = running;
  for (auto& statistics : updated) {
    if (!statistics) continue;
    Tensor copy = empty(sizes_of(*statistics), statistics->scalar_type(), *statistics);
    statistics = torch::stable::copy_(copy, *statistics);
  }
  auto results = forward_op(input, parameters, updated, integers, reals, batch_groups, keeps, allow_tf32);
  for (size_t i = 0; i < updated.size(); ++i) {
    if (updated[i] && integers[i / kRunning * kIntegers + kNorm] == kTraining) results.push_back(*updated[i]);
  }
  return results;
}

// Whether the block above can begin a block's backward in passing: with the sums of a batch-norm, or with the activation's gradient.
inline bool begins_above(const Block& block, const Wanted& wanted) {
  return block.conv && (!block.norm || block.norm->training || wanted.of_norm());
}

// kept: of each block kKept tensors or nothing. needs: of the input and of every parameter, whether its gradient is returned.
inline std::vector<Tensor> backward_op(const Tensor& grad_output, const Tensor& input, const std::vector<OptionalTensor>& parameters,
                                       const std::vector<OptionalTensor>& kept, const std::vector<int64_t>& integers,
                                       const std::vector<double>& reals, const std::vector<bool>& needs, bool allow_tf32) {
  const auto blocks = blocks_of(parameters, {}, integers, reals, allow_tf32);
  const auto count = static_cast<int>(blocks.size());
  FASTGAN_CHECK(kName, kept.size() == blocks.size() * kKept && needs.size() == 1 + parameters.size(), "there are ", kept.size(),
                " kept tensors and ", needs.size(), " needs for ", count, " blocks; give what the forward kept, and ",
                1 + parameters.size(), " needs.");
  const auto kept_of = [&](int i) { return Kept{kept[i * kKept + kTensor], kept[i * kKept + kMean], kept[i * kKept + kInvstd]}; };
  std::vector<Wanted> wanted(count);
  std::vector<bool> wants_input(count);
  bool needs_below = needs[0];
  for (int i = 0; i < count; ++i) {
    const int at = 1 + i * kParameters;
    wanted[i] = {needs_below, needs[at + kWeight], needs[at + kBias], needs[at + kNormWeight], needs[at + kNormBias],
                 i > 0 && begins_above(blocks[i - 1], wanted[i - 1])};
    wants_input[i] = needs_below;
    needs_below = wanted[i].any();
    FASTGAN_CHECK(kName, !blocks[i].norm || (kept_of(i).mean && kept_of(i).invstd), "block ", i,
                  " has a batch-norm, but its statistics are not there; give what the forward kept.");
  }
  const auto run = planned(conv::Pass::dgrad, blocks, input, wants_input);
  for (int i = 0; i < count; ++i) {
    const auto& tensor = kept_of(i).tensor;
    const Tensor* const handed_on = tensor ? &*tensor : i + 1 == count ? &grad_output : nullptr;
    if (!handed_on) continue;
    const Outline& expected = run[i].output;
    check_like(kName, "kept", *handed_on, input);
    FASTGAN_CHECK(kName, handed_on->scalar_type() == input.scalar_type() && sizes_of(*handed_on) == expected.sizes(), "of block ", i,
                  " was kept a tensor of shape ", shape_text(*handed_on), " and dtype ", dtype_name(handed_on->scalar_type()),
                  ", but it hands on one of ", shape_text(expected), " and ", dtype_name(input.scalar_type()),
                  "; give what the forward kept.");
  }
  std::vector<Gradients> gradients(count);
  Tensor grad = grad_output;
  OptionalTensor sums;
  bool is_turned = false;
  begin_trace();
  for (int i = count; i-- > 0 && wanted[i].any();) {
    const auto source = [&]() -> Pending {
      if (i == 0) return Pending::nothing_on(input);
      const Kept below = kept_of(i - 1);
      FASTGAN_CHECK(kName, below.tensor.has_value(), "what block ", i - 1, " handed on is not there; give what the forward kept.");
      if (blocks[i - 1].norm) return pending_on(*below.tensor, *below.mean, *below.invstd, blocks[i - 1]);
      return {*below.tensor, {}, {}, {}, {}, blocks[i - 1].activation, blocks[i - 1].negative_slope};  // which made it
    };
    gradients[i] = backward(blocks[i], run[i], kept_of(i), grad, sums, is_turned, source(), wanted[i]);
    grad = std::exchange(gradients[i].input, Tensor());  // which nobody reads after the next block
    sums = std::exchange(gradients[i].sums, std::nullopt);
    is_turned = gradients[i].is_turned;
    end_trace_of_block();
  }
  std::vector<Tensor> results;
  if (needs[0]) results.push_back(grad);
  for (int i = 0; i < count; ++i) {
    const Tensor* const found[] = {&gradients[i].weight, &gradients[i].bias, &gradients[i].bn_weight, &gradients[i].bn_bias};
    for (int j = 0; j < kParameters; ++j) {
      if (needs[1 + i * kParameters + j]) results.push_back(*found[j]);
    }
  }
  return results;
}

}  // namespace fastgan::run

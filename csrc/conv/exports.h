// What the library of the CPU says of its engine to `fastgan._C` (csrc/python/module.cpp), which is not linked to torch.
#pragma once

namespace fastgan::conv {
using EngineRuleVisitor = void (*)(void* context, const char* engine, const char* convolutions);
}

extern "C" {
// Which engine runs which convolutions, in words; the first that fits decides. In engine.cpp, beside the rule itself.
__attribute__((visibility("default"))) void fastgan_visit_engine_rules(fastgan::conv::EngineRuleVisitor visit,
                                                                       void* context);
// GFLOP/s of the engine's micro-kernel (peak.cpp): the best of so many milliseconds, on torch's threads, for convolutions in
// float32 or bfloat16.
__attribute__((visibility("default"))) double fastgan_gemm_peak(bool bfloat16, double milliseconds);
}

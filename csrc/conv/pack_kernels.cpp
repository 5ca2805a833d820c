#include "conv/pack.h"

#include "conv/pack_left.h"
#include "conv/pack_right.h"
#include "conv/store.h"

namespace fastgan::conv {
namespace {

template <class T, class S>
constexpr Packing<T, S> table() {
  return {pixels<T, S>,
          deal<S>,
          patches<S>,
          strands<S>,
          pieces<S>,
          lines<T, S>,
          columns<T, S>,
          columns_within<T, S>,
          runs<T, S>,
          taps<T, S>,
          add_rows<Compute<S>>,
          {store_tile<T, S, Activation::none>, store_tile<T, S, Activation::relu>,
           store_tile<T, S, Activation::leaky_relu>, store_tile<T, S, Activation::tanh>,
           store_tile<T, S, Activation::sigmoid>}};
}

}  // namespace

#define FASTGAN_PACKING_NAME_(T, S, isa) packing_##T##_##S##_##isa
#define FASTGAN_PACKING_NAME(T, S, isa) FASTGAN_PACKING_NAME_(T, S, isa)
#define FASTGAN_PACKING(T, S) extern const Packing<T, S> FASTGAN_PACKING_NAME(T, S, FASTGAN_ISA) = table<T, S>();
FASTGAN_PACKING(float, float)
FASTGAN_PACKING(double, double)
FASTGAN_PACKING(BFloat16, BFloat16)
FASTGAN_PACKING(BFloat16, float)
FASTGAN_PACKING(float, BFloat16)
FASTGAN_PACKING(Half, float)

}  // namespace fastgan::conv

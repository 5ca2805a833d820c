#include "batch_norm_act/kernels.h"
#include "common/vec.h"

namespace fastgan::batch_norm_act {
namespace {

// Calls body(offset in the run, offset in the period, valid lanes) for every vector of the run.
template <class A, class Body>
inline void for_each_vector(int64_t n, int64_t period, const Body& body) {
  constexpr int W = kLanes<A>;
  int64_t i = 0;
  for (; i + period <= n; i += period) {
    for (int64_t p = 0; p < period; p += W) body(i + p, p, W);
  }
  for (int64_t p = 0; i + p < n; p += W) body(i + p, p, n - i - p < W ? static_cast<int>(n - i - p) : W);
}

template <class T>
inline Vec<Compute<T>> load_some(const T* from, int lanes) {
  return lanes == kLanes<Compute<T>> ? load(from) : load_first(from, lanes);
}

template <class T>
inline void store_some(T* to, Vec<Compute<T>> value, int lanes) {
  lanes == kLanes<Compute<T>> ? store(to, value) : store_first(to, value, lanes);
}

template <class V>
struct Pair {
  V first, second;
};

// Sums held in registers: `blocks` vectors of the period at a time. Returns how many elements were consumed.
template <int blocks, class A, class Term>
inline int64_t accumulate_in_registers(int64_t n, int64_t period, A* first, A* second, const Term& term) {
  constexpr int W = kLanes<A>;
  const int64_t whole = n - n % period;
  for (int64_t begin = 0; begin < period; begin += blocks * W) {
    Vec<A> a[blocks] = {}, b[blocks] = {};
    for (int64_t i = 0; i < whole; i += period) {
#pragma GCC unroll 4
      for (int block = 0; block < blocks; ++block) {
        const int64_t p = begin + block * W;
        const auto [u, v] = term(i + p, p, W);
        a[block] += u;
        b[block] += v;
      }
    }
    for (int block = 0; block < blocks; ++block) {
      store(first + begin + block * W, a[block]);
      store(second + begin + block * W, b[block]);
    }
  }
  return whole;
}

// Two sums for each lane of the period: term(offset, p, lanes) gives the two addends of a vector. A short period keeps its
// sums in registers; a long one in the caller's arrays, whose chains of additions are far enough apart not to stall.
template <class A, class Term>
inline void accumulate(int64_t n, int64_t period, A* first, A* second, const Term& term) {
  constexpr int W = kLanes<A>;
  constexpr int64_t kShort = 4 * kPeriod;
  int64_t done = 0;
  if (period <= kShort && period % (4 * W) == 0) {
    done = accumulate_in_registers<4>(n, period, first, second, term);
  } else if (period <= kShort) {
    done = accumulate_in_registers<1>(n, period, first, second, term);
  } else {
    for (int64_t p = 0; p < period; p += W) {
      store(first + p, Vec<A>{});
      store(second + p, Vec<A>{});
    }
  }
  for_each_vector<A>(n - done, period, [&](int64_t offset, int64_t p, int lanes) {
    const auto [u, v] = term(done + offset, p, lanes);
    store(first + p, load(first + p) + u);
    store(second + p, load(second + p) + v);
  });
}

template <class T, class A = Compute<T>>
void moments(const T* x, int64_t n, int64_t period, const A* pivot, A* sum, A* square) {
  accumulate<A>(n, period, sum, square, [&](int64_t i, int64_t p, int lanes) {
    Vec<A> d = load_some(x + i, lanes) - load(pivot + p);
    if (lanes != kLanes<A>) d = keep_first<A>(d, lanes);
    return Pair<Vec<A>>{d, d * d};
  });
}

template <class T, Activation kind, class A = Compute<T>>
void forward(const T* x, T* y, int64_t n, int64_t period, const Parameters<A>& at) {
  const auto slope = Vec<A>{} + at.negative_slope;
  for_each_vector<A>(n, period, [&](int64_t i, int64_t p, int lanes) {
    const auto z = (load_some(x + i, lanes) - load(at.mean + p)) * load(at.scale + p) + load(at.shift + p);
    store_some(y + i, activate<kind>(z, slope), lanes);
  });
}

template <class T, Activation kind, class A = Compute<T>>
void backward_sums(const T* grad, const T* x, int64_t n, int64_t period, const Parameters<A>& at, A* sum, A* product) {
  const auto slope = Vec<A>{} + at.negative_slope;
  accumulate<A>(n, period, sum, product, [&](int64_t i, int64_t p, int lanes) {
    const auto d = load_some(x + i, lanes) - load(at.mean + p);
    // Lanes past the end have grad 0; but z there is arbitrary, and 0 * inf would not be 0.
    auto g = activate_grad<kind>(load_some(grad + i, lanes), d * load(at.scale + p) + load(at.shift + p), slope);
    if (lanes != kLanes<A>) g = keep_first<A>(g, lanes);
    return Pair<Vec<A>>{g, g * d};
  });
}

template <class T, Activation kind, class A = Compute<T>>
void backward(const T* grad, const T* x, T* grad_x, int64_t n, int64_t period, const Parameters<A>& at,
              const A* offset, const A* gradient_slope) {
  const auto slope = Vec<A>{} + at.negative_slope;
  for_each_vector<A>(n, period, [&](int64_t i, int64_t p, int lanes) {
    const auto d = load_some(x + i, lanes) - load(at.mean + p);
    const auto scale = load(at.scale + p);
    const auto g = activate_grad<kind>(load_some(grad + i, lanes), d * scale + load(at.shift + p), slope);
    store_some(grad_x + i, scale * g - load(offset + p) - load(gradient_slope + p) * d, lanes);
  });
}

template <class T, Activation kind, class A = Compute<T>>
void activate_in_place(T* y, int64_t n, A negative_slope) {
  const auto slope = Vec<A>{} + negative_slope;
  for_each_vector<A>(n, kLanes<A>, [&](int64_t i, int64_t, int lanes) {
    store_some(y + i, activate<kind>(load_some(y + i, lanes), slope), lanes);
  });
}

template <class T, Activation kind, class A = Compute<T>>
void activation_backward(const T* grad, const T* y, T* grad_x, int64_t n, A negative_slope) {
  const auto slope = Vec<A>{} + negative_slope;
  for_each_vector<A>(n, kLanes<A>, [&](int64_t i, int64_t, int lanes) {
    const auto g = activate_grad_from_output<kind>(load_some(grad + i, lanes), load_some(y + i, lanes), slope);
    store_some(grad_x + i, g, lanes);
  });
}

#define FASTGAN_EACH_ACTIVATION(kernel)                                                              \
  {                                                                                                  \
    kernel<T, Activation::none>, kernel<T, Activation::relu>, kernel<T, Activation::leaky_relu>,     \
        kernel<T, Activation::tanh>, kernel<T, Activation::sigmoid>                                  \
  }

template <class T>
constexpr Kernels<T> table() {
  return {moments<T>,
          FASTGAN_EACH_ACTIVATION(forward),
          FASTGAN_EACH_ACTIVATION(backward_sums),
          FASTGAN_EACH_ACTIVATION(backward),
          FASTGAN_EACH_ACTIVATION(activate_in_place),
          FASTGAN_EACH_ACTIVATION(activation_backward)};
}

}  // namespace

// One exported table an element type and instruction set.
#define FASTGAN_TABLE_NAME_(type, isa) kernels_##type##_##isa
#define FASTGAN_TABLE_NAME(type, isa) FASTGAN_TABLE_NAME_(type, isa)
#define FASTGAN_TABLE(type) extern const Kernels<type> FASTGAN_TABLE_NAME(type, FASTGAN_ISA) = table<type>();
FASTGAN_TABLE(float)
FASTGAN_TABLE(double)
FASTGAN_TABLE(BFloat16)
FASTGAN_TABLE(Half)

}  // namespace fastgan::batch_norm_act

#include "batch_norm_act/kernels.h"
#include "common/vec.h"

namespace fastgan::batch_norm_act {
namespace {

constexpr int64_t kTileBytes = 4096;  // of each tensor: read column by column it has to stay in a first-level cache

// Walks a run tile by tile, and inside a tile column by column. at(p) gives what handles the steps at p of the period, with
// their parameters in its registers, and is called as (offset in the run, valid elements).
template <class T, class At>
inline void for_each_step(int64_t n, int64_t period, const At& at, const T* from, const T* other = nullptr) {
  constexpr int W = kStep<T>;
  constexpr int64_t kTile = kTileBytes / sizeof(T);
  const int64_t whole = n - n % period, tile = period < kTile ? kTile / period * period : period;
  // What is read is asked for some tiles ahead, in the order that it lies in: column by column, a processor does not see it coming.
  int64_t ahead = 2 * kTile;
  for (int64_t begin = 0; begin < whole; begin += tile) {
    const int64_t end = whole - begin < tile ? whole : begin + tile;
    for (int64_t p = 0; p < period; p += W) {
      auto column = at(p);
      for (int64_t i = begin + p; i < end; i += period, ahead += W) {
        __builtin_prefetch(from + ahead);
        if (other) __builtin_prefetch(other + ahead);
        column(i, W);
      }
    }
  }
  for (int64_t i = whole; i < n; i += W) at(i - whole)(i, n - i < W ? static_cast<int>(n - i) : W);
}

// Two sums for each element of the period: terms(p) gives what finds the two addends of a step at p.
template <class T, class Terms>
inline void accumulate(int64_t n, int64_t period, Compute<T>* first, Compute<T>* second, const Terms& terms, const T* from,
                       const T* other) {
  using V = typename Step<T>::V;
  struct Column {
    decltype(terms(0)) term;
    Compute<T>*first, *second;
    Step<T> sums, others;

    Column(const Terms& terms, Compute<T>* first, Compute<T>* second, int64_t p)
        : term(terms(p)), first(first + p), second(second + p), sums(load_parameters<T>(this->first)),
          others(load_parameters<T>(this->second)) {}
    Column(const Column&) = delete;
    ~Column() {
      store_parameters<T>(first, sums);
      store_parameters<T>(second, others);
    }
    void operator()(int64_t i, int count) {
      const auto [u, v] = term(i, count);
      const auto add = [](V a, V b) { return a + b; };
      sums = map(add, sums, u);
      others = map(add, others, v);
    }
  };
  for (int64_t p = 0; p < period; ++p) first[p] = second[p] = 0;
  for_each_step<T>(n, period, [=](int64_t p) { return Column(terms, first, second, p); }, from, other);
}

template <class S>
struct Two {
  S first, second;
};

// The parameters of the steps at p.
template <class T>
struct Normalise {
  using V = typename Step<T>::V;
  Step<T> mean, scale, shift;
  V slope;

  Normalise(const Parameters<Compute<T>>& at, int64_t p)
      : mean(load_parameters<T>(at.mean + p)),
        scale(load_parameters<T>(at.scale + p)),
        shift(load_parameters<T>(at.shift + p)),
        slope(V{} + at.negative_slope) {}
};

// Adds up term(where a step begins) over `rows` steps, in as many chains as hide an addition's latency.
template <class T, class Term>
inline Step<T> sum_rows(const T* x, int64_t rows, int64_t stride, const Term& term) {
  using V = typename Step<T>::V;
  constexpr int kChains = 4 / kParts<T>;
  const auto add = [](V a, V b) { return a + b; };
  Step<T> sums[kChains] = {};
  int64_t row = 0;
  for (; row + kChains <= rows; row += kChains) {
    for (int i = 0; i < kChains; ++i) sums[i] = map(add, sums[i], term(x + (row + i) * stride));
  }
  for (; row < rows; ++row) sums[0] = map(add, sums[0], term(x + row * stride));
  for (int i = 1; i < kChains; ++i) sums[0] = map(add, sums[0], sums[i]);
  return sums[0];
}

// What the elements of a lane are measured from before they are summed: one of themselves, since float32 cannot hold a sum
// and the digits below a large mean at once. Those of a shorter type it can.
template <class T>
inline Step<T> origin_of(const Step<T>& first) {
  using V = typename Step<T>::V;
  if constexpr (sizeof(T) < sizeof(Compute<T>)) return {};
  return map([](V x) { return x - x == V{} ? x : V{}; }, first);  // neither infinity nor NaN
}

// Two passes over a tile, the first for its mean: so nothing cancels, wherever the values lie. The tiles are merged by Chan,
// Golub and LeVeque, 1979.
template <class T, class A = Compute<T>>
void moments(const T* x, int64_t n, int64_t period, A* origins, A* means, A* squares) {
  using V = Vec<A>;
  constexpr int64_t kBytes = 8 * kTileBytes, kFewestRows = 8;  // a merge costs as much as some rows
  const int64_t rows = n / period, fit = kBytes / static_cast<int64_t>(sizeof(T)) / period;
  const int64_t tile = fit < kFewestRows ? kFewestRows : fit;
  for (int64_t before = 0; before < rows; before += tile) {
    const int64_t count = rows - before < tile ? rows - before : tile;
    const A share = static_cast<A>(count) / static_cast<A>(before + count), weight = static_cast<A>(before) * share;
    for (int64_t p = 0; p < period; p += kStep<T>) {
      const T* from = x + before * period + p;
      const auto origin = origin_of(load_step(x + p));
      const auto minus = [](V x, V y) { return x - y; };
      auto mean = sum_rows(from, count, period, [=](const T* x) { return map(minus, load_step(x), origin); });
      mean = map([=](V sum) { return sum / static_cast<A>(count); }, mean);  // exact where all are equal
      const auto middle = map([](V origin, V mean) { return origin + mean; }, origin, mean);
      auto square = sum_rows(from, count, period, [=](const T* x) {
        __builtin_prefetch(x + tile * period, 0, 2);  // into the second level: memory has nothing else to do now
        return map([](V d) { return d * d; }, map(minus, load_step(x), middle));
      });
      if (before > 0) {
        const auto old = load_parameters<T>(means + p);
        const auto add = [=](V q, V total, V m, V old) { return total + q + (m - old) * (m - old) * weight; };
        square = map(add, square, load_parameters<T>(squares + p), mean, old);
        const auto move = [=](V m, V old) {
          const V step = (m - old) * share;
          return step - step == V{} ? old + step : old + m;  // an infinite mean stays infinite, as in a plain sum
        };
        mean = map(move, mean, old);
      }
      store_parameters<T>(origins + p, origin);
      store_parameters<T>(means + p, mean);
      store_parameters<T>(squares + p, square);
    }
  }
}

template <class T, Activation kind, class A = Compute<T>>
void forward(const T* x, T* y, int64_t n, int64_t period, const Parameters<A>& at) {
  using V = Vec<A>;
  for_each_step<T>(n, period, [&](int64_t p) {
    return [=, by = Normalise<T>(at, p)](int64_t i, int count) {
      const auto one = [&](V x, V mean, V scale, V shift) {
        return activate<kind>((x - mean) * scale + shift, by.slope);
      };
      store_some(y + i, map(one, load_some(x + i, count), by.mean, by.scale, by.shift), count);
    };
  }, x);
}

template <class T, Activation kind, class A = Compute<T>>
void backward_sums(const T* grad, const T* x, int64_t n, int64_t period, const Parameters<A>& at, A* sum, A* product) {
  using V = Vec<A>;
  accumulate<T>(n, period, sum, product, [&](int64_t p) {
    return [=, by = Normalise<T>(at, p)](int64_t i, int count) {
      const auto d = map([](V x, V mean) { return x - mean; }, load_some(x + i, count), by.mean);
      const auto one = [&](V grad, V d, V scale, V shift) {
        return activate_grad<kind>(grad, d * scale + shift, by.slope);
      };
      const auto g = map(one, load_some(grad + i, count), d, by.scale, by.shift);  // past the end, grad is 0
      return Two<Step<T>>{g, map([](V g, V d) { return g * d; }, g, d)};
    };
  }, grad, x);
}

template <class T, Activation kind, class A = Compute<T>>
void backward(const T* grad, const T* x, T* grad_x, int64_t n, int64_t period, const Parameters<A>& at,
              const A* offset, const A* gradient_slope) {
  using V = Vec<A>;
  for_each_step<T>(n, period, [&](int64_t p) {
    return [=, by = Normalise<T>(at, p), constant = load_parameters<T>(offset + p),
            factor = load_parameters<T>(gradient_slope + p)](int64_t i, int count) {
      const auto one = [&](V grad, V x, V mean, V scale, V shift, V constant, V factor) {
        const V d = x - mean;
        const V g = activate_grad<kind>(grad, d * scale + shift, by.slope);
        return scale * g - constant - factor * d;
      };
      store_some(grad_x + i,
                 map(one, load_some(grad + i, count), load_some(x + i, count), by.mean, by.scale, by.shift, constant,
                     factor),
                 count);
    };
  }, grad, x);
}

template <class T, Activation kind, class A = Compute<T>>
void activate_in_place(T* y, int64_t n, A negative_slope) {
  using V = Vec<A>;
  const V slope = V{} + negative_slope;
  for_each_step<T>(n, kStep<T>, [=](int64_t) {
    return [=](int64_t i, int count) {
      store_some(y + i, map([=](V z) { return activate<kind>(z, slope); }, load_some(y + i, count)), count);
    };
  }, y);
}

template <class T, Activation kind, class A = Compute<T>>
void activation_backward(const T* grad, const T* y, T* grad_x, int64_t n, A negative_slope) {
  using V = Vec<A>;
  const V slope = V{} + negative_slope;
  for_each_step<T>(n, kStep<T>, [=](int64_t) {
    return [=](int64_t i, int count) {
      const auto one = [=](V grad, V y) { return activate_grad_from_output<kind>(grad, y, slope); };
      store_some(grad_x + i, map(one, load_some(grad + i, count), load_some(y + i, count)), count);
    };
  }, grad, y);
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

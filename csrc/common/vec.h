// Vectors of the compute type (float or double) as wide as the instruction set allows, on GNU vector extensions.
//
// Included only by *_kernels.cpp, which is compiled once for each instruction set. Everything here has internal linkage:
// an inline function with external linkage, compiled for AVX-512, could be the copy that the linker keeps for all.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if FASTGAN_X86
#include <immintrin.h>
#endif

#include "common/element.h"

namespace fastgan {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * lanes)));
};

template <class A>
using Vec = typename VectorOf<A, kVectorBytes / sizeof(A)>::type;

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

template <class T, int lanes>
using VecN = typename VectorOf<T, lanes>::type;

template <class V>
inline V load_raw(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// ---- load and store, converting to and from the compute type ---------------------------------------------------------

inline Vec<float> load(const float* from) { return load_raw<Vec<float>>(from); }
inline Vec<double> load(const double* from) { return load_raw<Vec<double>>(from); }

inline Vec<float> load(const Half* from) {
#if defined(__AVX512F__)
  return bits_as<Vec<float>>(_mm512_cvtph_ps(load_raw<__m256i>(from)));
#elif defined(__F16C__) && defined(__AVX2__)
  return bits_as<Vec<float>>(_mm256_cvtph_ps(load_raw<__m128i>(from)));
#else
  Vec<float> value;
  for (int lane = 0; lane < kLanes<float>; ++lane) value[lane] = half_to_float(from[lane].bits);
  return value;
#endif
}

inline void store(float* to, Vec<float> value) { std::memcpy(to, &value, sizeof(value)); }
inline void store(double* to, Vec<double> value) { std::memcpy(to, &value, sizeof(value)); }

inline void store(Half* to, Vec<float> value) {
#if defined(__AVX512F__)
  const __m256i packed = _mm512_cvtps_ph(bits_as<__m512>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(to, &packed, sizeof(packed));
#elif defined(__F16C__) && defined(__AVX2__)
  const __m128i packed = _mm256_cvtps_ph(bits_as<__m256>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(to, &packed, sizeof(packed));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) to[lane].bits = float_to_half(value[lane]);
#endif
}

inline void store(BFloat16* to, Vec<float> value) {
#if defined(__AVX512BF16__)
  const auto packed = _mm512_cvtneps_pbh(bits_as<__m512>(value));
  std::memcpy(to, &packed, sizeof(packed));
#else
  for (int lane = 0; lane < kLanes<float>; ++lane) to[lane] = from_compute<BFloat16>(value[lane]);
#endif
}

// ---- what one step of a kernel works on -------------------------------------------------------------------------------

// Two vectors where an element is half as wide as its compute type and can be widened without being moved: the even
// elements in the first, the odd ones in the second. Otherwise one.
template <class T>
constexpr int kParts = 1;
template <>
constexpr int kParts<BFloat16> = 2;

template <class T>
constexpr int kStep = kParts<T> * kLanes<Compute<T>>;  // elements

template <class T>
struct Step {
  using V = Vec<Compute<T>>;
  V part[kParts<T>];
};

// part by part: combine(f, a, b, ...) = f(a, b, ...)
template <class T, class F, class... Steps>
inline Step<T> map(const F& f, const Step<T>& first, const Steps&... others) {
  Step<T> result;
  for (int i = 0; i < kParts<T>; ++i) result.part[i] = f(first.part[i], others.part[i]...);
  return result;
}

template <class T>
inline Step<T> load_step(const T* from) {
  return {load(from)};
}

template <>
inline Step<BFloat16> load_step(const BFloat16* from) {
  const auto pairs = load_raw<VecN<uint32_t, kLanes<float>>>(from);
  return {bits_as<Vec<float>>(pairs << 16), bits_as<Vec<float>>(pairs & 0xffff0000u)};
}

template <class T>
inline void store_step(T* to, const Step<T>& value) {
  store(to, value.part[0]);
}

#if defined(__AVX512BF16__)
template <>
inline void store_step(BFloat16* to, const Step<BFloat16>& value) {  // as below, but subnormals are taken for 0
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto halves = _mm512_cvtne2ps_pbh(bits_as<__m512>(value.part[1]), bits_as<__m512>(value.part[0]));
  const auto pairs = _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), bits_as<__m512i>(halves));
  std::memcpy(to, &pairs, sizeof(pairs));
}
#else
template <>
inline void store_step(BFloat16* to, const Step<BFloat16>& value) {  // rounds to nearest, ties to even; NaN stays NaN
  const auto rounded = [](Vec<float> x) {
    const auto bits = bits_as<VecN<uint32_t, kLanes<float>>>(x);
    return x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : (bits | 0x400000u);
  };
  const auto pairs = (rounded(value.part[0]) >> 16) | (rounded(value.part[1]) & 0xffff0000u);
  std::memcpy(to, &pairs, sizeof(pairs));
}
#endif

// Per-element values of the compute type, in a step's order.
template <class T>
inline Step<T> load_parameters(const Compute<T>* from) {
  if constexpr (kParts<T> == 1) {
    return {load(from)};
  } else {
    Step<T> result;
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      for (int i = 0; i < 2; ++i) result.part[i][lane] = from[2 * lane + i];
    }
    return result;
  }
}

template <class T>
inline void store_parameters(Compute<T>* to, const Step<T>& value) {
  if constexpr (kParts<T> == 1) {
    store(to, value.part[0]);
  } else {
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      for (int i = 0; i < 2; ++i) to[2 * lane + i] = value.part[i][lane];
    }
  }
}

// The first `count` elements; the others are zero.
template <class T>
inline Step<T> load_some(const T* from, int count) {
  if (count == kStep<T>) return load_step(from);
  T padded[kStep<T>] = {};
  std::memcpy(padded, from, sizeof(T) * count);
  return load_step(static_cast<const T*>(padded));
}

template <class T>
inline void store_some(T* to, const Step<T>& value, int count) {
  if (count == kStep<T>) return store_step(to, value);
  T padded[kStep<T>];
  store_step(static_cast<T*>(padded), value);
  std::memcpy(to, padded, sizeof(T) * count);
}

// ---- functions --------------------------------------------------------------------------------------------------------

// exp for float lanes: 2^n times a degree-6 polynomial on |r| <= ln(2)/2; within 2 units in the last place, and 0 or
// infinity beyond the range.
inline Vec<float> exp_of(Vec<float> x) {
  constexpr int lanes = kLanes<float>;
  using V = Vec<float>;
  const V low = V{} - 87.33654f, high = V{} + 88.72283f;
  const V clamped = x < low ? low : (x > high ? high : x);
  const V n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;  // nearest integer: 1.5 * 2^23 has no fraction bits
  V r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = V{} + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // In two steps, so that 2^128 is never formed.
  const auto exponent = __builtin_convertvector(n, VecN<int32_t, lanes>);
  const auto half_exponent = exponent >> 1;
  const V scale_a = bits_as<V>((half_exponent + 127) << 23);
  const V scale_b = bits_as<V>((exponent - half_exponent + 127) << 23);
  const V y = p * scale_a * scale_b;
  const V bounded = x < low ? V{} : (x > high ? V{} + std::numeric_limits<float>::infinity() : y);
  return x == x ? bounded : x;
}

inline Vec<double> exp_of(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

inline Vec<float> tanh_of(Vec<float> x) {
  using V = Vec<float>;
  const V magnitude = x < V{} ? -x : x;
  const V e = exp_of(magnitude * -2.0f);
  const V large = (1.0f - e) / (1.0f + e);
  // Near zero the difference above cancels: the odd Taylor polynomial holds to 1e-8 for |x| < 0.35.
  const V s = x * x;
  V p = V{} - 1382.0f / 155925.0f;
  p = p * s + 62.0f / 2835.0f;
  p = p * s - 17.0f / 315.0f;
  p = p * s + 2.0f / 15.0f;
  p = p * s - 1.0f / 3.0f;
  const V small = x + x * s * p;
  const V y = magnitude < V{} + 0.35f ? small : (x < V{} ? -large : large);
  return x == x ? y : x;
}

inline Vec<double> tanh_of(Vec<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::tanh(x[lane]);
  return x;
}

template <class V>
inline V sigmoid_of(V x) {
  // From exp of a negative number only, so that nothing overflows; exp(x)/(1+exp(x)) keeps small values exact.
  const V e = exp_of(x < V{} ? x : -x);
  return (x < V{} ? e : V{} + 1) / (e + 1);
}

}  // namespace
}  // namespace fastgan

#include "common/activate.h"

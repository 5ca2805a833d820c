// The element types in memory, and the type in which each is computed.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fastgan {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

template <class T>
inline constexpr const char* kElementName = "";
template <>
inline constexpr const char* kElementName<float> = "float32";
template <>
inline constexpr const char* kElementName<double> = "float64";
template <>
inline constexpr const char* kElementName<BFloat16> = "bfloat16";
template <>
inline constexpr const char* kElementName<Half> = "float16";

// Internal linkage, because files compiled for different instruction sets include this (see common/vec.h).
namespace {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Scaling by a power of two renormalises subnormals exactly.
  return bits_as<float>(sign | bits_as<uint32_t>(bits_as<float>(magnitude << 13) * 0x1p112f));
}

inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or beyond
  if (magnitude < 0x38800000u) {                        // subnormal: let the addition round at 2^-24
    return sign | uint16_t(bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u);
  }
  return sign | uint16_t((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

inline float to_compute(float value) { return value; }
inline double to_compute(double value) { return value; }
inline float to_compute(Half value) { return half_to_float(value.bits); }
inline float to_compute(BFloat16 value) { return bits_as<float>(uint32_t(value.bits) << 16); }

template <class T>
inline T from_compute(Compute<T> value) {
  if constexpr (std::is_same_v<T, Half>) {
    return {float_to_half(value)};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if (value != value) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
  } else {
    return value;
  }
}

}  // namespace
}  // namespace fastgan

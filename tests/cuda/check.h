// What the programs of this folder share: random tensors of a dtype, and errors against float64.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "common/device.cuh"

namespace check {

using fastgan::from_compute;
using fastgan::to_compute;

// Largest error as norm(a - b) / max(norm(b), 1). That of 16-bit dtypes is of rounding a result once.
template <class T>
constexpr double kLimit = std::is_same_v<T, double>         ? 1e-12
                          : std::is_same_v<T, float>        ? 1e-5
                          : std::is_same_v<T, __half>       ? 5e-4
                                                            : 4e-3;

inline std::mt19937& random() {
  static std::mt19937 generator(1);
  return generator;
}

// Exactly n elements, so that a sanitizer sees the first access beyond; aligned as torch aligns them.
template <class T>
std::vector<T> draw(int64_t n, double scale = 1.0, double offset = 0.0) {
  std::normal_distribution<double> normal(offset, scale);
  std::vector<T> values(n);
  for (T& value : values) value = from_compute<T>(static_cast<fastgan::Compute<T>>(normal(random())));
  return values;
}

// What is to be overwritten holds this before.
template <class T>
std::vector<T> unwritten(int64_t n) {
  return std::vector<T>(n, from_compute<T>(std::numeric_limits<fastgan::Compute<T>>::quiet_NaN()));
}

template <class T>
std::vector<double> wide(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T& value : values) result.push_back(to_compute(value));
  return result;
}

template <class T>
void close(const std::string& what, const std::vector<T>& found, const std::vector<double>& truth, double limit) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double d = to_compute(found[i]) - truth[i];
    difference += d * d;
    norm += truth[i] * truth[i];
  }
  const double error = std::sqrt(difference) / std::fmax(std::sqrt(norm), 1.0);
  if (found.size() == truth.size() && error <= limit) return;
  std::fprintf(stderr, "wrong: %s: error %g, at most %g\n", what.c_str(), error, limit);
  std::exit(1);
}

inline void holds(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

// Calls body with a value of each dtype, and its name.
template <class Body>
void for_each_dtype(const Body& body) {
  body(double{}, "float64");
  body(float{}, "float32");
  body(__half{}, "float16");
  body(__nv_bfloat16{}, "bfloat16");
}

}  // namespace check

// Argument checks: each failure is a sentence that names the argument, what was given, and what is allowed.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "common/tensor.h"

namespace fastgan {

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "fastgan." << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

#define FASTGAN_CHECK(op, condition, ...) \
  do {                                    \
    if (!(condition)) ::fastgan::fail(op, __VA_ARGS__); \
  } while (0)

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return "float64";
    case ScalarType::Float: return "float32";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    default: return "a dtype that is not floating point";
  }
}

inline std::string shape_text(const Outline& tensor) {
  std::ostringstream text;
  text << '[';
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) text << (dim ? ", " : "") << tensor.size(dim);
  text << ']';
  return text.str();
}

inline bool is_supported_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor) {
  FASTGAN_CHECK(op, is_supported_dtype(tensor.scalar_type()), "argument '", name, "' has dtype ",
                dtype_name(tensor.scalar_type()), "; float64, float32, float16 and bfloat16 are supported.");
}

inline void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& input) {
  FASTGAN_CHECK(op, tensor.device() == input.device(), "argument '", name,
                "' is on another device than 'input'; move both to one device.");
}

// A per-channel parameter or buffer: one dimension of `channels` elements.
inline void check_channels(const char* op, const char* name, const OptionalTensor& tensor, int64_t channels,
                           const Tensor& input) {
  if (!tensor) return;
  check_dtype(op, name, *tensor);
  check_like(op, name, *tensor, input);
  FASTGAN_CHECK(op, tensor->dim() == 1 && tensor->size(0) == channels, "argument '", name, "' has shape ",
                shape_text(*tensor), "; with ", channels, " channels it must be [", channels, "].");
}

inline void check_same(const char* op, const char* name, const Tensor& tensor, const Tensor& input) {
  check_like(op, name, tensor, input);
  FASTGAN_CHECK(op, tensor.scalar_type() == input.scalar_type(), "argument '", name, "' has dtype ",
                dtype_name(tensor.scalar_type()), " but 'input' has ", dtype_name(input.scalar_type()),
                "; give both the same dtype.");
  FASTGAN_CHECK(op, sizes_of(tensor) == sizes_of(input), "argument '", name, "' has shape ", shape_text(tensor),
                " but 'input' has ", shape_text(input), "; the shapes must be equal.");
}

}  // namespace fastgan

#include "common/vec.h"
#include "conv/winograd.h"

namespace fastgan::conv {
namespace {

template <int rows, int columns>
struct Matrix {
  static constexpr int kRows = rows, kColumns = columns;
  double at[rows][columns];
};

// The matrices of F(m, 2) from m points and infinity (Toom and Cook). These points lose the least in float32 of those tried:
// 0, 1, -1, 2, the usual ones, lose half a digit more.
template <int m>
struct Points {
  static constexpr double at[4] = {0, -1, 0.5, 2};
  static_assert(m <= 4);

  static constexpr double scale(int j) {  // of row j: the product of its distances
    double product = 1;
    for (int i = 0; i < m; ++i) product *= i == j ? 1 : at[j] - at[i];
    return product;
  }

  // Row j holds the coefficients of the polynomial with its zeros at all finite points but the j-th.
  static constexpr Matrix<m + 1, m + 1> inputs() {
    Matrix<m + 1, m + 1> b{};
    for (int j = 0; j <= m; ++j) {
      b.at[j][0] = 1;
      for (int i = 0, degree = 0; i < m; ++i) {
        if (i == j) continue;
        ++degree;
        for (int k = degree; k > 0; --k) b.at[j][k] = b.at[j][k - 1] - at[i] * b.at[j][k];
        b.at[j][0] *= -at[i];
      }
    }
    return b;
  }

  static constexpr Matrix<m + 1, 2> taps() {
    Matrix<m + 1, 2> g{};
    for (int j = 0; j < m; ++j) {
      g.at[j][0] = 1 / scale(j);
      g.at[j][1] = at[j] / scale(j);
    }
    g.at[m][1] = 1;
    return g;
  }

  static constexpr Matrix<m, m + 1> products() {
    Matrix<m, m + 1> a{};
    for (int j = 0; j < m; ++j) {
      double power = 1;
      for (int i = 0; i < m; ++i, power *= at[j]) a.at[i][j] = power;
    }
    a.at[m - 1][m] = 1;
    return a;
  }
};

template <int rows, int columns>
constexpr Matrix<columns, rows> transposed(const Matrix<rows, columns>& matrix) {
  Matrix<columns, rows> result{};
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) result.at[c][r] = matrix.at[r][c];
  }
  return result;
}

template <int m>
struct Inputs {
  static constexpr auto matrix = Points<m>::inputs();
};
template <int m>
struct Taps {
  static constexpr auto matrix = Points<m>::taps();
};
template <int m>
struct Products {
  static constexpr auto matrix = Points<m>::products();
};
template <int m>
struct Grads {
  static constexpr auto matrix = transposed(Points<m>::products());
};
template <int m>
struct TapGrads {
  static constexpr auto matrix = transposed(Points<m>::taps());
};

using V = Vec<float>;

// Row r of the matrix times the vectors; only the terms that are not zero.
template <class M, int r, int terms = M::matrix.kColumns>
inline bool dot(const V* in, int64_t stride, V& sum) {
  if constexpr (terms == 0) {
    return false;
  } else {
    const bool begun = dot<M, r, terms - 1>(in, stride, sum);
    constexpr auto factor = static_cast<float>(M::matrix.at[r][terms - 1]);
    const V value = in[(terms - 1) * stride];
    if constexpr (factor == 0) return begun;
    if constexpr (factor == 1) {
      sum = begun ? sum + value : value;
    } else if constexpr (factor == -1) {
      sum = begun ? sum - value : -value;
    } else {
      sum = begun ? sum + factor * value : factor * value;
    }
    return true;
  }
}

template <class M, int r = 0>
inline void multiply(const V* in, int64_t in_stride, V* out, int64_t out_stride) {
  if constexpr (r < M::matrix.kRows) {
    V sum = {};
    dot<M, r>(in, in_stride, sum);
    out[r * out_stride] = sum;
    multiply<M, r + 1>(in, in_stride, out, out_stride);
  }
}

template <class M>
void transform(const float* in, int64_t in_row, int64_t in_pixel, int64_t in_panel, int64_t panels, int64_t columns,
               float* out, int64_t out_row, int64_t out_pixel, int64_t out_panel) {
  constexpr int kIn = M::matrix.kColumns, kOut = M::matrix.kRows;
  for (int64_t panel = 0; panel < panels; ++panel, in += in_panel, out += out_panel) {
    for (int64_t lane = 0; lane < columns; lane += kLanes<float>) {
      V half[kOut][kIn];
#pragma GCC unroll 8
      for (int x = 0; x < kIn; ++x) {
        V column[kIn];
#pragma GCC unroll 8
        for (int y = 0; y < kIn; ++y) column[y] = load(in + lane + y * in_row + x * in_pixel);
        multiply<M>(column, 1, &half[0][x], kIn);
      }
#pragma GCC unroll 8
      for (int y = 0; y < kOut; ++y) {
        V row[kOut];
        multiply<M>(half[y], 1, row, 1);
#pragma GCC unroll 8
        for (int x = 0; x < kOut; ++x) store(out + lane + y * out_row + x * out_pixel, row[x]);
      }
    }
  }
}

template <int m>
constexpr Winograd winograd() {
  return {m, transform<Inputs<m>>, transform<Taps<m>>, transform<Products<m>>, transform<Grads<m>>, transform<TapGrads<m>>};
}

}  // namespace

#define FASTGAN_WINOGRADS_NAME_(isa) winograds_##isa
#define FASTGAN_WINOGRADS_NAME(isa) FASTGAN_WINOGRADS_NAME_(isa)
extern const Winograds FASTGAN_WINOGRADS_NAME(FASTGAN_ISA) = {{winograd<2>(), winograd<3>(), winograd<4>()}};

}  // namespace fastgan::conv

// What stands between the products of a layer: RMS norm, rotary positions, SiLU times gate.
#pragma once

#include "../native/simd.hpp"

namespace ff {

// y = weight * x / sqrt(mean(x^2) + eps); a row's sum has one order, lanes first.
FF_INLINE void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
  vf squares = set1(0.0f);
  int64_t i = 0;
  for (; i + VL <= n; i += VL) {
    const vf v = load(x + i);
    squares = fma(v, v, squares);
  }
  float total = sum(squares);
  for (; i < n; ++i) total = std::fma(x[i], x[i], total);
  const float scale = 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
  for (i = 0; i + VL <= n; i += VL) store(y + i, load(weight + i) * (load(x + i) * set1(scale)));
  for (; i < n; ++i) y[i] = weight[i] * (x[i] * scale);
}

// Rotate pairs (i, i + dim / 2) of one head by the angles of its position, in place.
FF_INLINE void rotate(float* x, const float* cosine, const float* sine, int64_t dim) {
  const int64_t half = dim / 2;
  int64_t i = 0;
  for (; i + VL <= half; i += VL) {
    const vf a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cosine[i] - b * sine[i];
    x[half + i] = b * cosine[i] + a * sine[i];
  }
}

// up * gate / (1 + exp(-gate)), for n numbers.
FF_INLINE void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
  const vf one = set1(1.0f);
  int64_t i = 0;
  for (; i + VL <= n; i += VL) {
    const vf g = load(gate + i), minus = -g < set1(87.0f) ? -g : set1(87.0f);
    store(y + i, load(up + i) * (g / (one + exp(minus))));
  }
  for (; i < n; ++i) {
    const float minus = -gate[i] < 87.0f ? -gate[i] : 87.0f;
    y[i] = up[i] * (gate[i] / (1.0f + exp(minus)));
  }
}

}  // namespace ff

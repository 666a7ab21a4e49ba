// Bring a matrix into tiles, once; and back, for embeddings and tests.
#pragma once

#include <cstring>

#include "cpu.hpp"

namespace ff {

enum Source : int32_t { FLOATS = 0, BF16S = 1, Q4_1_BLOCKS = 2, Q8_0_BLOCKS = 3, Q4_0_BLOCKS = 4 };

struct Q4_1 {
  uint16_t d, m;
  uint8_t q[16];  // inputs 0..15 in the low, 16..31 in the high halves
};
struct Q4_0 {
  uint16_t d;
  uint8_t q[16];
};
struct Q8_0 {
  uint16_t d;
  int8_t q[32];
};

// A group of 32 inputs of one output: value = d * q + m (Q8: d * q).
struct Group {
  uint16_t d = 0, m = 0;
  int32_t q[GROUP] = {};
};

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, rest = h & 0x7fffu;
  uint32_t bits = rest << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  value *= 5.192296858534828e33f;
  std::memcpy(&bits, &value, 4);
  if (rest >= 0x7c00u) bits = 0x7f800000u | (rest << 13);
  bits |= sign;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Round to float16, ties to even; for scales, which are finite and small.
inline uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  float size = std::fabs(x);
  if (size >= 65520.0f) return sign | 0x7c00u;
  if (size < 6.103515625e-05f) {
    return sign | static_cast<uint16_t>(std::nearbyint(size * 16777216.0f));
  }
  std::memcpy(&bits, &size, 4);
  bits += 0xfffu + ((bits >> 13) & 1u);
  return sign | static_cast<uint16_t>((bits >> 13) - (112u << 10));
}

inline float source_at(int32_t kind, const void* source, int64_t at) {
  return kind == FLOATS ? static_cast<const float*>(source)[at]
                        : from_bf16(static_cast<const uint16_t*>(source)[at]);
}

// Round a group to 4 bits between its extremes, or to 8 bits around 0.
inline Group rounded_group(int32_t format, const float* x) {
  Group g;
  if (format == Q4) {
    float low = x[0], high = x[0];
    for (int i = 1; i < GROUP; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
    g.d = float_to_half((high - low) / 15.0f);
    g.m = float_to_half(low);
    const float d = half_to_float(g.d), m = half_to_float(g.m);
    for (int i = 0; i < GROUP; ++i)
      g.q[i] = d > 0 ? std::clamp(static_cast<int32_t>(std::nearbyint((x[i] - m) / d)), 0, 15) : 0;
  } else {
    float top = 0;
    for (int i = 0; i < GROUP; ++i) top = std::max(top, std::fabs(x[i]));
    g.d = float_to_half(top / 127.0f);
    const float d = half_to_float(g.d);
    for (int i = 0; i < GROUP; ++i)
      g.q[i] = d > 0 ? std::clamp(static_cast<int32_t>(std::nearbyint(x[i] / d)), -127, 127) : 0;
  }
  return g;
}

inline Group group_of(int32_t format, int32_t kind, const void* source, int64_t in, int64_t row,
                      int64_t index) {
  Group g;
  const int64_t block = row * (in / GROUP) + index;
  if (kind == Q4_1_BLOCKS) {
    const Q4_1& b = static_cast<const Q4_1*>(source)[block];
    g.d = b.d, g.m = b.m;
    for (int i = 0; i < 16; ++i) g.q[i] = b.q[i] & 15, g.q[i + 16] = b.q[i] >> 4;
  } else if (kind == Q4_0_BLOCKS) {
    const Q4_0& b = static_cast<const Q4_0*>(source)[block];
    g.d = b.d, g.m = float_to_half(-8.0f * half_to_float(b.d));
    for (int i = 0; i < 16; ++i) g.q[i] = b.q[i] & 15, g.q[i + 16] = b.q[i] >> 4;
  } else if (kind == Q8_0_BLOCKS) {
    const Q8_0& b = static_cast<const Q8_0*>(source)[block];
    g.d = b.d;
    for (int i = 0; i < GROUP; ++i) g.q[i] = b.q[i];
  } else {
    float x[GROUP] = {};
    const int64_t at = index * GROUP, n = std::min<int64_t>(GROUP, in - at);
    for (int64_t i = 0; i < n; ++i) x[i] = source_at(kind, source, row * in + at + i);
    // What pads a group must not stretch its range.
    for (int64_t i = n; i < GROUP; ++i) x[i] = x[0];
    g = rounded_group(format, x);
  }
  return g;
}

inline void put_group(int32_t format, const Group& g, int lane, uint8_t* to) {
  std::memcpy(to + lane * 2, &g.d, 2);
  if (format == Q4) {
    std::memcpy(to + 2 * VL + lane * 2, &g.m, 2);
    uint8_t* numbers = to + 4 * VL;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < 4; ++i)
        numbers[(j * VL + lane) * 4 + i] =
            static_cast<uint8_t>(g.q[8 * j + i] | (g.q[8 * j + 4 + i] << 4));
  } else {
    uint8_t* numbers = to + 2 * VL;
    for (int j = 0; j < 8; ++j)
      for (int i = 0; i < 4; ++i)
        numbers[(j * VL + lane) * 4 + i] = static_cast<uint8_t>(g.q[4 * j + i] + 128);
  }
}

inline Group take_group(int32_t format, const uint8_t* from, int lane) {
  Group g;
  std::memcpy(&g.d, from + lane * 2, 2);
  if (format == Q4) {
    std::memcpy(&g.m, from + 2 * VL + lane * 2, 2);
    const uint8_t* numbers = from + 4 * VL;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < 4; ++i) {
        const uint8_t both = numbers[(j * VL + lane) * 4 + i];
        g.q[8 * j + i] = both & 15, g.q[8 * j + 4 + i] = both >> 4;
      }
  } else {
    const uint8_t* numbers = from + 2 * VL;
    for (int j = 0; j < 8; ++j)
      for (int i = 0; i < 4; ++i) g.q[4 * j + i] = numbers[(j * VL + lane) * 4 + i] - 128;
  }
  return g;
}

// Pack `out` rows of a source; the packed memory is zero before.
inline void pack(int32_t format, int32_t kind, const void* source, int64_t out, int64_t in, void* data,
                 float* scales) {
  const int width = tile_of(format);
  const int64_t bytes = tile_bytes(format, in), groups = padded_inputs(format, in) / GROUP;
  for (int64_t row = 0; row < out; ++row) {
    uint8_t* tile = static_cast<uint8_t*>(data) + row / width * bytes;
    const int lane = static_cast<int>(row % width);
    if (format >= Q4) {
      for (int64_t g = 0; g < groups; ++g)
        put_group(format, group_of(format, kind, source, in, row, g), lane,
                  tile + g * group_bytes(format));
      continue;
    }
    float step = 0;
    if (format == I8) {
      float top = 0;
      for (int64_t k = 0; k < in; ++k) top = std::max(top, std::fabs(source_at(kind, source, row * in + k)));
      step = top / 127.0f;
      scales[row] = step;
    }
    for (int64_t k = 0; k < in; ++k) {
      const float x = source_at(kind, source, row * in + k);
      if (format == F32)
        reinterpret_cast<float*>(tile)[k * width + lane] = x;
      else if (format == BF16)
        reinterpret_cast<uint16_t*>(tile)[(k / 2 * width + lane) * 2 + k % 2] = to_bf16(x);
      else
        tile[(k / 4 * width + lane) * 4 + k % 4] = static_cast<uint8_t>(
            128 + (step > 0 ? static_cast<int32_t>(std::nearbyint(x / step)) : 0));
    }
  }
}

// One row of a packed matrix as floats.
inline void unpack_row(const Matrix& w, int64_t row, float* out) {
  const int width = tile_of(w.format), lane = static_cast<int>(row % width);
  const uint8_t* tile =
      static_cast<const uint8_t*>(w.data) + row / width * tile_bytes(w.format, w.in);
  if (w.format >= Q4) {
    for (int64_t g = 0; g * GROUP < w.in; ++g) {
      const Group group = take_group(w.format, tile + g * group_bytes(w.format), lane);
      const float d = half_to_float(group.d), m = half_to_float(group.m);
      for (int64_t i = 0; i < std::min<int64_t>(GROUP, w.in - g * GROUP); ++i)
        out[g * GROUP + i] = d * static_cast<float>(group.q[i]) + m;
    }
    return;
  }
  for (int64_t k = 0; k < w.in; ++k) {
    if (w.format == F32)
      out[k] = reinterpret_cast<const float*>(tile)[k * width + lane];
    else if (w.format == BF16)
      out[k] = from_bf16(reinterpret_cast<const uint16_t*>(tile)[(k / 2 * width + lane) * 2 + k % 2]);
    else
      out[k] = w.scales[row] * static_cast<float>(tile[(k / 4 * width + lane) * 4 + k % 4] - 128);
  }
}

}  // namespace ff

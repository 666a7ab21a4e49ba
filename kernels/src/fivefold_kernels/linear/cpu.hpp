// Products of few rows with a matrix that was packed once: y = x w^T (+ bias), w [out, in].
//
// The matrix lies in tiles of TILE outputs by all inputs, so that a tile is one stream of memory and
// the outputs of a tile are the lanes of a register. An output is summed over the inputs in their
// order, whatever the number of rows: rows are only ever blocked, never summed across. Bytes bound:
// the packed matrix once; FLOPs bound: 2 * rows * out * in.
#pragma once

#include <algorithm>

#include "../native/rows.hpp"
#include "../native/scratch.hpp"
#include "../native/simd.hpp"

namespace ff {

enum Format : int32_t { F32 = 0, BF16 = 1, I8 = 2, Q4 = 3, Q8 = 4 };

constexpr int GROUP = 32;           // inputs that share a scale, as in GGUF blocks
constexpr int DENSE_TILE = 2 * VL;  // outputs a tile of F32 and BF16
constexpr int GROUPED_TILE = VL;    // outputs a tile of I8, Q4 and Q8
constexpr int MAX_ROWS = VL == 16 ? 12 : VL == 8 ? 6 : 4;  // rows a block: what registers hold
constexpr int64_t CHUNK_BYTES = 256 << 10;  // of a tile that stays in the cache for all row blocks

struct Matrix {
  int32_t format;
  int64_t out, in;
  const void* data;
  const float* scales;  // I8: one an output, padded to the tile
  const float* bias;    // or null
};

inline int tile_of(int32_t format) { return format >= I8 ? GROUPED_TILE : DENSE_TILE; }
inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t tiles_of(const Matrix& w) { return (w.out + tile_of(w.format) - 1) / tile_of(w.format); }

// Inputs as they are stored: padded with zeros where several go into one instruction.
inline int64_t padded_inputs(int32_t format, int64_t in) {
  switch (format) {
    case BF16: return padded(in, 2);
    case I8:
    case Q4:
    case Q8: return padded(in, GROUP);
    default: return in;
  }
}

inline int64_t group_bytes(int32_t format) {  // of GROUPED_TILE outputs by GROUP inputs
  return GROUPED_TILE * (format == Q4 ? GROUP / 2 + 4 : format == Q8 ? GROUP + 2 : GROUP);
}

inline int64_t tile_bytes(int32_t format, int64_t in) {
  const int64_t inputs = padded_inputs(format, in);
  switch (format) {
    case F32: return inputs * DENSE_TILE * 4;
    case BF16: return inputs * DENSE_TILE * 2;
    default: return inputs / GROUP * group_bytes(format);
  }
}

// ---------------------------------------------------------------------------------- activations

// The rows of x in the form that a format multiplies with.
struct Rows {
  const float* f32 = nullptr;  // F32: the rows themselves
  uint16_t* bf16 = nullptr;    // BF16
  int8_t* i8 = nullptr;        // I8, Q4, Q8: x = scale * i8
  float* scale = nullptr;      // [row, group]
  float* shift = nullptr;      // Q4: scale times the sum of the group, which the minimum multiplies
  int32_t* offset = nullptr;   // I8, Q8: what takes the 128 of the weights back
  int64_t stride = 0;          // numbers from one row to the next
  int64_t groups = 1;
};

// Memory for inputs in the format of a product; those of all rows, shared by all threads.
class Converted {
 public:
  void make_room(int64_t rows, int64_t width) {
    const int64_t wide = padded(width, 64), groups = rows * (wide / GROUP);
    numbers = numbers_.of<uint8_t>(rows * wide * 2);
    scales = scales_.of<float>(2 * groups);
    shifts = scales + groups;
    offsets = offsets_.of<int32_t>(groups);
  }

  // How the inputs of a matrix lie here; `from` are the floats, which F32 multiplies as they are.
  Rows rows(const Matrix& w, const float* from) const {
    const int64_t inputs = padded_inputs(w.format, w.in);
    Rows to;
    to.f32 = from;
    to.bf16 = reinterpret_cast<uint16_t*>(numbers);
    to.i8 = reinterpret_cast<int8_t*>(numbers);
    to.scale = scales;
    to.shift = shifts;
    to.offset = offsets;
    to.stride = w.format == F32 ? inputs : padded(inputs, 4);
    to.groups = w.format >= I8 ? inputs / GROUP : 1;
    return to;
  }

 private:
  uint8_t* numbers = nullptr;
  float *scales = nullptr, *shifts = nullptr;
  int32_t* offsets = nullptr;
  Scratch numbers_, scales_, offsets_;
};

FF_INLINE float largest(const float* x, int64_t n) {
  vf top = set1(0.0f);
  int64_t i = 0;
  for (; i + VL <= n; i += VL) {
    const vf v = load(x + i);
    top = max(top, max(v, -v));
  }
  float best = max(top);
  for (; i < n; ++i) best = std::max(best, std::fabs(x[i]));
  return best;
}

// Round n numbers to signed bytes of one scale; the rest up to GROUP is 0. Returns the bytes' sum.
FF_INLINE int32_t to_bytes(const float* x, int64_t n, int8_t* q, float* scale) {
  float padding[VL] = {};
  const int64_t whole = n / VL * VL;
  if (whole < n) std::memcpy(padding, x + whole, sizeof(float) * (n - whole));
  const float step = std::max(largest(x, whole), largest(padding, VL)) / 127.0f;
  const vf inverse = set1(step > 0.0f ? 1.0f / step : 0.0f), magic = set1(12582912.0f);
  vi total = set1_bits(0);
  for (int64_t i = 0; i < GROUP; i += VL) {
    const vf v = i < whole ? load(x + i) : i < n ? load(padding) : set1(0.0f);
    // Adding and taking 1.5 * 2^23 rounds to nearest, ties to even.
    const vi value = __builtin_convertvector((v * inverse + magic) - magic, vi);
    const vb bytes = __builtin_convertvector(value, vb);
    std::memcpy(q + i, &bytes, VL);
    total += value;
  }
  *scale = step;
  return sum(total);
}

// Inputs `begin` to `end` of a row, whole groups of it: x is the whole row.
FF_INLINE void convert(int32_t format, const float* x, int64_t begin, int64_t end, const Rows& rows,
                       int64_t r) {
  if (format == BF16) {
    uint16_t* y = rows.bf16 + r * rows.stride;
    for (int64_t i = begin; i < end; ++i) y[i] = to_bf16(x[i]);
    for (int64_t i = end; i < padded(end, 2); ++i) y[i] = 0;
  } else if (format >= I8) {
    for (int64_t from = begin; from < end; from += GROUP) {
      const int64_t n = std::min<int64_t>(GROUP, end - from), at = r * rows.groups + from / GROUP;
      const int32_t sum = to_bytes(x + from, n, rows.i8 + r * rows.stride + from, rows.scale + at);
      rows.offset[at] = -128 * sum;
      rows.shift[at] = rows.scale[at] * static_cast<float>(sum);
    }
  }
}

// ---------------------------------------------------------------------------------------- blocks
// Each adds R rows of one tile into y [R, DENSE_TILE or GROUPED_TILE], from input `from` to `to`.
// What lies `ahead` bytes of the bytes at work is fetched meanwhile. Tiles follow each other in memory,
// so that the stream goes on over their ends, and while the last rows of a tile are computed.

constexpr int64_t AHEAD = 2048;  // bytes: near enough for the first cache; the second takes the rest

FF_INLINE void fetch(const void* p, int64_t ahead) {
  const uint8_t* next = static_cast<const uint8_t*>(p) + ahead;
  if (ahead == AHEAD)
    __builtin_prefetch(next, 0, 3);
  else
    __builtin_prefetch(next, 0, 2);
}

template <int R>
void f32_block(const float* w, const float* x, int64_t ldx, int64_t from, int64_t to,
               int64_t ahead, float* y) {
  vf acc[R][2];
  for (int r = 0; r < R; ++r) {
    acc[r][0] = load(y + r * DENSE_TILE);
    acc[r][1] = load(y + r * DENSE_TILE + VL);
  }
  for (int64_t k = from; k < to; ++k) {
    const vf a = load(w + k * DENSE_TILE), b = load(w + k * DENSE_TILE + VL);
    fetch(w + k * DENSE_TILE, ahead);
    fetch(w + k * DENSE_TILE + VL, ahead);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vf s = set1(x[r * ldx + k]);
      acc[r][0] = fma(s, a, acc[r][0]);
      acc[r][1] = fma(s, b, acc[r][1]);
    }
  }
  for (int r = 0; r < R; ++r) {
    store(y + r * DENSE_TILE, acc[r][0]);
    store(y + r * DENSE_TILE + VL, acc[r][1]);
  }
}

FF_INLINE int32_t word(const void* p) {
  int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

template <int R>
void bf16_block(const uint16_t* w, const uint16_t* x, int64_t ldx, int64_t from, int64_t to,
               int64_t ahead, float* y) {
  vf acc[R][2];
  for (int r = 0; r < R; ++r) {
    acc[r][0] = load(y + r * DENSE_TILE);
    acc[r][1] = load(y + r * DENSE_TILE + VL);
  }
  for (int64_t k = from; k < to; k += 2) {
    const vi a = load_bits(w + k * DENSE_TILE), b = load_bits(w + k * DENSE_TILE + 2 * VL);
    fetch(w + k * DENSE_TILE, ahead);
    fetch(w + k * DENSE_TILE + 2 * VL, ahead);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vi s = set1_bits(word(x + r * ldx + k));
      acc[r][0] = dot2(acc[r][0], a, s);
      acc[r][1] = dot2(acc[r][1], b, s);
    }
  }
  for (int r = 0; r < R; ++r) {
    store(y + r * DENSE_TILE, acc[r][0]);
    store(y + r * DENSE_TILE + VL, acc[r][1]);
  }
}

// A group of VL outputs: Q4 and Q8 begin with [VL] float16 scales, Q4 goes on with [VL] float16
// minima; then the numbers, four inputs of each output in a lane. Q4 holds inputs 8j..8j+3 in the low
// and 8j+4..8j+7 in the high halves of its bytes; I8 and Q8 store w + 128, so that they may be the
// unsigned side of the product. The scales of I8 are the outputs' own and come at the end.
template <int R, int32_t FORMAT>
void grouped_block(const uint8_t* w, const Rows& x, int64_t row, const float* scales, int64_t ahead,
                   float* y) {
  constexpr int LOADS = FORMAT == Q4 ? 4 : 8;
  constexpr int HEAD = FORMAT == Q4 ? 4 * VL : FORMAT == Q8 ? 2 * VL : 0;
  const vi nibble = set1_bits(0x0f0f0f0f);
  vf acc[R];
  for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
  for (int64_t g = 0; g < x.groups; ++g, w += HEAD + LOADS * 4 * VL) {
    const int8_t* q = x.i8 + row * x.stride + g * GROUP;
    const int64_t at = row * x.groups + g;
    vi dot[R];
    for (int r = 0; r < R; ++r)
      dot[r] = set1_bits(FORMAT == Q4 ? 0 : x.offset[at + r * x.groups]);
#pragma GCC unroll 8
    for (int j = 0; j < LOADS; ++j) {
      const vi v = load_bits(w + HEAD + j * 4 * VL);
      fetch(w + HEAD + j * 4 * VL, ahead);
      if constexpr (FORMAT == Q4) {
        const vi low = v & nibble, high = (v >> 4) & nibble;
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          dot[r] = dot4<false>(dot[r], low, set1_bits(word(q + r * x.stride + 8 * j)));
          dot[r] = dot4<false>(dot[r], high, set1_bits(word(q + r * x.stride + 8 * j + 4)));
        }
      } else {
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
          dot[r] = dot4<true>(dot[r], v, set1_bits(word(q + r * x.stride + 4 * j)));
      }
    }
    const uint16_t* head = reinterpret_cast<const uint16_t*>(w);
    const vf d = FORMAT == I8 ? set1(1.0f) : load_half(head);
    const vf m = FORMAT == Q4 ? load_half(head + VL) : d;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const float step = x.scale[at + r * x.groups];
      acc[r] = fma(to_float(dot[r]), FORMAT == I8 ? set1(step) : d * set1(step), acc[r]);
      if constexpr (FORMAT == Q4) acc[r] = fma(m, set1(x.shift[at + r * x.groups]), acc[r]);
    }
  }
  for (int r = 0; r < R; ++r)
    store(y + r * GROUPED_TILE, FORMAT == I8 ? acc[r] * load(scales) : acc[r]);
}

// ----------------------------------------------------------------------------------------- tiles

template <int R>
struct TileBlock {
  static void run(const Matrix& w, int64_t tile, const Rows& x, int64_t row, int64_t from, int64_t to,
                  int64_t ahead, float* y) {
    const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w.format, w.in);
    switch (w.format) {
      case F32:
        return f32_block<R>(reinterpret_cast<const float*>(data), x.f32 + row * x.stride, x.stride,
                            from, to, ahead, y);
      case BF16:
        return bf16_block<R>(reinterpret_cast<const uint16_t*>(data), x.bf16 + row * x.stride,
                             x.stride, from, to, ahead, y);
      case I8: return grouped_block<R, I8>(data, x, row, w.scales + tile * GROUPED_TILE, ahead, y);
      case Q4: return grouped_block<R, Q4>(data, x, row, nullptr, ahead, y);
      default: return grouped_block<R, Q8>(data, x, row, nullptr, ahead, y);
    }
  }
};

inline constexpr Table<TileBlock, MAX_ROWS> TILE_BLOCKS{};

// All rows of one tile into y [rows, tile].
inline void tile_product(const Matrix& w, int64_t tile, const Rows& x, int64_t rows, float* y) {
  const int64_t inputs = padded_inputs(w.format, w.in), bytes = tile_bytes(w.format, w.in);
  const int width = tile_of(w.format);
  const bool in_chunks = w.format == F32 || w.format == BF16;
  const bool is_one_block = rows <= MAX_ROWS;
  int64_t chunk = inputs;
  if (in_chunks) {
    std::memset(y, 0, sizeof(float) * rows * width);
    if (!is_one_block) chunk = std::max<int64_t>(CHUNK_BYTES / (bytes / inputs) / 8 * 8, 8);
  }
  for (int64_t from = 0; from < inputs; from += chunk) {
    const int64_t to = std::min(from + chunk, inputs);
    in_blocks<MAX_ROWS>(rows, [&](int64_t row, int64_t count) {
      // The first rows bring what they work on, the last ones of several what comes next.
      const bool is_last = !is_one_block && row + count == rows;
      const int64_t ahead = is_last ? (to - from) * bytes / inputs : AHEAD;
      TILE_BLOCKS.of[count](w, tile, x, row, from, to, ahead, y + row * width);
    });
  }
}

// Put a tile's products [rows, tile] into y [rows, out], with the bias; or add them to what is there.
inline void spread(const Matrix& w, int64_t tile, const float* from, int64_t rows, float* y,
                   bool is_added) {
  const int width = tile_of(w.format);
  const int64_t at = tile * width, n = std::min<int64_t>(width, w.out - at);
  const float* bias = w.bias ? w.bias + at : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    float* to = y + r * w.out + at;
    const float* value = from + r * width;
    for (int64_t i = 0; i < n; ++i) {
      const float sum = bias ? value[i] + bias[i] : value[i];
      to[i] = is_added ? to[i] + sum : sum;
    }
  }
}

}  // namespace ff

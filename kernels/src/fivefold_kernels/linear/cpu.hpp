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
#include "../native/tiles.hpp"

namespace ff {

enum Format : int32_t { F32 = 0, BF16 = 1, I8 = 2, Q4 = 3, Q8 = 4 };

constexpr int GROUP = 32;           // inputs that share a scale, as in GGUF blocks
constexpr int DENSE_TILE = 2 * VL;  // outputs a tile of F32 and BF16
constexpr int GROUPED_TILE = VL;    // outputs a tile of I8, Q4 and Q8
constexpr int MAX_ROWS = VL == 16 ? 12 : VL == 8 ? 6 : 4;  // rows a block: what registers hold
constexpr int64_t CHUNK_BYTES = 256 << 10;  // of a tile that stays in the cache for all row blocks

#if defined(FF_TILES)
constexpr int BF16_STEP = tiles::ROW_BYTES / 2;  // inputs of one instruction
constexpr int ROW_GAP = 64;  // bytes between rows of x, which would else share few sets of a cache
#else
constexpr int BF16_STEP = 2;
constexpr int ROW_GAP = 0;
#endif

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
    case BF16: return padded(in, BF16_STEP);
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
    numbers = numbers_.of<uint8_t>(rows * (wide * 2 + ROW_GAP));
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
    to.stride = w.format == F32 ? inputs : padded(inputs, 4) + ROW_GAP / (w.format == BF16 ? 2 : 1);
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
    for (int64_t i = end; i < padded(end, BF16_STEP); ++i) y[i] = 0;
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

// Bytes of a group before its numbers, and scales there.
template <int32_t FORMAT>
constexpr int GROUP_HEAD = FORMAT == Q4 ? 4 * VL : FORMAT == Q8 ? 2 * VL : 0;

template <int32_t FORMAT>
FF_INLINE vf scale_of(const uint8_t* group) {
  return FORMAT == I8 ? set1(1.0f) : load_half(reinterpret_cast<const uint16_t*>(group));
}

template <int32_t FORMAT>
FF_INLINE vf minimum_of(const uint8_t* group) {
  return FORMAT == Q4 ? load_half(reinterpret_cast<const uint16_t*>(group) + VL) : set1(0.0f);
}

// acc + a group's integer products of one row, brought to scale: `d` and `m` are the group's scales and
// minima, `at` is where the row keeps its own.
template <int32_t FORMAT>
FF_INLINE vf add_scaled(vf acc, vi dot, vf d, vf m, const Rows& x, int64_t at) {
  const float step = x.scale[at];
  acc = fma(to_float(dot), FORMAT == I8 ? set1(step) : d * set1(step), acc);
  if constexpr (FORMAT == Q4) acc = fma(m, set1(x.shift[at]), acc);
  return acc;
}

// A group of VL outputs: Q4 and Q8 begin with [VL] float16 scales, Q4 goes on with [VL] float16
// minima; then the numbers, four inputs of each output in a lane. Q4 holds inputs 8j..8j+3 in the low
// and 8j+4..8j+7 in the high halves of its bytes; I8 and Q8 store w + 128, so that they may be the
// unsigned side of the product. The scales of I8 are the outputs' own and come at the end.
template <int R, int32_t FORMAT>
void grouped_block(const uint8_t* w, const Rows& x, int64_t row, const float* scales, int64_t ahead,
                   float* y) {
  constexpr int LOADS = FORMAT == Q4 ? 4 : 8;
  const vi nibble = set1_bits(0x0f0f0f0f);
  vf acc[R];
  for (int r = 0; r < R; ++r) acc[r] = set1(0.0f);
  for (int64_t g = 0; g < x.groups; ++g, w += GROUP_HEAD<FORMAT> + LOADS * 4 * VL) {
    const int8_t* q = x.i8 + row * x.stride + g * GROUP;
    const int64_t at = row * x.groups + g;
    vi dot[R];
    for (int r = 0; r < R; ++r)
      dot[r] = set1_bits(FORMAT == Q4 ? 0 : x.offset[at + r * x.groups]);
#pragma GCC unroll 8
    for (int j = 0; j < LOADS; ++j) {
      const vi v = load_bits(w + GROUP_HEAD<FORMAT> + j * 4 * VL);
      fetch(w + GROUP_HEAD<FORMAT> + j * 4 * VL, ahead);
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
    const vf d = scale_of<FORMAT>(w), m = minimum_of<FORMAT>(w);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
      acc[r] = add_scaled<FORMAT>(acc[r], dot[r], d, m, x, at + r * x.groups);
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

// The rows of one tile into y [rows, tile], in blocks of at most N that `work` computes.
template <int N, class Work>
FF_INLINE void product_in_blocks(const Matrix& w, int64_t rows, float* y, Work work) {
  const int64_t inputs = padded_inputs(w.format, w.in), bytes = tile_bytes(w.format, w.in);
  const int width = tile_of(w.format);
  const bool in_chunks = w.format == F32 || w.format == BF16;
  const bool is_one_block = rows <= N;
  int64_t chunk = inputs;
  if (in_chunks) {
    std::memset(y, 0, sizeof(float) * rows * width);
    if (!is_one_block) chunk = std::max<int64_t>(CHUNK_BYTES / (bytes / inputs) / GROUP * GROUP, GROUP);
  }
  for (int64_t from = 0; from < inputs; from += chunk) {
    const int64_t to = std::min(from + chunk, inputs);
    in_blocks<N>(rows, [&](int64_t row, int64_t count) {
      // The first rows bring what they work on, the last ones of several what comes next.
      const bool is_last = !is_one_block && row + count == rows;
      const int64_t ahead = is_last ? (to - from) * bytes / inputs : AHEAD;
      work(row, count, from, to, ahead, y + row * width);
    });
  }
}

// -------------------------------------------------------------------------------- tile registers
#if defined(FF_TILES)
static_assert(VL * 4 == tiles::ROW_BYTES, "the outputs of a register are those of a vector");

constexpr int64_t FEW_ROWS = 4;  // of 8 bits, that vectors multiply faster; the bits are the same
constexpr int BATCH = 4;         // groups whose products are under way together

// Each line of a piece of weights.
FF_INLINE void fetch_lines(const void* p, int64_t bytes, int64_t ahead) {
  for (int64_t at = 0; at < bytes; at += 64) fetch(static_cast<const uint8_t*>(p) + at, ahead);
}

// A register sums differently from a vector, so every number of rows goes this way. IS_TALL: they are
// more than one register holds. Weights lie packed as the instruction wants them, pairs side by side.
template <bool IS_TALL>
void bf16_on_tiles(const uint16_t* w, const uint16_t* x, int64_t ldx, int64_t from, int64_t to,
                   int64_t ahead, float* y) {
  constexpr int PITCH = DENSE_TILE * 4;  // bytes between pairs of inputs, and between rows of y
  constexpr int C = tiles::SUMS, A = tiles::INPUTS, B = tiles::WEIGHTS;
  float* below = y + tiles::ROWS * DENSE_TILE;
  tiles::load<C>(y, PITCH);
  tiles::load<C + 1>(y + VL, PITCH);
  if constexpr (IS_TALL) {
    tiles::load<C + 2>(below, PITCH);
    tiles::load<C + 3>(below + VL, PITCH);
  }
  for (int64_t k = from; k < to; k += BF16_STEP) {
    const uint16_t* pairs = w + k * DENSE_TILE;
    fetch_lines(pairs, BF16_STEP * DENSE_TILE * 2, ahead);
    tiles::load<A>(x + k, ldx * 2);
    tiles::load<B>(pairs, PITCH);
    tiles::dot_bf16<C, A, B>();
    tiles::load<B + 1>(pairs + 2 * VL, PITCH);
    tiles::dot_bf16<C + 1, A, B + 1>();
    if constexpr (IS_TALL) {
      tiles::load<A + 1>(x + tiles::ROWS * ldx + k, ldx * 2);
      tiles::dot_bf16<C + 2, A + 1, B>();
      tiles::dot_bf16<C + 3, A + 1, B + 1>();
    }
  }
  tiles::store<C>(y, PITCH);
  tiles::store<C + 1>(y + VL, PITCH);
  if constexpr (IS_TALL) {
    tiles::store<C + 2>(below, PITCH);
    tiles::store<C + 3>(below + VL, PITCH);
  }
}

inline void bf16_on_tiles(const Matrix& w, int64_t tile, const Rows& x, int64_t rows, float* y) {
  const uint16_t* data = static_cast<const uint16_t*>(w.data) + tile * tile_bytes(w.format, w.in) / 2;
  product_in_blocks<2 * tiles::ROWS>(
      w, rows, y,
      [&](int64_t row, int64_t count, int64_t from, int64_t to, int64_t ahead, float* at) {
        const int64_t rest = std::max<int64_t>(count - tiles::ROWS, 0);
        tiles::configure(count - rest, rest, tiles::ROW_BYTES);
        const auto block = rest ? bf16_on_tiles<true> : bf16_on_tiles<false>;
        block(data, x.bf16 + row * x.stride, x.stride, from, to, ahead, at);
      });
}

// The numbers of a group as bytes, four inputs of each output in a lane; those of Q4 come into `room`.
template <int32_t FORMAT>
FF_INLINE const uint8_t* bytes_of(const uint8_t* numbers, uint8_t* room) {
  if constexpr (FORMAT != Q4) return numbers;
  const vi nibble = set1_bits(0x0f0f0f0f);
  for (int j = 0; j < 4; ++j) {
    const vi v = load_bits(numbers + j * 4 * VL);
    const vi low = v & nibble, high = (v >> 4) & nibble;
    std::memcpy(room + 8 * j * VL, &low, sizeof low);
    std::memcpy(room + (8 * j + 4) * VL, &high, sizeof high);
  }
  return room;
}

// Integer products of group G of a batch, with every row of a block, into dot [row, VL].
template <int G>
FF_INLINE void dot_group(const uint8_t* bytes, const Rows& x, const int8_t* q, int32_t* dot) {
  constexpr int C = tiles::SUMS + G, A = tiles::INPUTS + G % 2, B = tiles::WEIGHTS + G % 2;
  tiles::zero<C>();
  tiles::load<A>(q + G * GROUP, x.stride);
  tiles::load<B>(bytes, tiles::ROW_BYTES);
  tiles::dot_bytes<C, A, B>();
  tiles::store<C>(dot, tiles::ROW_BYTES);
}

// Groups g and what follows it, as many as G counts: added to y [count, VL].
template <int32_t FORMAT, int... G>
FF_INLINE void add_groups(std::integer_sequence<int, G...>, const uint8_t* w, const Rows& x, int64_t row,
                          int64_t count, int64_t g, int64_t ahead, float* y) {
  constexpr int N = sizeof...(G);
  const int64_t size = group_bytes(FORMAT);
  alignas(64) uint8_t room[N][GROUP * VL];
  alignas(64) int32_t dot[N][tiles::ROWS * VL];
  const uint8_t* bytes[N] = {bytes_of<FORMAT>(w + G * size + GROUP_HEAD<FORMAT>, room[G])...};
  const vf d[N] = {scale_of<FORMAT>(w + G * size)...}, m[N] = {minimum_of<FORMAT>(w + G * size)...};
  fetch_lines(w, N * size, ahead);
  (dot_group<G>(bytes[G], x, x.i8 + row * x.stride + g * GROUP, dot[G]), ...);
  for (int64_t r = 0; r < count; ++r) {
    const int64_t at = (row + r) * x.groups + g;
    vf acc = load(y + r * VL);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      vi whole = load_bits(dot[i] + r * VL);
      if constexpr (FORMAT != Q4) whole += set1_bits(x.offset[at + i]);
      acc = add_scaled<FORMAT>(acc, whole, d[i], m[i], x, at + i);
    }
    store(y + r * VL, acc);
  }
}

template <int32_t FORMAT>
void groups_on_tiles(const uint8_t* w, const Rows& x, int64_t row, int64_t count, const float* scales,
                     int64_t ahead, float* y) {
  const int64_t size = group_bytes(FORMAT);
  std::memset(y, 0, sizeof(float) * count * GROUPED_TILE);
  tiles::configure(count, count, GROUP);
  int64_t g = 0;
  for (; g + BATCH <= x.groups; g += BATCH)
    add_groups<FORMAT>(std::make_integer_sequence<int, BATCH>(), w + g * size, x, row, count, g, ahead, y);
  for (; g < x.groups; ++g)
    add_groups<FORMAT>(std::make_integer_sequence<int, 1>(), w + g * size, x, row, count, g, ahead, y);
  if constexpr (FORMAT == I8)
    for (int64_t r = 0; r < count; ++r) store(y + r * VL, load(y + r * VL) * load(scales));
}

inline void groups_on_tiles(const Matrix& w, int64_t tile, const Rows& x, int64_t rows, float* y) {
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + tile * tile_bytes(w.format, w.in);
  const float* scales = w.scales + tile * GROUPED_TILE;
  const auto block = w.format == I8   ? groups_on_tiles<I8>
                     : w.format == Q4 ? groups_on_tiles<Q4>
                                      : groups_on_tiles<Q8>;
  product_in_blocks<tiles::ROWS>(
      w, rows, y, [&](int64_t row, int64_t count, int64_t, int64_t, int64_t ahead, float* at) {
        block(data, x, row, count, scales, ahead, at);
      });
}

#endif
// ------------------------------------------------------------------------------------- a product

// All rows of one tile into y [rows, tile].
inline void tile_product(const Matrix& w, int64_t tile, const Rows& x, int64_t rows, float* y) {
#if defined(FF_TILES)
  if (w.format == BF16) return bf16_on_tiles(w, tile, x, rows, y);
  if (w.format >= I8 && rows > FEW_ROWS) return groups_on_tiles(w, tile, x, rows, y);
#endif
  product_in_blocks<MAX_ROWS>(
      w, rows, y,
      [&](int64_t row, int64_t count, int64_t from, int64_t to, int64_t ahead, float* at) {
        TILE_BLOCKS.of[count](w, tile, x, row, from, to, ahead, at);
      });
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

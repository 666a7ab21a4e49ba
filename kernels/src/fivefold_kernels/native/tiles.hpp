// AMX: eight registers of up to 16 rows by 64 bytes, and products of one with another.
//
// With -DFIVEFOLD_EMULATED_TILES plain C++ stands in for them, so that what is built on them can be
// tested on a processor that has none; such a build is for tests and is never chosen by itself.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.hpp"

#if defined(FIVEFOLD_EMULATED_TILES) || defined(__AMX_TILE__)
#define FF_TILES
#endif

namespace ff {
namespace tiles {

#if defined(FF_TILES)

constexpr int ROWS = 16, ROW_BYTES = 64;  // of a register at most

// The registers by their use: sums [rows, 16 outputs], rows of x, weights [inputs, 16 outputs].
constexpr int SUMS = 0, INPUTS = 4, WEIGHTS = 6;

// What LDTILECFG reads.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
  void set(int t, int count, int bytes) {
    rows[t] = static_cast<uint8_t>(count);
    row_bytes[t] = static_cast<uint16_t>(count ? bytes : 0);
  }
};

#if defined(FIVEFOLD_EMULATED_TILES)

// After the pseudo-code of Intel's manual, but for subnormal numbers: the processor takes them as 0.
// What a processor would refuse (a register without a shape, shapes that do not fit) ends the process.
struct Registers {
  Shapes shapes{};
  uint8_t data[8][ROWS][ROW_BYTES] = {};
};
inline thread_local Registers registers;

inline void must(bool holds) {
  if (!holds) __builtin_trap();
}

inline void set_shapes(const Shapes& shapes) {
  registers = Registers{};  // LDTILECFG clears the numbers too
  registers.shapes = shapes;
}

inline void forget_shapes() { set_shapes(Shapes{}); }

template <int T>
void zero() {
  must(registers.shapes.rows[T] > 0);
  std::memset(registers.data[T], 0, sizeof(registers.data[T]));
}

template <int T>
void load(const void* from, int64_t stride) {
  const Shapes& s = registers.shapes;
  zero<T>();
  for (int64_t r = 0; r < s.rows[T]; ++r)
    std::memcpy(registers.data[T][r], static_cast<const uint8_t*>(from) + r * stride, s.row_bytes[T]);
}

template <int T>
void store(void* to, int64_t stride) {
  const Shapes& s = registers.shapes;
  must(s.rows[T] > 0);
  for (int64_t r = 0; r < s.rows[T]; ++r)
    std::memcpy(static_cast<uint8_t*>(to) + r * stride, registers.data[T][r], s.row_bytes[T]);
}

template <int C, int A, int B>
void must_fit() {
  const Shapes& s = registers.shapes;
  must(s.rows[C] > 0 && s.rows[C] == s.rows[A] && s.row_bytes[C] == s.row_bytes[B] &&
       s.row_bytes[A] == 4 * s.rows[B]);
}

template <int C, int A, int B>
void dot_bf16() {
  must_fit<C, A, B>();
  Registers& of = registers;
  for (int m = 0; m < of.shapes.rows[C]; ++m) {
    float even[ROW_BYTES / 4] = {}, odd[ROW_BYTES / 4] = {}, sums[ROW_BYTES / 4];
    uint16_t a[ROW_BYTES / 2], b[ROW_BYTES / 2];
    std::memcpy(a, of.data[A][m], ROW_BYTES);
    std::memcpy(sums, of.data[C][m], ROW_BYTES);
    for (int k = 0; k < of.shapes.rows[B]; ++k) {
      std::memcpy(b, of.data[B][k], ROW_BYTES);
      for (int n = 0; n < ROW_BYTES / 4; ++n) {
        even[n] = std::fma(from_bf16(a[2 * k]), from_bf16(b[2 * n]), even[n]);
        odd[n] = std::fma(from_bf16(a[2 * k + 1]), from_bf16(b[2 * n + 1]), odd[n]);
      }
    }
    for (int n = 0; n < ROW_BYTES / 4; ++n) sums[n] += even[n] + odd[n];
    std::memcpy(of.data[C][m], sums, ROW_BYTES);
  }
}

template <int C, int A, int B>
void dot_bytes() {
  must_fit<C, A, B>();
  Registers& of = registers;
  for (int m = 0; m < of.shapes.rows[C]; ++m) {
    int32_t sums[ROW_BYTES / 4];
    std::memcpy(sums, of.data[C][m], ROW_BYTES);
    for (int k = 0; k < of.shapes.rows[B]; ++k)
      for (int n = 0; n < ROW_BYTES / 4; ++n)
        for (int i = 0; i < 4; ++i)
          sums[n] += static_cast<int8_t>(of.data[A][m][4 * k + i]) * of.data[B][k][4 * n + i];
    std::memcpy(of.data[C][m], sums, ROW_BYTES);
  }
}

#else

// What gcc's intrinsics are, but for two things: theirs take literal numbers of registers only, and
// do not tell the compiler which memory they read.
inline void set_shapes(const Shapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }

inline void forget_shapes() { asm volatile("tilerelease"); }

template <int T>
FF_INLINE void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}

template <int T>
FF_INLINE void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
FF_INLINE void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}

// C += A B of bfloat16: A [rows, inputs], B [inputs / 2, outputs, 2].
template <int C, int A, int B>
FF_INLINE void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

// C += A B, exactly: A [rows, inputs] of signed, B [inputs / 4, outputs, 4] of unsigned bytes.
template <int C, int A, int B>
FF_INLINE void dot_bytes() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

inline thread_local int32_t shape = 0;  // what the thread's registers are set to; 0: nothing

// Give the registers their shapes, where they have others: sums and inputs of `upper` rows in the first
// and of `lower` in the second half of each, and weights for `depth` bytes of a row of x.
inline void configure(int64_t upper, int64_t lower, int depth) {
  const int32_t wanted = static_cast<int32_t>(upper << 16 | lower << 8 | depth);
  if (shape == wanted) return;
  Shapes shapes;
  for (int half = 0; half < 2; ++half) {
    const int count = static_cast<int>(half == 0 ? upper : lower);
    shapes.set(SUMS + 2 * half, count, ROW_BYTES);
    shapes.set(SUMS + 2 * half + 1, count, ROW_BYTES);
    shapes.set(INPUTS + half, count, depth);
    shapes.set(WEIGHTS + half, depth / 4, ROW_BYTES);
  }
  set_shapes(shapes);
  shape = wanted;
}

// A task's use of the registers: a thread that sleeps with them set would have them saved and restored.
struct Use {
  Use() = default;
  Use(const Use&) = delete;
  ~Use() {
    if (shape == 0) return;
    forget_shapes();
    shape = 0;
  }
};

#else

struct Use {
  Use() {}  // so that a task may hold one that does nothing
};

#endif

}  // namespace tiles
}  // namespace ff

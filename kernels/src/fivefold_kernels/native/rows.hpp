// Rows in blocks that registers hold, and work in equal parts.
#pragma once

#include <cstdint>
#include <utility>

namespace ff {

// The part of `count` items that falls to part t of n: the same split for every call.
struct Span {
  int64_t begin, end;
  Span(int64_t count, int64_t t, int64_t n) : begin(count * t / n), end(count * (t + 1) / n) {}
};

// Functions of 1 to N rows, `Of<R>::run`, chosen by their number.
template <template <int> class Of, int N>
struct Table {
  decltype(&Of<1>::run) of[N + 1] = {};
  constexpr Table() { fill(std::make_integer_sequence<int, N>()); }
  template <int... R>
  constexpr void fill(std::integer_sequence<int, R...>) {
    ((of[R + 1] = Of<R + 1>::run), ...);
  }
};

// Call `work(first row, number of rows)` for blocks of at most N rows, split as evenly as N allows.
template <int N, class Work>
inline void in_blocks(int64_t rows, Work work) {
  const int64_t blocks = (rows + N - 1) / N;
  for (int64_t b = 0; b < blocks; ++b) {
    const Span some(rows, b, blocks);
    work(some.begin, some.end - some.begin);
  }
}

}  // namespace ff

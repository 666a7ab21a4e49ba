// Attention of tree nodes over a KV cache: each key and value is read once for all nodes and heads.
//
// The keys that a node sees, in the order of the text, are cut into segments of SEGMENT positions;
// softmax runs within a segment, and segments are merged by their maxima and sums (log-sum-exp): the
// four of a run first, then the runs, each in order. So a node's result depends on the keys it sees and their order alone: not on the nodes beside
// it, on where the tree lies in the cache, or on which thread had which segment. Whole segments of the
// prefix are shared by all nodes of a row; what follows them (`tail`) differs by node and is gathered.
//
// Bytes bound: keys and values once, 2 * slots * dim * itemsize a KV head.
#pragma once

#include <algorithm>
#include <vector>

#include "../native/rows.hpp"
#include "../native/simd.hpp"

namespace ff {

constexpr int SEGMENT = 128;
constexpr int KEY_BLOCK = 16;                             // keys that lie beside each other
constexpr int PER_BLOCK = KEY_BLOCK / VL;                 // vectors of them
constexpr int QUERIES = VL == 16 ? 12 : VL == 8 ? 6 : 4;  // most queries a block of scores
constexpr int MIXED = VL == 16 ? 6 : 3;                   // most queries a block of sums of values

// Where key `slot` of a KV head lies: keys are [slot / 16, dim, 16], so that the scores of 16 keys are
// the lanes of a register without any transposing.
FF_INLINE int64_t key_at(int64_t slot, int64_t dim) {
  return slot / KEY_BLOCK * KEY_BLOCK * dim + slot % KEY_BLOCK;
}

// ------------------------------------------------------------------------------------------ scores

// scores[q, key] of Q queries and G vectors of keys; a score is summed over dim in its order. Keys and
// values of the next segment are fetched into the second cache while this one is computed.
template <int Q, int G, class T>
FF_INLINE void score_block(const float* queries, const T* keys, int first, int64_t dim, float* scores,
                           int64_t stride) {
  const T* from[G];
  for (int g = 0; g < G; ++g)
    from[g] = keys + (first + g) / PER_BLOCK * KEY_BLOCK * dim + (first + g) % PER_BLOCK * VL;
  vf acc[Q][G];
  for (int q = 0; q < Q; ++q)
    for (int g = 0; g < G; ++g) acc[q][g] = set1(0.0f);
  for (int64_t d = 0; d < dim; ++d) {
    vf k[G];
    for (int g = 0; g < G; ++g) {
      k[g] = load(from[g] + d * KEY_BLOCK);
      __builtin_prefetch(from[g] + d * KEY_BLOCK + SEGMENT * dim, 0, 2);
    }
#pragma GCC unroll 12
    for (int q = 0; q < Q; ++q) {
      const vf s = set1(queries[q * dim + d]);
      for (int g = 0; g < G; ++g) acc[q][g] = fma(s, k[g], acc[q][g]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int g = 0; g < G; ++g) store(scores + q * stride + (first + g) * VL, acc[q][g]);
}

template <class T>
struct Scored {
  template <int Q>
  struct Of {
    static void run(const float* queries, const T* keys, int64_t dim, int vectors, float* scores,
                    int64_t stride) {
      constexpr int G = Q <= QUERIES / 2 ? 4 : 2;
      int g = 0;
      for (; g + G <= vectors; g += G) score_block<Q, G>(queries, keys, g, dim, scores, stride);
      for (; g < vectors; ++g) score_block<Q, 1>(queries, keys, g, dim, scores, stride);
    }
  };
  static constexpr Table<Of, QUERIES> table{};
};

// Scores of any number of queries [queries, dim] over the first `count` keys.
template <class T>
void score(const float* queries, int64_t rows, const T* keys, int64_t dim, int count, float* scores,
           int64_t stride) {
  const int vectors = (count + VL - 1) / VL;
  in_blocks<QUERIES>(rows, [&](int64_t q, int64_t n) {
    Scored<T>::table.of[n](queries + q * dim, keys, dim, vectors, scores + q * stride, stride);
  });
}

// Scores -> exp(score - maximum) in place; what lies beyond `count` becomes 0.
struct Softened {
  float top, total;
};

FF_INLINE Softened soften(float* scores, int count) {
  const int groups = (count + VL - 1) / VL;
  for (int i = count; i < groups * VL; ++i) scores[i] = -INFINITY;
  vf best = load(scores);
  for (int g = 1; g < groups; ++g) best = max(best, load(scores + g * VL));
  const float top = max(best);
  vf total = set1(0.0f);
  for (int g = 0; g < groups; ++g) {
    const vf p = exp(load(scores + g * VL) - set1(top));
    store(scores + g * VL, p);
    total = total + p;
  }
  return {top, sum(total)};
}

// -------------------------------------------------------------------------------- sums of values

// out[q] = sum over keys, in their order, of weights[q, key] * values[key]; N vectors of dim at once.
template <int Q, int N, bool GATHER, class T>
FF_INLINE void mix_block(const float* weights, int64_t weight_stride, const T* values, int64_t stride,
                         const int32_t* slots, int count, float* out, int64_t dim) {
  vf acc[Q][N];
  for (int q = 0; q < Q; ++q)
    for (int n = 0; n < N; ++n) acc[q][n] = set1(0.0f);
  for (int j = 0; j < count; ++j) {
    const T* value = values + (GATHER ? slots[j] : j) * stride;
    vf v[N];
    for (int n = 0; n < N; ++n) {
      v[n] = load(value + n * VL);
      if constexpr (!GATHER) __builtin_prefetch(value + n * VL + SEGMENT * stride, 0, 2);
    }
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q) {
      const vf w = set1(weights[q * weight_stride + j]);
      for (int n = 0; n < N; ++n) acc[q][n] = fma(w, v[n], acc[q][n]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int n = 0; n < N; ++n) store(out + q * dim + n * VL, acc[q][n]);
}

template <bool GATHER, class T>
struct Mixed {
  template <int Q>
  struct Of {
    static void run(const float* weights, int64_t weight_stride, const T* values, int64_t stride,
                    const int32_t* slots, int count, float* out, int64_t dim) {
      int64_t d = 0;
      for (; d + 4 * VL <= dim; d += 4 * VL)
        mix_block<Q, 4, GATHER>(weights, weight_stride, values + d, stride, slots, count, out + d, dim);
      for (; d + VL <= dim; d += VL)
        mix_block<Q, 1, GATHER>(weights, weight_stride, values + d, stride, slots, count, out + d, dim);
    }
  };
  static constexpr Table<Of, MIXED> table{};
};

template <bool GATHER, class T>
void mix(const float* weights, int64_t weight_stride, int64_t rows, const T* values, int64_t stride,
         const int32_t* slots, int count, float* out, int64_t dim) {
  in_blocks<MIXED>(rows, [&](int64_t q, int64_t n) {
    Mixed<GATHER, T>::table.of[n](weights + q * weight_stride, weight_stride, values, stride, slots,
                                  count, out + q * dim, dim);
  });
}

// ----------------------------------------------------------------------------------------- merging

// The state of a query after some segments: out = sum of exp(score - top) * value, total likewise.
struct Partial {
  float* top;
  float* total;
  float* out;  // [query, dim]
};

FF_INLINE void merge(const Partial& into, int64_t q, float top, float total, const float* out,
                     int64_t dim) {
  if (total == 0.0f) return;
  float* mine = into.out + q * dim;
  if (into.total[q] == 0.0f) {
    into.top[q] = top;
    into.total[q] = total;
    std::memcpy(mine, out, sizeof(float) * dim);
    return;
  }
  const float best = std::max(into.top[q], top);
  const float a = exp(into.top[q] - best), b = exp(top - best);
  into.top[q] = best;
  into.total[q] = into.total[q] * a + total * b;
  for (int64_t d = 0; d < dim; d += VL)
    store(mine + d, fma(load(out + d), set1(b), load(mine + d) * set1(a)));
}

// ---------------------------------------------------------------------------------------- segments

// Queries over one segment whose keys lie in a row of slots; `seen[q]` of them are visible to q.
// Leaves a partial for each query, total 0 where nothing is seen.
template <class T>
void segment(const float* queries, int64_t rows, const T* keys, const T* values, int64_t stride,
             int count, const int32_t* seen, int64_t dim, float* scores, const Partial& out) {
  for (int64_t q = 0; q < rows; q += QUERIES) {
    const int64_t n = std::min<int64_t>(QUERIES, rows - q);
    score(queries + q * dim, n, keys, dim, count, scores, SEGMENT);
    int most = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int mine = seen ? seen[q + i] : count;
      float* row = scores + i * SEGMENT;
      if (mine > 0) {
        const Softened s = soften(row, mine);
        out.top[q + i] = s.top;
        out.total[q + i] = s.total;
      } else {
        out.total[q + i] = 0.0f;
      }
      for (int j = mine > 0 ? (mine + VL - 1) / VL * VL : 0; j < count; ++j) row[j] = 0.0f;
      most = std::max(most, mine);
    }
    mix<false>(scores, SEGMENT, n, values, stride, nullptr, most, out.out + q * dim, dim);
  }
}

}  // namespace ff

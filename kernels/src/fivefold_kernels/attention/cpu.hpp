// Attention of tree nodes over a KV cache: each key and value is read once for all nodes and heads.
//
// The keys that a node sees, in the order of the text, are cut into segments of SEGMENT positions;
// softmax runs within a segment, and segments are merged in order by their maxima and sums (log-sum-
// exp). So a node's result depends on the keys it sees and their order alone: not on the nodes beside
// it, on where the tree lies in the cache, or on which thread had which segment. Whole segments of the
// prefix are shared by all nodes of a row; what follows them (`tail`) differs by node and is gathered.
//
// Bytes bound: keys and values once, 2 * slots * dim * itemsize a KV head.
#pragma once

#include <algorithm>
#include <vector>

#include "../native/simd.hpp"

namespace ff {

constexpr int SEGMENT = 128;
constexpr int KEY_GROUPS = SEGMENT / VL;
constexpr int QUERIES = VL == 16 ? 12 : VL == 8 ? 6 : 4;  // a block of scores
constexpr int MIXED = VL == 16 ? 6 : 3;                   // queries a block of sums of values
constexpr int FEW = VL == 16 ? 3 : 2;                     // and of what is left of them

// ------------------------------------------------------------------------------------- transposing

template <int S>
FF_INLINE void swap_blocks(vf (&r)[VL]) {
  vi low, high;
  for (int lane = 0; lane < VL; ++lane) {
    low[lane] = (lane & S) ? VL + (lane ^ S) : lane;
    high[lane] = (lane & S) ? VL + lane : (lane ^ S);
  }
#pragma GCC unroll 16
  for (int i = 0; i < VL; ++i)
    if (!(i & S)) {
      const vf a = r[i], b = r[i + S];
      r[i] = __builtin_shuffle(a, b, low);
      r[i + S] = __builtin_shuffle(a, b, high);
    }
  if constexpr (S > 1) swap_blocks<S / 2>(r);
}

// One group of VL keys; those from `count` on are zero.
template <bool WHOLE, class T>
FF_INLINE void transpose_group(const T* keys, int64_t stride, int count, int64_t d, float* out) {
  vf r[VL];
#pragma GCC unroll 16
  for (int i = 0; i < VL; ++i) r[i] = WHOLE || i < count ? load(keys + i * stride + d) : set1(0.0f);
  swap_blocks<VL / 2>(r);
#pragma GCC unroll 16
  for (int i = 0; i < VL; ++i) store(out + (d + i) * VL, r[i]);
}

// keys [count, dim] `stride` numbers apart -> [group, dim, VL], zero beyond count. What is read next
// is fetched meanwhile: the keys of the group after, and the values of this one.
template <class T>
void transpose_keys(const T* keys, const T* values, int64_t stride, int count, int64_t dim, float* out) {
  constexpr int64_t LINE = 64 / sizeof(T);
  for (int from = 0; from < count; from += VL, out += dim * VL) {
    const T* mine = keys + from * stride;
    const bool is_whole = count - from >= VL;
    for (int i = 0; i < VL; ++i)
      for (int64_t d = 0; d < dim; d += LINE) {
        __builtin_prefetch(mine + (VL + i) * stride + d);
        __builtin_prefetch(values + (from + i) * stride + d);
      }
    for (int64_t d = 0; d < dim; d += VL) {
      if (is_whole)
        transpose_group<true>(mine, stride, VL, d, out);
      else
        transpose_group<false>(mine, stride, count - from, d, out);
    }
  }
}

// ------------------------------------------------------------------------------------------ scores

// scores[q, key] of Q queries and G groups of keys; a score is summed over dim in its order.
template <int Q, int G>
FF_INLINE void score_block(const float* queries, const float* keys, int64_t dim, float* scores,
                           int64_t stride) {
  vf acc[Q][G];
  for (int q = 0; q < Q; ++q)
    for (int g = 0; g < G; ++g) acc[q][g] = set1(0.0f);
  for (int64_t d = 0; d < dim; ++d) {
    vf k[G];
    for (int g = 0; g < G; ++g) k[g] = load(keys + (g * dim + d) * VL);
#pragma GCC unroll 12
    for (int q = 0; q < Q; ++q) {
      const vf s = set1(queries[q * dim + d]);
      for (int g = 0; g < G; ++g) acc[q][g] = fma(s, k[g], acc[q][g]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int g = 0; g < G; ++g) store(scores + q * stride + g * VL, acc[q][g]);
}

template <int Q>
void score_rows(const float* queries, const float* keys, int64_t dim, int groups, float* scores,
                int64_t stride) {
  int g = 0;
  for (; g + 2 <= groups; g += 2)
    score_block<Q, 2>(queries, keys + g * dim * VL, dim, scores + g * VL, stride);
  if (g < groups) score_block<Q, 1>(queries, keys + g * dim * VL, dim, scores + g * VL, stride);
}

// Scores of any number of queries [queries, dim] over `count` transposed keys.
inline void score(const float* queries, int64_t rows, const float* keys, int64_t dim, int count,
                  float* scores, int64_t stride) {
  const int groups = (count + VL - 1) / VL;
  int64_t q = 0;
  while (q < rows) {
    const int64_t left = rows - q;
    const float* from = queries + q * dim;
    float* to = scores + q * stride;
    if (left >= QUERIES) {
      score_rows<QUERIES>(from, keys, dim, groups, to, stride);
      q += QUERIES;
    } else if (left >= 3) {
      score_rows<3>(from, keys, dim, groups, to, stride);
      q += 3;
    } else {
      score_rows<1>(from, keys, dim, groups, to, stride);
      q += 1;
    }
  }
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
    for (int n = 0; n < N; ++n) v[n] = load(value + n * VL);
#pragma GCC unroll 6
    for (int q = 0; q < Q; ++q) {
      const vf w = set1(weights[q * weight_stride + j]);
      for (int n = 0; n < N; ++n) acc[q][n] = fma(w, v[n], acc[q][n]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int n = 0; n < N; ++n) store(out + q * dim + n * VL, acc[q][n]);
}

template <int Q, bool GATHER, class T>
void mix_rows(const float* weights, int64_t weight_stride, const T* values, int64_t stride,
              const int32_t* slots, int count, float* out, int64_t dim) {
  int64_t d = 0;
  for (; d + 4 * VL <= dim; d += 4 * VL)
    mix_block<Q, 4, GATHER>(weights, weight_stride, values + d, stride, slots, count, out + d, dim);
  for (; d + VL <= dim; d += VL)
    mix_block<Q, 1, GATHER>(weights, weight_stride, values + d, stride, slots, count, out + d, dim);
}

template <bool GATHER, class T>
void mix(const float* weights, int64_t weight_stride, int64_t rows, const T* values, int64_t stride,
         const int32_t* slots, int count, float* out, int64_t dim) {
  int64_t q = 0;
  for (; q + MIXED <= rows; q += MIXED)
    mix_rows<MIXED, GATHER>(weights + q * weight_stride, weight_stride, values, stride, slots, count,
                            out + q * dim, dim);
  for (; q + FEW <= rows; q += FEW)
    mix_rows<FEW, GATHER>(weights + q * weight_stride, weight_stride, values, stride, slots, count,
                          out + q * dim, dim);
  for (; q < rows; ++q)
    mix_rows<1, GATHER>(weights + q * weight_stride, weight_stride, values, stride, slots, count,
                        out + q * dim, dim);
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
// `keys` are transposed already. Leaves a partial for each query, total 0 where nothing is seen.
template <class T>
void segment(const float* queries, int64_t rows, const float* keys, const T* values, int64_t stride,
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

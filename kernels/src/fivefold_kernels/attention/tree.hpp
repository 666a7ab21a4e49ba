// Attention of all nodes of a batch: the plan of a pass, and the units that threads take from it.
#pragma once

#include <atomic>
#include <new>

#include "../native/pool.hpp"
#include "../native/scratch.hpp"
#include "cpu.hpp"

namespace ff {

// What attention needs to know of a pass; the same for all its layers.
struct Nodes {
  int64_t batch, nodes, pending;  // pending: of each row, the new nodes included, which come last
  int64_t heads, kv_heads, dim;
  const int64_t* lengths;             // [batch] committed slots
  const uint8_t* visible;             // [batch, nodes, pending]: ancestors and itself
  int64_t batch_stride, head_stride;  // of keys and values, in numbers
  int32_t is_bf16;                    // keys and values
};

class TreeAttention {
 public:
  // Lay out a pass; allocates here, so that the threads never do.
  void prepare(const Nodes& nodes, int64_t layers) {
    c = nodes;
    rows = c.batch * c.nodes;
    group = c.heads / c.kv_heads;
    plan();
    const int64_t block = is_chain ? std::min<int64_t>(c.nodes, CHAIN_BLOCK) : c.nodes;
    queries = group * block;
    const int64_t states = is_chain ? 3 * queries * (c.dim + 2) : 0;
    const int64_t tail = is_chain ? queries : queries * longest_tail;
    scratch_ = padded(queries * c.dim) + QUERIES * SEGMENT + padded(states) + padded(tail);
    if (!is_chain)
      partials = partials_.of<float>(c.batch * c.kv_heads * parts * queries * (c.dim + 2));
    counters = counters_.of<std::atomic<int64_t>>(layers);
    for (int64_t i = 0; i < layers; ++i) new (&counters[i]) std::atomic<int64_t>(0);
  }

  // Floats of scratch that each thread brings to `attend`.
  int64_t scratch() const { return scratch_; }

  // Take units of a layer until none is left. Queries [row, head, dim] are scaled already.
  void attend(int64_t layer, const float* q, const void* keys, const void* values, float* mixed,
              float* scratch) {
    const int64_t a_row = is_chain ? (c.nodes + CHAIN_BLOCK - 1) / CHAIN_BLOCK : most_runs + RUN;
    const int64_t units = c.batch * c.kv_heads * a_row;
    for (int64_t u; (u = counters[layer].fetch_add(1, std::memory_order_relaxed)) < units;) {
      const int64_t b = u / a_row / c.kv_heads, h = u / a_row % c.kv_heads, part = u % a_row;
      const int64_t at = b * c.batch_stride + h * c.head_stride;
      if (c.is_bf16)
        unit(q, static_cast<const uint16_t*>(keys) + at, static_cast<const uint16_t*>(values) + at,
             mixed, b, h, part, scratch);
      else
        unit(q, static_cast<const float*>(keys) + at, static_cast<const float*>(values) + at, mixed, b,
             h, part, scratch);
    }
  }

  // After all units: merge the runs of a row in their order into mixed [row, head, dim].
  void merge_row(int64_t r, float* mixed) const {
    if (is_chain) return;
    const int64_t b = r / c.nodes, node = r % c.nodes;
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t h = head / group, i = node * group + head % group;
      const Partial all = partial(b, h, 0);
      for (int64_t first = 0; first < parts; first += RUN) {
        if (first / RUN >= whole[b] / RUN) merge_run(b, h, first, i, i + 1);
        if (first > 0) merge_into(all, partial(b, h, first), i);
      }
      finish(all, i, mixed + (r * c.heads + head) * c.dim);
    }
  }

 private:
  static constexpr int CHAIN_BLOCK = 32;  // nodes of a prompt that a unit takes
  static constexpr int RUN = 4;           // segments that are merged before others: a unit of work
  Nodes c;
  int64_t rows, group, queries, scratch_;
  bool is_chain;               // a prompt: each node sees all before it
  int64_t most_whole;          // whole segments of the longest prefix
  int64_t most_runs;           // whole runs of the longest prefix
  int64_t parts;               // segments a row has at most, shared ones first
  int64_t longest_tail;        // slots after the last whole segment, padded
  int64_t longest_path;
  std::vector<int64_t> whole;  // [batch]
  std::vector<int32_t> slots;  // [row, longest_path] of the tail, in the order of the text
  std::vector<int32_t> counts; // [row]
  float* partials = nullptr;
  std::atomic<int64_t>* counters;
  Scratch partials_, counters_;

  static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

  void plan() {
    is_chain = c.nodes >= CHAIN_BLOCK && c.pending == c.nodes && looks_like_chain();
    whole.assign(c.batch, 0);
    most_whole = 0;
    longest_tail = 0;
    longest_path = 0;
    for (int64_t b = 0; b < c.batch; ++b) {
      whole[b] = c.lengths[b] / SEGMENT;
      most_whole = std::max(most_whole, whole[b]);
      const int64_t rest = c.lengths[b] - whole[b] * SEGMENT;
      longest_tail = std::max(longest_tail, padded(rest + c.pending));
      longest_path = std::max(longest_path, rest + c.pending);
    }
    most_runs = most_whole / RUN;
    parts = most_whole + (longest_path + SEGMENT - 1) / SEGMENT;
    if (is_chain) return;
    slots.resize(rows * longest_path);
    counts.resize(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = r / c.nodes, begin = whole[b] * SEGMENT, length = c.lengths[b];
      int32_t* mine = slots.data() + r * longest_path;
      int32_t n = 0;
      for (int64_t slot = begin; slot < length; ++slot) mine[n++] = static_cast<int32_t>(slot - begin);
      const uint8_t* seen = c.visible + r * c.pending;
      for (int64_t j = 0; j < c.pending; ++j)
        if (seen[j]) mine[n++] = static_cast<int32_t>(length + j - begin);
      counts[r] = n;
    }
  }

  bool looks_like_chain() const {
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* seen = c.visible + r * c.pending;
      const int64_t own = r % c.nodes;
      for (int64_t j = 0; j < c.pending; ++j)
        if ((seen[j] != 0) != (j <= own)) return false;
    }
    return true;
  }

  template <class T>
  void unit(const float* q, const T* keys, const T* values, float* mixed, int64_t b, int64_t h,
            int64_t part, float* scratch) {
    if (is_chain) return prompt_unit(q, keys, values, mixed, b, h, part, scratch);
    // The longest first, so that the threads end together: the tail, whole runs, what is left of one.
    if (part == 0) return tail_unit(q, keys, values, b, h, scratch);
    const int64_t runs = whole[b] / RUN;
    if (part > most_runs) {
      const int64_t segment = runs * RUN + part - most_runs - 1;
      if (segment < whole[b]) shared_unit(q, keys, values, b, h, segment, scratch);
    } else if (part <= runs) {
      const int64_t first = (part - 1) * RUN;
      for (int64_t s = first; s < first + RUN; ++s) shared_unit(q, keys, values, b, h, s, scratch);
      merge_run(b, h, first, 0, queries);
    }
  }

  // Merge the segments of a run into its first, for queries `from` to `to`.
  void merge_run(int64_t b, int64_t h, int64_t first, int64_t from, int64_t to) const {
    const Partial into = partial(b, h, first);
    for (int64_t part = first + 1; part < std::min(first + RUN, parts); ++part)
      for (int64_t i = from; i < to; ++i) merge_into(into, partial(b, h, part), i);
  }

  void merge_into(const Partial& into, const Partial& next, int64_t i) const {
    merge(into, i, next.top[i], next.total[i], next.out + i * c.dim, c.dim);
  }

  // Queries of the heads that share a KV head, [node, group, dim].
  void gather_queries(const float* q, int64_t b, int64_t h, int64_t from, int64_t to, float* out) const {
    for (int64_t node = from; node < to; ++node)
      std::memcpy(out + (node - from) * group * c.dim,
                  q + ((b * c.nodes + node) * c.heads + h * group) * c.dim,
                  sizeof(float) * group * c.dim);
  }

  Partial partial(int64_t b, int64_t h, int64_t part) const {
    float* at = partials + ((b * c.kv_heads + h) * parts + part) * queries * (c.dim + 2);
    return {at, at + queries, at + 2 * queries};
  }

  template <class T>
  void shared_unit(const float* q, const T* keys, const T* values, int64_t b, int64_t h, int64_t part,
                   float* scratch) {
    const int64_t begin = part * SEGMENT;
    float* mine = scratch;
    float* scores = mine + padded(queries * c.dim);
    gather_queries(q, b, h, 0, c.nodes, mine);
    segment(mine, queries, keys + begin * c.dim, values + begin * c.dim, c.dim, SEGMENT, nullptr, c.dim,
            scores, partial(b, h, part));
  }

  // What follows the last whole segment of the prefix: the keys differ by node.
  template <class T>
  void tail_unit(const float* q, const T* keys, const T* values, int64_t b, int64_t h,
                 float* scratch) {
    const int64_t dim = c.dim, begin = whole[b] * SEGMENT;
    const int64_t tail = c.lengths[b] - begin + c.pending;
    float* mine = scratch;
    float* chosen = mine + padded(queries * dim);  // [group, SEGMENT]
    float* scores = chosen + QUERIES * SEGMENT;    // [query, tail]
    keys += begin * dim;
    values += begin * dim;
    gather_queries(q, b, h, 0, c.nodes, mine);
    score(mine, queries, keys, dim, static_cast<int>(tail), scores, longest_tail);
    for (int64_t part = whole[b]; part < parts; ++part) {
      const Partial out = partial(b, h, part);
      const int64_t first = (part - whole[b]) * SEGMENT;
      for (int64_t node = 0; node < c.nodes; ++node) {
        const int64_t r = b * c.nodes + node;
        const int count =
            static_cast<int>(std::clamp<int64_t>(counts[r] - first, 0, SEGMENT));
        const int32_t* order = slots.data() + r * longest_path + first;
        tail_node(scores + node * group * longest_tail, values, order, count, node, chosen, out);
      }
    }
  }

  template <class T>
  void tail_node(const float* scores, const T* values, const int32_t* order, int count, int64_t node,
                 float* chosen, const Partial& out) {
    const int64_t query = node * group;
    for (int64_t at = 0; at < group; at += QUERIES) {
      const int64_t n = std::min<int64_t>(QUERIES, group - at);
      for (int64_t g = 0; g < n; ++g) {
        const float* mine = scores + (at + g) * longest_tail;
        float* row = chosen + g * SEGMENT;
        out.total[query + at + g] = 0.0f;
        if (count == 0) continue;
        for (int j = 0; j < count; ++j) row[j] = mine[order[j]];
        const Softened s = soften(row, count);
        out.top[query + at + g] = s.top;
        out.total[query + at + g] = s.total;
      }
      if (count > 0)
        mix<true>(chosen, SEGMENT, n, values, c.dim, order, count,
                  out.out + (query + at) * c.dim, c.dim);
    }
  }

  // Some nodes of a prompt over all keys up to their own, segment by segment.
  template <class T>
  void prompt_unit(const float* q, const T* keys, const T* values, float* mixed, int64_t b, int64_t h,
                   int64_t part, float* scratch) {
    const int64_t dim = c.dim, from = part * CHAIN_BLOCK,
                  to = std::min<int64_t>(from + CHAIN_BLOCK, c.nodes), some = (to - from) * group;
    float* mine = scratch;
    float* scores = mine + padded(queries * dim);
    float* state = scores + QUERIES * SEGMENT;
    const int64_t size = queries * (dim + 2);
    const auto made = [&](float* at) { return Partial{at, at + queries, at + 2 * queries}; };
    const Partial all = made(state), so_far = made(state + size), now = made(state + 2 * size);
    int32_t* visible = reinterpret_cast<int32_t*>(state + 3 * size);
    gather_queries(q, b, h, from, to, mine);
    for (int64_t i = 0; i < some; ++i) all.total[i] = so_far.total[i] = 0.0f;
    const int64_t end = c.lengths[b] + to;
    for (int64_t begin = 0; begin < end; begin += SEGMENT) {
      const int count = static_cast<int>(std::min<int64_t>(SEGMENT, end - begin));
      for (int64_t i = 0; i < some; ++i)
        visible[i] = static_cast<int32_t>(
            std::clamp<int64_t>(c.lengths[b] + from + i / group + 1 - begin, 0, count));
      segment(mine, some, keys + begin * dim, values + begin * dim, dim, count, visible, dim, scores,
              now);
      const bool is_last = begin + SEGMENT >= end || begin / SEGMENT % RUN == RUN - 1;
      for (int64_t i = 0; i < some; ++i) {
        merge_into(so_far, now, i);
        if (!is_last) continue;
        merge_into(all, so_far, i);
        so_far.total[i] = 0.0f;
      }
    }
    for (int64_t i = 0; i < some; ++i) {
      const int64_t r = b * c.nodes + from + i / group, head = h * group + i % group;
      finish(all, i, mixed + (r * c.heads + head) * dim);
    }
  }

  void finish(const Partial& state, int64_t i, float* out) const {
    const vf scale = set1(1.0f / state.total[i]);
    for (int64_t d = 0; d < c.dim; d += VL)
      store(out + d, load(state.out + i * c.dim + d) * scale);
  }
};

}  // namespace ff

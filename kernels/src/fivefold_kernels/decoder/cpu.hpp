// One pass of a Llama-family decoder over tree nodes, in one call: norms, products, rotary positions,
// attention over the KV cache and the output layer. Nothing is dispatched between the stages.
//
// Every stage gives each thread whole outputs: rows, tiles of outputs, or attention units. No sum is
// split among threads, so that the result does not depend on their number.
#pragma once

#include <ctime>
#include <initializer_list>

#include "../attention/tree.hpp"
#include "../linear/cpu.hpp"
#include "../native/pool.hpp"
#include "../native/scratch.hpp"
#include "../pointwise/cpu.hpp"

namespace ff {

struct Layer {
  const float* input_norm;
  const float* post_norm;
  const float* query_norm;  // or null: [dim], as in Qwen3
  const float* key_norm;
  const Matrix* query;
  const Matrix* key;
  const Matrix* value;
  const Matrix* output;
  const Matrix* gate;
  const Matrix* up;
  const Matrix* down;
};

struct Decoder {
  int64_t layers, hidden, heads, kv_heads, dim, ffn;
  float eps, scale;
  const Layer* layer;
  const float* final_norm;
  const Matrix* head;  // or null
};

// What one call brings: nodes of a batch, and where keys and values lie.
struct Call {
  int64_t batch, nodes, pending;  // pending: of each row, the new nodes included, which come last
  const float* input;             // [batch, nodes, hidden]
  const float* cosine;            // [batch, nodes, dim / 2]
  const float* sine;
  const int64_t* lengths;         // [batch] committed slots
  const uint8_t* visible;         // [batch, nodes, pending] of pending nodes: ancestors and itself
  void* keys;                     // [layer, batch, kv_head, slot / 16, dim, 16]
  void* values;                   // [layer, batch, kv_head, slot, dim]
  int64_t layer_stride, batch_stride, head_stride;  // of both, in numbers
  int32_t is_bf16;                // keys and values
  float* hidden;                  // [batch, nodes, hidden] after the final norm
  float* logits;                  // [batch, nodes, vocab] or null
  double* seconds;                // [STAGES] or null: where the time goes
  // Layers [first, last) are run; a pass may come in several calls, one after the other, between which
  // the rows stay in the scratch memory. What follows the layers comes with the last of them.
  int64_t first, last;
};

enum Stage { NORM, PROJECT, ROTATE, ATTEND, MERGE, OUTPUT, GATE, DOWN, HEAD, STAGES };

class Pass {
 public:
  // Lay everything out for a call; allocates here, so that the threads never do.
  void prepare(const Decoder& model, const Call& call, int threads) {
    m = &model;
    c = &call;
    rows = call.batch * call.nodes;
    q_size = model.heads * model.dim;
    kv_size = model.kv_heads * model.dim;
    x = x_.of<float>(rows * model.hidden);
    normed = normed_.of<float>(rows * model.hidden);
    q = q_.of<float>(rows * q_size);
    k = k_.of<float>(rows * kv_size);
    v = v_.of<float>(rows * kv_size);
    mixed = mixed_.of<float>(rows * q_size);
    act = act_.of<float>(rows * model.ffn);
    of_hidden.make_room(rows, std::max(model.hidden, q_size));
    of_ffn.make_room(rows, model.ffn);
    attention.prepare({call.batch, call.nodes, call.pending, model.heads, model.kv_heads, model.dim,
                       call.lengths, call.visible, call.batch_stride, call.head_stride, call.is_bf16},
                      model.layers);
    per_thread = padded(std::max(rows * 2 * DENSE_TILE, attention.scratch()), 64);
    thread_scratch = thread_.of<float>(per_thread * threads);
  }

  static void work(void* self, Team& team, int t) { static_cast<Pass*>(self)->run(team, t); }

 private:
  const Decoder* m;
  const Call* c;
  int64_t rows, q_size, kv_size, per_thread;
  float *x, *normed, *q, *k, *v, *mixed, *act, *thread_scratch;
  Converted of_hidden, of_ffn;
  TreeAttention attention;
  Scratch x_, normed_, q_, k_, v_, mixed_, act_, thread_;

  // ------------------------------------------------------------------------------------- stages

  void run(Team& team, int t) {
    const tiles::Use use;
    Clock clock(t == 0 ? c->seconds : nullptr);
    const Span mine(rows, t, team.size());
    for (int64_t r = mine.begin; c->first == 0 && r < mine.end; ++r)
      std::memcpy(x + r * m->hidden, c->input + r * m->hidden, sizeof(float) * m->hidden);
    for (int64_t i = c->first; i < c->last; ++i) {
      const Layer& layer = m->layer[i];
      norm_rows(mine, layer.input_norm, *layer.query);
      clock.end(team, NORM);
      project(team, t, {{layer.query, q, false}, {layer.key, k, false}, {layer.value, v, false}},
              of_hidden.rows(*layer.query, normed));
      clock.end(team, PROJECT);
      rotate_rows(mine, layer, i);
      clock.end(team, ROTATE);
      attention.attend(i, q, cache(c->keys, i), cache(c->values, i), mixed, thread_scratch + per_thread * t);
      clock.end(team, ATTEND);
      for (int64_t r = mine.begin; r < mine.end; ++r) attention.merge_row(r, mixed);
      convert_rows(mine, *layer.output, mixed, q_size);
      clock.end(team, MERGE);
      project(team, t, {{layer.output, x, true}}, of_hidden.rows(*layer.output, mixed));
      clock.end(team, OUTPUT);
      norm_rows(mine, layer.post_norm, *layer.gate);
      clock.end(team, NORM);
      gate_up(team, t, layer, of_hidden.rows(*layer.gate, normed));
      clock.end(team, GATE);
      project(team, t, {{layer.down, x, true}}, of_ffn.rows(*layer.down, act));
      clock.end(team, DOWN);
    }
    if (c->last < m->layers) return;
    for (int64_t r = mine.begin; r < mine.end; ++r)
      rms_norm(x + r * m->hidden, m->final_norm, m->hidden, m->eps, c->hidden + r * m->hidden);
    if (c->logits == nullptr || m->head == nullptr) return;
    convert_rows(mine, *m->head, c->hidden, m->hidden);
    clock.end(team, NORM);
    project(team, t, {{m->head, c->logits, false}}, of_hidden.rows(*m->head, c->hidden));
    clock.end(team, HEAD);
  }

  void convert_rows(const Span& mine, const Matrix& w, const float* from, int64_t width) const {
    if (w.format == F32) return;
    const Rows to = of_hidden.rows(w, from);
    for (int64_t r = mine.begin; r < mine.end; ++r)
      convert(w.format, from + r * width, 0, width, to, r);
  }

  void norm_rows(const Span& mine, const float* weight, const Matrix& w) const {
    for (int64_t r = mine.begin; r < mine.end; ++r)
      rms_norm(x + r * m->hidden, weight, m->hidden, m->eps, normed + r * m->hidden);
    convert_rows(mine, w, normed, m->hidden);
  }

  struct Product {
    const Matrix* w;
    float* y;    // [row, out]
    bool added;  // to what is there
  };

  // Tiles of several matrices with one input, shared among the threads as one list.
  void project(Team& team, int t, std::initializer_list<Product> products, const Rows& from) {
    int64_t all = 0;
    for (const Product& p : products) all += tiles_of(*p.w);
    const Span mine(all, t, team.size());
    float* scratch = thread_scratch + per_thread * t;
    int64_t first = 0;
    for (const Product& p : products) {
      const int64_t tiles = tiles_of(*p.w), begin = std::max<int64_t>(mine.begin - first, 0),
                    end = std::min(mine.end - first, tiles);
      for (int64_t tile = begin; tile < end; ++tile) {
        tile_product(*p.w, tile, from, rows, scratch);
        spread(*p.w, tile, scratch, rows, p.y, p.added);
      }
      first += tiles;
    }
  }

  // Each thread takes whole groups of the next product's inputs, and brings them into its format.
  void gate_up(Team& team, int t, const Layer& layer, const Rows& from) {
    const int width = tile_of(layer.gate->format);
    const Span mine((m->ffn + GROUP - 1) / GROUP, t, team.size());
    const Rows next = of_ffn.rows(*layer.down, act);
    for (int64_t begin = mine.begin * GROUP; begin < std::min(mine.end * GROUP, m->ffn); begin += GROUP) {
      const int64_t end = std::min<int64_t>(begin + GROUP, m->ffn);
      for (int64_t tile = begin / width; tile * width < end; ++tile)
        gate_up_tile(t, layer, from, tile, width);
      for (int64_t r = 0; r < rows; ++r)
        convert(layer.down->format, act + r * m->ffn, begin, end, next, r);
    }
  }

  void gate_up_tile(int t, const Layer& layer, const Rows& from, int64_t tile, int width) {
    float* gate = thread_scratch + per_thread * t;
    float* up = gate + rows * DENSE_TILE;
    tile_product(*layer.gate, tile, from, rows, gate);
    tile_product(*layer.up, tile, from, rows, up);
    const int64_t at = tile * width, n = std::min<int64_t>(width, m->ffn - at);
    for (int64_t r = 0; r < rows; ++r) {
      float *g = gate + r * width, *u = up + r * width;
      if (layer.gate->bias)
        for (int64_t i = 0; i < n; ++i) g[i] += layer.gate->bias[at + i];
      if (layer.up->bias)
        for (int64_t i = 0; i < n; ++i) u[i] += layer.up->bias[at + i];
      silu_mul(g, u, n, act + r * m->ffn + at);
    }
  }

  void rotate_rows(const Span& mine, const Layer& layer, int64_t i) const {
    const int64_t dim = m->dim;
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      const float *cosine = c->cosine + r * (dim / 2), *sine = c->sine + r * (dim / 2);
      for (int64_t h = 0; h < m->heads; ++h) {
        float* query = q + r * q_size + h * dim;
        if (layer.query_norm) rms_norm(query, layer.query_norm, dim, m->eps, query);
        rotate(query, cosine, sine, dim);
        for (int64_t d = 0; d < dim; ++d) query[d] *= m->scale;
      }
      const int64_t b = r / c->nodes, node = r % c->nodes;
      const int64_t slot = c->lengths[b] + c->pending - c->nodes + node;
      for (int64_t h = 0; h < m->kv_heads; ++h) {
        float* key = k + r * kv_size + h * dim;
        if (layer.key_norm) rms_norm(key, layer.key_norm, dim, m->eps, key);
        rotate(key, cosine, sine, dim);
        const int64_t at = b * c->batch_stride + h * c->head_stride;
        write<KEY_BLOCK>(cache(c->keys, i), at + key_at(slot, dim), key);
        write<1>(cache(c->values, i), at + slot * dim, v + r * kv_size + h * dim);
      }
    }
  }

  void* cache(void* of, int64_t i) const {
    return static_cast<uint8_t*>(of) + i * c->layer_stride * (c->is_bf16 ? 2 : 4);
  }

  template <int STRIDE>
  void write(void* cache, int64_t at, const float* from) const {
    if (c->is_bf16) {
      uint16_t* to = static_cast<uint16_t*>(cache) + at;
      for (int64_t d = 0; d < m->dim; ++d) to[d * STRIDE] = to_bf16(from[d]);
    } else {
      float* to = static_cast<float*>(cache) + at;
      for (int64_t d = 0; d < m->dim; ++d) to[d * STRIDE] = from[d];
    }
  }

  // Time of each stage as the first thread sees it, waiting included.
  class Clock {
   public:
    explicit Clock(double* seconds) : seconds_(seconds) {
      if (seconds_) last_ = now();
    }
    void end(Team& team, Stage stage) {
      team.barrier();
      if (!seconds_) return;
      const double time = now();
      seconds_[stage] += time - last_;
      last_ = time;
    }

   private:
    static double now() {
      timespec t;
      clock_gettime(CLOCK_MONOTONIC, &t);
      return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    }
    double* seconds_;
    double last_ = 0;
  };
};

}  // namespace ff

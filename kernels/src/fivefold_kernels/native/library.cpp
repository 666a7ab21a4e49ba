// The C interface of the CPU kernels; one library for each instruction set it is compiled for.
// Every function that can fail returns 0 when it did not, and leaves nothing half done otherwise.
#include <new>

#include "../decoder/cpu.hpp"
#include "../linear/pack.hpp"

using namespace ff;

namespace {

// A product as a task of its own.
struct Product {
  const Matrix* w;
  const float* x;
  int64_t rows;
  float* y;
  Rows from;
  int64_t scratch_size;
  float* scratch;

  static void work(void* self, Team& team, int t) { static_cast<Product*>(self)->run(team, t); }

  void run(Team& team, int t) {
    const tiles::Use use;
    if (w->format != F32) {
      const Span mine(rows, t, team.size());
      for (int64_t r = mine.begin; r < mine.end; ++r)
        convert(w->format, x + r * w->in, 0, w->in, from, r);
      team.barrier();
    }
    const Span mine(tiles_of(*w), t, team.size());
    float* tile_out = scratch + t * scratch_size;
    for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
      tile_product(*w, tile, from, rows, tile_out);
      spread(*w, tile, tile_out, rows, y, false);
    }
  }
};

struct Attention {
  TreeAttention attention;
  const float* q;
  const void *keys, *values;
  float* out;
  int64_t rows;
  float* scratch;
  int64_t scratch_size;

  static void work(void* self, Team& team, int t) {
    Attention& a = *static_cast<Attention*>(self);
    a.attention.attend(0, a.q, a.keys, a.values, a.out, a.scratch + t * a.scratch_size);
    team.barrier();
    const Span mine(a.rows, t, team.size());
    for (int64_t r = mine.begin; r < mine.end; ++r) a.attention.merge_row(r, a.out);
  }
};

struct Sum {  // the bandwidth test: read a buffer once
  const float* data;
  int64_t count;
  double total[256];

  static void work(void* self, Team& team, int t) {
    Sum& s = *static_cast<Sum*>(self);
    const Span mine(s.count / (4 * VL), t, team.size());
    vf a = set1(0), b = a, c = a, d = a;
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const float* p = s.data + i * 4 * VL;
      a = a + load(p), b = b + load(p + VL), c = c + load(p + 2 * VL), d = d + load(p + 3 * VL);
    }
    s.total[t] = sum((a + b) + (c + d));
  }
};

constexpr int NO_MEMORY = 1;

}  // namespace

#define FF_EXPORT extern "C" __attribute__((visibility("default")))


FF_EXPORT int32_t ff_lanes() { return VL; }

FF_EXPORT int64_t ff_packed_bytes(int32_t format, int64_t out, int64_t in) {
  const int width = tile_of(format);
  return (out + width - 1) / width * tile_bytes(format, in);
}

FF_EXPORT int64_t ff_tile(int32_t format) { return tile_of(format); }

FF_EXPORT void ff_pack(int32_t format, int32_t kind, const void* source, int64_t out, int64_t in, void* data,
             float* scales) {
  pack(format, kind, source, out, in, data, scales);
}

FF_EXPORT void ff_unpack(const Matrix* w, const int64_t* rows, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) unpack_row(*w, rows[i], out + i * w->in);
}

FF_EXPORT int32_t ff_linear(const Matrix* w, const float* x, int64_t rows, float* y, int32_t threads) {
  try {
    // Kept between calls, so that no call has to fetch fresh pages; each Python thread has its own.
    static thread_local Converted converted;
    static thread_local Scratch tiles;
    if (w->format != F32) converted.make_room(rows, w->in);
    const int64_t scratch_size = padded(rows * DENSE_TILE, 64);
    Product p{w, x, rows, y, converted.rows(*w, x), scratch_size, tiles.of<float>(scratch_size * threads)};
    Teams::run(threads, Product::work, &p);
    return 0;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

FF_EXPORT int32_t ff_attention(const Nodes* nodes, const float* q, const void* keys, const void* values,
                     float* out, int32_t threads) {
  try {
    static thread_local Attention a;
    static thread_local Scratch scratch;
    a.attention.prepare(*nodes, 1);
    a.q = q, a.keys = keys, a.values = values, a.out = out;
    a.rows = nodes->batch * nodes->nodes;
    a.scratch_size = padded(a.attention.scratch(), 64);
    a.scratch = scratch.of<float>(a.scratch_size * threads);
    Teams::run(threads, Attention::work, &a);
    return 0;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

// Copy slots of each row, in all planes [plane, batch, head]: `from` and `to` are [batch, count] and
// ascend, with to <= from, so that nothing is overwritten before it is read.
FF_EXPORT void ff_move_slots(void* data, int32_t is_keys, int32_t itemsize, int64_t planes,
                             int64_t batch, int64_t heads, int64_t slots, int64_t dim,
                             const int64_t* from, const int64_t* to, int64_t count) {
  const auto move = [&](auto* head, int64_t b) {
    for (int64_t i = b * count; i < (b + 1) * count; ++i) {
      if (from[i] == to[i]) continue;
      if (is_keys)
        for (int64_t d = 0; d < dim * KEY_BLOCK; d += KEY_BLOCK)
          head[key_at(to[i], dim) + d] = head[key_at(from[i], dim) + d];
      else
        std::memcpy(head + to[i] * dim, head + from[i] * dim, sizeof(*head) * dim);
    }
  };
  for (int64_t p = 0; p < planes * batch * heads; ++p) {
    const int64_t at = p * slots * dim, b = p / heads % batch;
    if (itemsize == 4)
      move(static_cast<float*>(data) + at, b);
    else
      move(static_cast<uint16_t*>(data) + at, b);
  }
}

FF_EXPORT void ff_rms_norm(const float* x, const float* weight, int64_t rows, int64_t n, float eps, float* y) {
  for (int64_t r = 0; r < rows; ++r) rms_norm(x + r * n, weight, n, eps, y + r * n);
}

FF_EXPORT void ff_rotate(float* x, const float* cosine, const float* sine, int64_t rows, int64_t heads,
               int64_t dim) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t h = 0; h < heads; ++h)
      rotate(x + (r * heads + h) * dim, cosine + r * (dim / 2), sine + r * (dim / 2), dim);
}

FF_EXPORT void ff_silu_mul(const float* gate, const float* up, int64_t n, float* y) { silu_mul(gate, up, n, y); }

FF_EXPORT void* ff_pass_new() { return new (std::nothrow) Pass; }
FF_EXPORT void ff_pass_free(void* pass) { delete static_cast<Pass*>(pass); }

FF_EXPORT int32_t ff_pass_run(void* pass, const Decoder* model, const Call* call, int32_t threads) {
  try {
    Pass* p = static_cast<Pass*>(pass);
    p->prepare(*model, *call, threads);
    Teams::run(threads, Pass::work, p);
    return 0;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

FF_EXPORT double ff_read(const float* data, int64_t count, int32_t threads) {
  Sum s{data, count, {}};
  Teams::run(threads, Sum::work, &s);
  double total = 0;
  for (int t = 0; t < threads; ++t) total += s.total[t];
  return total;
}

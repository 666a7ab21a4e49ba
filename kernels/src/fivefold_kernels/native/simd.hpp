// One vector of floats as wide as the machine's registers: the same source for every width.
//
// Everything is compiled with -ffp-contract=off, so that `fma` below is the only fused operation and
// a sum has one order and one rounding wherever it is written.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ff {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

#define FF_INLINE inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef int8_t vb __attribute__((vector_size(VL)));

typedef float vf_at __attribute__((vector_size(VL * 4), aligned(1), may_alias));
typedef int32_t vi_at __attribute__((vector_size(VL * 4), aligned(1), may_alias));
typedef uint16_t vh_at __attribute__((vector_size(VL * 2), aligned(1), may_alias));

FF_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_at*>(p); }
FF_INLINE vi load_bits(const void* p) { return *reinterpret_cast<const vi_at*>(p); }
FF_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_at*>(p) = v; }

FF_INLINE vf set1(float x) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_set1_ps(x));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_set1_ps(x));
#else
  return vf{x, x, x, x};
#endif
}

FF_INLINE vi set1_bits(int32_t x) {
#if defined(__AVX512F__)
  return reinterpret_cast<vi>(_mm512_set1_epi32(x));
#elif defined(__AVX2__)
  return reinterpret_cast<vi>(_mm256_set1_epi32(x));
#else
  return vi{x, x, x, x};
#endif
}

// a * b + c, rounded once where the machine can.
FF_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

FF_INLINE vf max(vf a, vf b) { return a > b ? a : b; }

FF_INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }

// bfloat16 is the upper half of a float.
FF_INLINE vf load(const uint16_t* p) {
  vu wide = __builtin_convertvector(*reinterpret_cast<const vh_at*>(p), vu);
  return reinterpret_cast<vf>(wide << 16);
}

FF_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FF_INLINE float from_bf16(uint16_t x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// float16 as scales are stored in GGUF blocks (finite, never NaN).
FF_INLINE vf load_half(const uint16_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__) && defined(__F16C__)
  return reinterpret_cast<vf>(
      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  vu wide = __builtin_convertvector(*reinterpret_cast<const vh_at*>(p), vu);
  // Exponent and mantissa land 112 too low; a product by 2^112 also makes subnormals right.
  vf size = reinterpret_cast<vf>((wide & 0x7fffu) << 13) * set1(5.192296858534828e33f);
  return reinterpret_cast<vf>(reinterpret_cast<vu>(size) | ((wide & 0x8000u) << 16));
#endif
}

// Sum and maximum over the lanes, always in the same order: halves onto halves.
template <int HALF, class V>
FF_INLINE V upper_half_down(V v) {
  vi from;
  for (int i = 0; i < VL; ++i) from[i] = i < HALF ? i + HALF : i;
  return __builtin_shuffle(v, from);
}

template <int HALF = VL / 2, class V>
FF_INLINE auto sum(V v) {
  v = v + upper_half_down<HALF>(v);
  if constexpr (HALF > 1)
    return sum<HALF / 2>(v);
  else
    return v[0];
}

template <int HALF = VL / 2>
FF_INLINE float max(vf v) {
  v = max(v, upper_half_down<HALF>(v));
  if constexpr (HALF > 1)
    return max<HALF / 2>(v);
  else
    return v[0];
}

// exp(x) for x <= 88: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes); below -87 it is 0.
FF_INLINE vf exp(vf x) {
  vf low = set1(-87.0f);
  vi is_zero = x < low;
  x = is_zero ? low : x;
  vf shifted = fma(x, set1(1.44269504088896341f), set1(12582912.0f));  // round to nearest
  vi n = reinterpret_cast<vi>(shifted) - set1_bits(0x4b400000);
  vf whole = shifted - set1(12582912.0f);
  vf r = fma(whole, set1(-0.693359375f), x);
  r = fma(whole, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  vf scaled = reinterpret_cast<vf>(reinterpret_cast<vi>(p) + (n << 23));
  return is_zero ? set1(0.0f) : scaled;
}

FF_INLINE float exp(float x) { return exp(set1(x))[0]; }

// sum of four products of unsigned bytes (u) and signed bytes (s) in each lane, added to c; exact.
// `wide` says whether u may be above 15 (two products of such could overflow 16 bits).
template <bool wide>
FF_INLINE vi dot4(vi c, vi u, vi s) {
#if defined(__AVX512VNNI__)
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(
      reinterpret_cast<__m512i>(c), reinterpret_cast<__m512i>(u), reinterpret_cast<__m512i>(s)));
#elif defined(__AVX512BW__)
  __m512i a = reinterpret_cast<__m512i>(u), b = reinterpret_cast<__m512i>(s);
  if constexpr (!wide) {
    __m512i pairs = _mm512_maddubs_epi16(a, b);
    return c + reinterpret_cast<vi>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
  __m512i even = _mm512_madd_epi16(_mm512_and_si512(a, _mm512_set1_epi16(0xff)),
                                   _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
  __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
  return c + reinterpret_cast<vi>(even) + reinterpret_cast<vi>(odd);
#elif defined(__AVX2__)
  __m256i a = reinterpret_cast<__m256i>(u), b = reinterpret_cast<__m256i>(s);
  if constexpr (!wide) {
    __m256i pairs = _mm256_maddubs_epi16(a, b);
    return c + reinterpret_cast<vi>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                                   _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return c + reinterpret_cast<vi>(even) + reinterpret_cast<vi>(odd);
#else
  for (int byte = 0; byte < 4; ++byte)
    c += ((u >> (8 * byte)) & 0xff) * ((s << (24 - 8 * byte)) >> 24);
  return c;
#endif
}

// acc + the products of pairs of bfloat16 numbers in each lane.
FF_INLINE vf dot2(vf acc, vi a, vi b) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc),
                                               reinterpret_cast<__m512bh>(a),
                                               reinterpret_cast<__m512bh>(b)));
#else
  const vi upper = set1_bits(static_cast<int32_t>(0xffff0000u));
  acc = fma(reinterpret_cast<vf>(a << 16), reinterpret_cast<vf>(b << 16), acc);
  return fma(reinterpret_cast<vf>(a & upper), reinterpret_cast<vf>(b & upper), acc);
#endif
}

}  // namespace ff

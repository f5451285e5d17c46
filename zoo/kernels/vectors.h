// Sixteen floats at a time, in the compiler's own vector types: no intrinsics are needed, any processor will do.
#pragma once
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(32), aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

static inline vec all(float value) { return vec{} + value; }
static inline vec select(ivec where, vec yes, vec no) { return (vec)((where & (ivec)yes) | (~where & (ivec)no)); }
static inline vec maximum(vec a, vec b) { return select(a < b, b, a); }  // NaN in a stays
static inline vec minimum(vec a, vec b) { return select(a > b, b, a); }

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec v) { *(vec*)p = v; }

static inline vec load(const bf16* p) { return (vec)(__builtin_convertvector(*(const hvec*)p, uvec) << 16); }

static inline void store(bf16* p, vec v) {
#ifdef __AVX512BF16__
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &rounded, sizeof rounded);
#else
    // Round to nearest, ties to even; a NaN stays one.
    uvec bits = (uvec)v;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    bits = (uvec)select(v != v, (vec)(uvec{} + 0x7fc0), (vec)bits);
    *(hvec*)p = __builtin_convertvector(bits, hvec);
#endif
}

// The first n lanes only; the others are 0.
template <class T>
static inline vec load(const T* p, int n) {
    if (n == LANES) return load(p);
    T part[LANES] = {};
    memcpy(part, p, n * sizeof(T));
    return load(part);
}

template <class T>
static inline void store(T* p, vec v, int n) {
    if (n == LANES) return store(p, v);
    T part[LANES];
    store(part, v);
    memcpy(p, part, n * sizeof(T));
}

// 1 / x of a finite x, to about one unit in the last place.
static inline vec reciprocal(vec x) {
#ifdef __AVX512F__
    vec guess = (vec)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

// e^x to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients).
static inline vec exponential(vec x) {
    x = minimum(maximum(x, all(-87.0f)), all(88.0f));
    vec shifted = x * 1.44269504088896341f + 12582912.0f;
    ivec n = (ivec)shifted - 0x4b400000;
    vec whole = shifted - 12582912.0f;
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)((n + 127) << 23);
}

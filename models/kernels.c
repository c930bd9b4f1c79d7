/* Loops that torch has no fast form of, for models/kernels.py: plain C, no Python.

   Features are rows of pixels, each with all its channels in one run (channels_last), as float or as bfloat16, which is
   the upper half of a float. PART(f) does a part of the pixels, rows or images, first ... last - 1; f shares them out to
   threads, which are torch's: the library is linked to no OpenMP of its own. */
#include <math.h>
#include <stdint.h>
#include <string.h>

const int64_t kernels_version = 3; /* another number for another set of functions or arguments: _VERSION of kernels.py */

#define INLINE static inline __attribute__((always_inline))

/* One compiled form for each generation of processors; the fastest that runs is taken when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* CALL with the number of channels as a constant, where networks have so many: then a pixel stays in registers. */
#define FOR_EACH_WIDTH(CALL)                                                                                           \
    switch (channels) {                                                                                                \
    case 8: CALL(8); break;                                                                                            \
    case 16: CALL(16); break;                                                                                          \
    case 32: CALL(32); break;                                                                                          \
    case 64: CALL(64); break;                                                                                          \
    case 128: CALL(128); break;                                                                                        \
    default: CALL(channels);                                                                                           \
    }

/* CALL(first, last) in every thread: together they do all of 0 ... count - 1. */
#define SHARE_OUT(CALL)                                                                                                \
    _Pragma("omp parallel for num_threads(threads) if (threads > 1)")                                                  \
    for (int64_t part = 0; part < threads; part++) CALL(count * part / threads, count * (part + 1) / threads)

INLINE float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The upper half is the nearest bfloat16, ties to even. NaN stays NaN: those of arithmetic have a lower half of zeros. */
INLINE uint32_t rounded(uint32_t bits) { return bits + 0x7fff + ((bits >> 16) & 1); }

INLINE float from_float32(float value) { return value; }
INLINE float to_float32(float value) { return value; }
INLINE float from_bfloat16(uint16_t value) { return from_bits((uint32_t)value << 16); }
INLINE uint16_t to_bfloat16(float value) { return (uint16_t)(rounded(to_bits(value)) >> 16); }

/* 16 neighbouring channels at once, where sums stay in registers from pixel to pixel: compilers do not see that alone. */
enum { LANES = 16 };
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

INLINE void load_float32(floats *to, const float *from) { memcpy(to, from, sizeof *to); }
INLINE void store_float32(float *to, const floats *from) { memcpy(to, from, sizeof *from); }

INLINE void load_bfloat16(floats *to, const uint16_t *from) {
    halves upper;
    memcpy(&upper, from, sizeof upper);
    const words bits = __builtin_convertvector(upper, words) << 16;
    memcpy(to, &bits, sizeof bits);
}

INLINE void store_bfloat16(uint16_t *to, const floats *from) {
    words bits;
    memcpy(&bits, from, sizeof bits);
    const halves upper = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, halves);
    memcpy(to, &upper, sizeof upper);
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t clamped(int64_t value, int64_t most) { return value < 0 ? 0 : value > most ? most : value; }

#define JOINED(A, B) A##B
#define NAMED(A, B) JOINED(A, B)
#define KIND(NAME) NAMED(NAME##_, SUFFIX)
#define PART(NAME) NAMED(NAME##_part_, SUFFIX)
#define OF(NAME) NAMED(KIND(NAME), _of)

#define SUFFIX float32
#define TYPE float
#include "kernels.h"
#undef SUFFIX
#undef TYPE

#define SUFFIX bfloat16
#define TYPE uint16_t
#include "kernels.h"

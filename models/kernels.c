/* Three loops that torch has no fast form of, for models/kernels.py: plain C, no Python, no threads of its own.

   Features are rows of pixels, each with all its channels in one run (channels_last), as float or as bfloat16, which is
   the upper half of a float. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One compiled form for each generation of processors; the fastest that runs is taken when the library is loaded. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* The upper half is the nearest bfloat16, ties to even. NaN stays NaN: those of arithmetic have a lower half of zeros. */
static inline uint32_t rounded(uint32_t bits) { return bits + 0x7fff + ((bits >> 16) & 1); }

static inline float from_float(float value) { return value; }
static inline float to_float(float value) { return value; }
static inline float from_bfloat16(uint16_t value) { return from_bits((uint32_t)value << 16); }
static inline uint16_t to_bfloat16(float value) { return (uint16_t)(rounded(to_bits(value)) >> 16); }

/* Every pixel minus the mean of its channels, divided by their standard deviation. Where the number of channels is a
   constant, a pixel stays in registers. */
static inline __attribute__((always_inline)) void normalise_float32_of(
    const float *restrict x, float *restrict y, int64_t pixels, const int64_t channels, float eps) {
    for (int64_t pixel = 0; pixel < pixels; pixel++, x += channels, y += channels) {
        float sum = 0, squares = 0;
        for (int64_t c = 0; c < channels; c++) sum += x[c];
        const float mean = sum / channels;
        for (int64_t c = 0; c < channels; c++) squares += (x[c] - mean) * (x[c] - mean);
        const float scale = 1 / sqrtf(squares / channels + eps);
        for (int64_t c = 0; c < channels; c++) y[c] = (x[c] - mean) * scale;
    }
}

/* Two channels lie in one word: taken apart and put together there, nothing has to be widened. */
static inline float lower(uint32_t word) { return from_bits(word << 16); }
static inline float upper(uint32_t word) { return from_bits(word & 0xffff0000); }

static inline __attribute__((always_inline)) void normalise_bfloat16_of(
    const uint32_t *restrict x, uint32_t *restrict y, int64_t pixels, const int64_t channels, float eps) {
    const int64_t words = channels / 2;
    for (int64_t pixel = 0; pixel < pixels; pixel++, x += words, y += words) {
        float sum = 0, squares = 0;
        for (int64_t c = 0; c < words; c++) sum += lower(x[c]) + upper(x[c]);
        const float mean = sum / channels;
        for (int64_t c = 0; c < words; c++)
            squares += (lower(x[c]) - mean) * (lower(x[c]) - mean) + (upper(x[c]) - mean) * (upper(x[c]) - mean);
        const float scale = 1 / sqrtf(squares / channels + eps);
        for (int64_t c = 0; c < words; c++) {
            const uint32_t low = to_bits((lower(x[c]) - mean) * scale), high = to_bits((upper(x[c]) - mean) * scale);
            y[c] = rounded(low) >> 16 | (rounded(high) & 0xffff0000);
        }
    }
}

#define FOR_EACH_WIDTH(NAME, TYPE)                                                                                     \
    FOR_EACH_PROCESSOR                                                                                                 \
    void NAME(const TYPE *x, TYPE *y, int64_t pixels, int64_t channels, float eps) {                                   \
        switch (channels) {                                                                                            \
        case 8: NAME##_of(x, y, pixels, 8, eps); break;                                                                \
        case 16: NAME##_of(x, y, pixels, 16, eps); break;                                                              \
        case 32: NAME##_of(x, y, pixels, 32, eps); break;                                                              \
        case 64: NAME##_of(x, y, pixels, 64, eps); break;                                                              \
        default: NAME##_of(x, y, pixels, channels, eps);                                                               \
        }                                                                                                              \
    }

FOR_EACH_WIDTH(normalise_float32, float)
FOR_EACH_WIDTH(normalise_bfloat16, uint32_t) /* an even number of channels */

/* Means of the windows whose upper left corners lie in rows first..last - 1: y is their (last - first) x (width -
   columns + 1) pixels. Sums of columns go from row to row, with a pixel added and one taken away; sums of windows go
   along them likewise. Returns 0 where there is no memory for one row of sums. */
#define WINDOW_MEANS(NAME, TYPE, READ, WRITE)                                                                          \
    FOR_EACH_PROCESSOR                                                                                                 \
    int NAME(const TYPE *restrict x, TYPE *restrict y, int64_t first, int64_t last, int64_t width, int64_t channels,   \
             int64_t rows, int64_t columns) {                                                                          \
        const int64_t row = width * channels, right = width - columns + 1;                                             \
        const float scale = 1.0f / ((float)rows * (float)columns);                                                     \
        float *restrict sums = calloc(row + channels, sizeof(float));                                                  \
        if (!sums) return 0;                                                                                           \
        float *restrict window = sums + row;                                                                           \
        for (int64_t i = first; i < first + rows; i++)                                                                 \
            for (int64_t k = 0; k < row; k++) sums[k] += READ(x[i * row + k]);                                         \
        for (int64_t i = first; i < last; i++, y += right * channels) {                                                \
            memset(window, 0, channels * sizeof(float));                                                               \
            for (int64_t j = 0; j < columns; j++)                                                                      \
                for (int64_t c = 0; c < channels; c++) window[c] += sums[j * channels + c];                            \
            for (int64_t j = 0; j < right; j++) {                                                                      \
                const float *gone = sums + j * channels, *come = gone + columns * channels;                            \
                TYPE *mean = y + j * channels;                                                                         \
                if (j + 1 < right)                                                                                     \
                    for (int64_t c = 0; c < channels; c++) {                                                           \
                        mean[c] = WRITE(window[c] * scale);                                                            \
                        window[c] += come[c] - gone[c];                                                                \
                    }                                                                                                  \
                else                                                                                                   \
                    for (int64_t c = 0; c < channels; c++) mean[c] = WRITE(window[c] * scale);                         \
            }                                                                                                          \
            if (i + 1 < last) {                                                                                        \
                const TYPE *gone = x + i * row, *come = gone + rows * row;                                             \
                for (int64_t k = 0; k < row; k++) sums[k] += READ(come[k]) - READ(gone[k]);                            \
            }                                                                                                          \
        }                                                                                                              \
        free(sums);                                                                                                    \
        return 1;                                                                                                      \
    }

WINDOW_MEANS(window_means_float32, float, from_float, to_float)
WINDOW_MEANS(window_means_bfloat16, uint16_t, from_bfloat16, to_bfloat16)

static inline int64_t clamped(int64_t value, int64_t most) { return value < 0 ? 0 : value > most ? most : value; }

/* Pixels of rows first..last - 1 times those of a map of down x right: the pixel of the map that lies above and left of
   one by so much, or the nearest to it. x begins at row first. */
#define SCALE(NAME, TYPE, READ, WRITE)                                                                                 \
    FOR_EACH_PROCESSOR                                                                                                 \
    void NAME(TYPE *restrict x, const TYPE *restrict map, int64_t first, int64_t last, int64_t width,                  \
              int64_t channels, int64_t down, int64_t right, int64_t above, int64_t left) {                            \
        for (int64_t i = first; i < last; i++) {                                                                       \
            const TYPE *row = map + clamped(i - above, down - 1) * right * channels;                                   \
            for (int64_t j = 0; j < width; j++, x += channels) {                                                       \
                const TYPE *scale = row + clamped(j - left, right - 1) * channels;                                     \
                for (int64_t c = 0; c < channels; c++) x[c] = WRITE(READ(x[c]) * READ(scale[c]));                      \
            }                                                                                                          \
        }                                                                                                              \
    }

SCALE(scale_float32, float, from_float, to_float)
SCALE(scale_bfloat16, uint16_t, from_bfloat16, to_bfloat16)

/* The functions of kernels.c that models/kernels.py calls, for one kind of numbers: TYPE in memory, read with `from`,
   written with `to`. Included by kernels.c, once for each kind. */
#define FROM NAMED(from_, SUFFIX)
#define TO NAMED(to_, SUFFIX)
#define LOAD NAMED(load_, SUFFIX)
#define STORE NAMED(store_, SUFFIX)

/* Every pixel minus the mean of its channels, times 1 / their standard deviation, which is kept where `scales` are. Where
   `other` is, x plus it is kept in `total` and normalised. */
INLINE void OF(normalise)(const TYPE *restrict x, const TYPE *restrict other, TYPE *restrict total, TYPE *restrict y,
                          float *restrict scales, float eps, const int64_t channels, int64_t first, int64_t last) {
    for (int64_t pixel = first; pixel < last; pixel++) {
        const TYPE *from = x + pixel * channels, *more = other + pixel * channels;
        TYPE *sums = total + pixel * channels, *to = y + pixel * channels;
        float sum = 0, squares = 0;
/* The channel, rounded as it is kept: computed again rather than read again, which would wait for it to be written. */
#define VALUE(C) (other ? FROM(TO(FROM(from[C]) + FROM(more[C]))) : FROM(from[C]))
        for (int64_t c = 0; c < channels; c++) sum += VALUE(c);
        const float mean = sum / channels;
        for (int64_t c = 0; c < channels; c++) squares += (VALUE(c) - mean) * (VALUE(c) - mean);
        const float scale = 1 / sqrtf(squares / channels + eps);
        for (int64_t c = 0; c < channels; c++) to[c] = TO((VALUE(c) - mean) * scale);
        if (other)
            for (int64_t c = 0; c < channels; c++) sums[c] = TO(VALUE(c));
        if (scales) scales[pixel] = scale;
#undef VALUE
    }
}

FOR_EACH_PROCESSOR
void PART(normalise)(const TYPE *x, const TYPE *other, TYPE *total, TYPE *y, float *scales, float eps, int64_t channels,
                     int64_t first, int64_t last) {
#define CALL(WIDTH) OF(normalise)(x, NULL, NULL, y, scales, eps, WIDTH, first, last)
#define CALL_ADDED(WIDTH) OF(normalise)(x, other, total, y, scales, eps, WIDTH, first, last)
    if (other) {
        FOR_EACH_WIDTH(CALL_ADDED)
    } else {
        FOR_EACH_WIDTH(CALL)
    }
#undef CALL
#undef CALL_ADDED
}

void KIND(normalise)(const TYPE *x, const TYPE *other, TYPE *total, TYPE *y, float *scales, float eps, int64_t channels,
                     int64_t count, int64_t threads) {
#define CALL(FIRST, LAST) PART(normalise)(x, other, total, y, scales, eps, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* The gradient by x: y and scales are what `normalise` gave, by_y is the gradient by y. `other`, the gradient by what
   else was made of x, is added. */
INLINE void OF(normalise_backward)(const TYPE *restrict y, const float *restrict scales, const TYPE *restrict by_y,
                                   const TYPE *restrict other, TYPE *restrict by_x, const int64_t channels,
                                   int64_t first, int64_t last) {
    for (int64_t pixel = first; pixel < last; pixel++) {
        const int64_t place = pixel * channels;
        const TYPE *value = y + place, *grad = by_y + place, *more = other + place;
        TYPE *to = by_x + place;
        float sum = 0, products = 0;
        for (int64_t c = 0; c < channels; c++) sum += FROM(grad[c]), products += FROM(grad[c]) * FROM(value[c]);
        const float mean = sum / channels, share = products / channels, scale = scales[pixel];
        for (int64_t c = 0; c < channels; c++)
            to[c] = TO(FROM(more[c]) + (FROM(grad[c]) - mean - FROM(value[c]) * share) * scale);
    }
}

FOR_EACH_PROCESSOR
void PART(normalise_backward)(const TYPE *y, const float *scales, const TYPE *by_y, const TYPE *other, TYPE *by_x,
                              int64_t channels, int64_t first, int64_t last) {
#define CALL(WIDTH) OF(normalise_backward)(y, scales, by_y, other, by_x, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(normalise_backward)(const TYPE *y, const float *scales, const TYPE *by_y, const TYPE *other, TYPE *by_x,
                              int64_t channels, int64_t count, int64_t threads) {
#define CALL(FIRST, LAST) PART(normalise_backward)(y, scales, by_y, other, by_x, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* The gate of a NAFBlock: the product of the two halves of a pixel's 2 x `channels`, times the scales of its image, which
   has `area` pixels. */
INLINE void OF(gate)(const TYPE *restrict x, const float *restrict scales, TYPE *restrict y, int64_t area,
                     const int64_t channels, int64_t first, int64_t last) {
    for (int64_t pixel = first; pixel < last;) {
        const int64_t image = pixel / area, end = smaller(last, (image + 1) * area);
        const float *scale = scales + image * channels;
        for (; pixel < end; pixel++) {
            const TYPE *a = x + pixel * 2 * channels, *b = a + channels;
            TYPE *to = y + pixel * channels;
            for (int64_t c = 0; c < channels; c++) to[c] = TO(FROM(a[c]) * FROM(b[c]) * scale[c]);
        }
    }
}

FOR_EACH_PROCESSOR
void PART(gate)(const TYPE *x, const float *scales, TYPE *y, int64_t area, int64_t channels, int64_t first,
                int64_t last) {
#define CALL(WIDTH) OF(gate)(x, scales, y, area, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(gate)(const TYPE *x, const float *scales, TYPE *y, int64_t area, int64_t channels, int64_t count,
                int64_t threads) {
#define CALL(FIRST, LAST) PART(gate)(x, scales, y, area, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* The gradient by both halves, where that by their product is by_y times the scales, plus `shifts`. */
INLINE void OF(gate_backward)(const TYPE *restrict x, const float *restrict scales, const float *restrict shifts,
                              const TYPE *restrict by_y, TYPE *restrict by_x, int64_t area, const int64_t channels,
                              int64_t first, int64_t last) {
    for (int64_t pixel = first; pixel < last;) {
        const int64_t image = pixel / area, end = smaller(last, (image + 1) * area);
        const float *scale = scales + image * channels, *shift = shifts + image * channels;
        for (; pixel < end; pixel++) {
            const TYPE *a = x + pixel * 2 * channels, *b = a + channels, *grad = by_y + pixel * channels;
            TYPE *by_a = by_x + pixel * 2 * channels, *by_b = by_a + channels;
            for (int64_t c = 0; c < channels; c++) {
                const float by_product = FROM(grad[c]) * scale[c] + shift[c];
                by_a[c] = TO(by_product * FROM(b[c]));
                by_b[c] = TO(by_product * FROM(a[c]));
            }
        }
    }
}

FOR_EACH_PROCESSOR
void PART(gate_backward)(const TYPE *x, const float *scales, const float *shifts, const TYPE *by_y, TYPE *by_x,
                         int64_t area, int64_t channels, int64_t first, int64_t last) {
#define CALL(WIDTH) OF(gate_backward)(x, scales, shifts, by_y, by_x, area, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(gate_backward)(const TYPE *x, const float *scales, const float *shifts, const TYPE *by_y, TYPE *by_x,
                         int64_t area, int64_t channels, int64_t count, int64_t threads) {
#define CALL(FIRST, LAST) PART(gate_backward)(x, scales, shifts, by_y, by_x, area, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* Sums over runs of `length` pixels of the product of both halves, or of it times by_y where that is: of the runs first
   ... last - 1, of which every image has as many as begin inside its `area`. */
INLINE void OF(gate_sums)(const TYPE *restrict x, const TYPE *restrict by_y, float *restrict sums, int64_t area,
                          int64_t length, const int64_t channels, int64_t first, int64_t last) {
    const int64_t runs = (area + length - 1) / length;
    for (int64_t run = first; run < last; run++) {
        const int64_t image = run / runs * area, start = run % runs * length;
        float *sum = sums + run * channels;
        for (int64_t pixel = image + start; pixel < image + smaller(start + length, area); pixel++) {
            const TYPE *a = x + pixel * 2 * channels, *b = a + channels, *grad = by_y + pixel * channels;
            if (by_y)
                for (int64_t c = 0; c < channels; c++) sum[c] += FROM(a[c]) * FROM(b[c]) * FROM(grad[c]);
            else
                for (int64_t c = 0; c < channels; c++) sum[c] += FROM(a[c]) * FROM(b[c]);
        }
    }
}

FOR_EACH_PROCESSOR
void PART(gate_sums)(const TYPE *x, const TYPE *by_y, float *sums, int64_t area, int64_t length, int64_t channels,
                     int64_t first, int64_t last) {
#define CALL(WIDTH) OF(gate_sums)(x, by_y, sums, area, length, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(gate_sums)(const TYPE *x, const TYPE *by_y, float *sums, int64_t area, int64_t length, int64_t channels,
                     int64_t count, int64_t threads) {
#define CALL(FIRST, LAST) PART(gate_sums)(x, by_y, sums, area, length, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* A 3 x 3 convolution of each of 2 x `channels` with weights of its own, nine rows of them and one of biases, and zeros
   around the images. Beside the result y, sums over each row of the product of its halves. `ring` holds three rows of x
   as float, with a pixel of zeros at both ends. */
INLINE void OF(depthwise)(const TYPE *restrict x, const float *restrict weight, TYPE *restrict y, float *restrict sums,
                          float *restrict ring, int64_t height, int64_t width, const int64_t channels, int64_t first,
                          int64_t last) {
    const int64_t both = 2 * channels, row = width * both, slot = row + 2 * both;
    for (int64_t i = first; i < last; i++) {
        const int64_t image = i / height * height;
        for (int64_t k = i == first || i == image ? i - 1 : i + 1; k <= i + 1; k++) {
            float *to = ring + (k + 3) % 3 * slot + both;
            if (k < image || k == image + height)
                memset(to, 0, row * sizeof(float));
            else
                for (int64_t c = 0; c < row; c++) to[c] = FROM(x[k * row + c]);
        }
        for (int64_t c = 0; c < both; c += LANES) {
            floats w[10];
            for (int k = 0; k < 10; k++) load_float32(&w[k], weight + k * both + c);
            for (int64_t j = 0; j < width; j++) {
                floats sum = w[9], value;
                _Pragma("GCC unroll 9")
                for (int k = 0; k < 9; k++) {
                    load_float32(&value, ring + (i + 2 + k / 3) % 3 * slot + (j + k % 3) * both + c);
                    sum += value * w[k];
                }
                STORE(y + i * row + j * both + c, &sum);
            }
        }
        OF(gate_sums)(y, NULL, sums, height * width, width, channels, i, i + 1);
    }
}

FOR_EACH_PROCESSOR
void PART(depthwise)(const TYPE *x, const float *weight, TYPE *y, float *sums, float *ring, int64_t height,
                     int64_t width, int64_t channels, int64_t first, int64_t last) {
#define CALL(WIDTH) OF(depthwise)(x, weight, y, sums, ring, height, width, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(depthwise)(const TYPE *x, const float *weight, TYPE *y, float *sums, float *ring, int64_t height,
                     int64_t width, int64_t channels, int64_t count, int64_t threads) {
#define CALL(FIRST, LAST)                                                                                              \
    PART(depthwise)(x, weight, y, sums, ring + part * 6 * (width + 2) * channels, height, width, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* The gradients by x and by the weights, where that by the product of the halves of y is by_product times the scales of
   its image, plus its shifts. Runs of `length` rows, of which every image has as many as begin inside it, have sums of
   their own. `ring` holds three rows of the gradient by y. */
INLINE void OF(depthwise_backward)(const TYPE *restrict x, const TYPE *restrict y, const TYPE *restrict by_product,
                                   const float *restrict weight, const float *restrict scales,
                                   const float *restrict shifts, TYPE *restrict by_x, float *restrict by_weight,
                                   float *restrict ring, int64_t height, int64_t width, int64_t length,
                                   const int64_t channels, int64_t first, int64_t last) {
    const int64_t both = 2 * channels, row = width * both, slot = row + 2 * both;
    const int64_t runs = (height + length - 1) / length;
    for (int64_t run = first; run < last; run++) {
        const int64_t image = run / runs, top = image * height, start = top + run % runs * length;
        const int64_t end = smaller(start + length, top + height);
        const float *scale = scales + image * channels, *shift = shifts + image * channels;
        for (int64_t k = start - 1; k <= end; k++) {
            float *to = ring + (k + 3) % 3 * slot + both;
            if (k < top || k == top + height)
                memset(to, 0, row * sizeof(float));
            else
                for (int64_t j = 0; j < width; j++) {
                    const TYPE *a = y + k * row + j * both, *b = a + channels;
                    const TYPE *grad = by_product + (k * width + j) * channels;
                    float *by_a = to + j * both, *by_b = by_a + channels;
                    for (int64_t c = 0; c < channels; c++) {
                        const float by_both = FROM(grad[c]) * scale[c] + shift[c];
                        by_a[c] = by_both * FROM(b[c]);
                        by_b[c] = by_both * FROM(a[c]);
                    }
                }
            const int64_t i = k - 1; /* the row whose neighbours are in the ring by now */
            if (i < start) continue;
            for (int64_t c = 0; c < both; c += LANES) {
                float *total = by_weight + run * 10 * both + c;
                floats w[9], sums[10];
                for (int t = 0; t < 9; t++) load_float32(&w[t], weight + t * both + c);
                for (int t = 0; t < 10; t++) load_float32(&sums[t], total + t * both);
                for (int64_t j = 0; j < width; j++) {
                    floats sum = {0}, value, by_y;
                    LOAD(&value, x + i * row + j * both + c);
                    _Pragma("GCC unroll 9")
                    for (int t = 0; t < 9; t++) {
                        load_float32(&by_y, ring + (i + 4 - t / 3) % 3 * slot + (j + 2 - t % 3) * both + c);
                        sum += by_y * w[t];
                        sums[t] += by_y * value;
                        if (t == 4) sums[9] += by_y;
                    }
                    STORE(by_x + i * row + j * both + c, &sum);
                }
                for (int t = 0; t < 10; t++) store_float32(total + t * both, &sums[t]);
            }
        }
    }
}

FOR_EACH_PROCESSOR
void PART(depthwise_backward)(const TYPE *x, const TYPE *y, const TYPE *by_product, const float *weight,
                              const float *scales, const float *shifts, TYPE *by_x, float *by_weight, float *ring,
                              int64_t height, int64_t width, int64_t length, int64_t channels, int64_t first,
                              int64_t last) {
#define CALL(WIDTH)                                                                                                    \
    OF(depthwise_backward)(x, y, by_product, weight, scales, shifts, by_x, by_weight, ring, height, width, length,     \
                           WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(depthwise_backward)(const TYPE *x, const TYPE *y, const TYPE *by_product, const float *weight,
                              const float *scales, const float *shifts, TYPE *by_x, float *by_weight, float *ring,
                              int64_t height, int64_t width, int64_t length, int64_t channels, int64_t count,
                              int64_t threads) {
#define CALL(FIRST, LAST)                                                                                              \
    PART(depthwise_backward)(x, y, by_product, weight, scales, shifts, by_x, by_weight,                                \
                             ring + part * 6 * (width + 2) * channels, height, width, length, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* Sums of each channel over runs of `length` pixels: of the runs first ... last - 1 of `area` pixels. */
INLINE void OF(sums)(const TYPE *restrict x, float *restrict sums, int64_t area, int64_t length, const int64_t channels,
                     int64_t first, int64_t last) {
    for (int64_t run = first; run < last; run++) {
        float *sum = sums + run * channels;
        for (int64_t pixel = run * length; pixel < smaller((run + 1) * length, area); pixel++)
            for (int64_t c = 0; c < channels; c++) sum[c] += FROM(x[pixel * channels + c]);
    }
}

FOR_EACH_PROCESSOR
void PART(sums)(const TYPE *x, float *sums, int64_t area, int64_t length, int64_t channels, int64_t first,
                int64_t last) {
#define CALL(WIDTH) OF(sums)(x, sums, area, length, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(sums)(const TYPE *x, float *sums, int64_t area, int64_t length, int64_t channels, int64_t count,
                int64_t threads) {
#define CALL(FIRST, LAST) PART(sums)(x, sums, area, length, channels, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* Means of the windows of an image whose upper left corners lie in some rows. Sums of columns go from row to row, with a
   pixel added and one taken away; sums of windows go along them likewise. Both lie in `sums`, zeros at first. */
FOR_EACH_PROCESSOR
void PART(window_means)(const TYPE *restrict x, TYPE *restrict y, float *restrict sums, int64_t width, int64_t channels,
                        int64_t rows, int64_t columns, int64_t first, int64_t last) {
    const int64_t row = width * channels, right = width - columns + 1;
    const float scale = 1.0f / ((float)rows * (float)columns);
    float *restrict window = sums + row;
    for (int64_t i = first; i < first + rows; i++)
        for (int64_t k = 0; k < row; k++) sums[k] += FROM(x[i * row + k]);
    for (int64_t i = first; i < last; i++) {
        memset(window, 0, channels * sizeof(float));
        for (int64_t j = 0; j < columns; j++)
            for (int64_t c = 0; c < channels; c++) window[c] += sums[j * channels + c];
        for (int64_t j = 0; j < right; j++) {
            const float *gone = sums + j * channels, *come = gone + columns * channels;
            TYPE *mean = y + (i * right + j) * channels;
            if (j + 1 < right)
                for (int64_t c = 0; c < channels; c++) {
                    mean[c] = TO(window[c] * scale);
                    window[c] += come[c] - gone[c];
                }
            else
                for (int64_t c = 0; c < channels; c++) mean[c] = TO(window[c] * scale);
        }
        if (i + 1 < last) {
            const TYPE *gone = x + i * row, *come = gone + rows * row;
            for (int64_t k = 0; k < row; k++) sums[k] += FROM(come[k]) - FROM(gone[k]);
        }
    }
}

void KIND(window_means)(const TYPE *x, TYPE *y, float *sums, int64_t width, int64_t channels, int64_t rows,
                        int64_t columns, int64_t count, int64_t threads) {
#define CALL(FIRST, LAST)                                                                                              \
    PART(window_means)(x, y, sums + part * (width + 1) * channels, width, channels, rows, columns, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

/* Pixels of rows times those of a map of down x right: the pixel of the map that lies above and left of one by so much,
   or the nearest to it. */
FOR_EACH_PROCESSOR
void PART(scale)(TYPE *restrict x, const TYPE *restrict map, int64_t width, int64_t channels, int64_t down,
                 int64_t right, int64_t above, int64_t left, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
        const TYPE *row = map + clamped(i - above, down - 1) * right * channels;
        for (int64_t j = 0; j < width; j++) {
            const TYPE *scale = row + clamped(j - left, right - 1) * channels;
            TYPE *to = x + (i * width + j) * channels;
            for (int64_t c = 0; c < channels; c++) to[c] = TO(FROM(to[c]) * FROM(scale[c]));
        }
    }
}

void KIND(scale)(TYPE *x, const TYPE *map, int64_t width, int64_t channels, int64_t down, int64_t right, int64_t above,
                 int64_t left, int64_t count, int64_t threads) {
#define CALL(FIRST, LAST) PART(scale)(x, map, width, channels, down, right, above, left, FIRST, LAST)
    SHARE_OUT(CALL);
#undef CALL
}

#undef FROM
#undef TO
#undef LOAD
#undef STORE

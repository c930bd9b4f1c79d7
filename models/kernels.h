/* The functions of kernels.c that models/kernels.py calls, for one kind of numbers: TYPE in memory, read with `from`,
   written with `to`. Included by kernels.c, once for each kind. */
#define FROM NAMED(from_, SUFFIX)
#define TO NAMED(to_, SUFFIX)

/* Every pixel minus the mean of its channels, times 1 / their standard deviation, which is kept where `scales` are. */
INLINE void OF(normalise)(const TYPE *restrict x, TYPE *restrict y, float *scales, float eps, const int64_t channels,
                          int64_t first, int64_t last) {
    for (int64_t pixel = first; pixel < last; pixel++) {
        const TYPE *from = x + pixel * channels;
        TYPE *to = y + pixel * channels;
        float sum = 0, squares = 0;
        for (int64_t c = 0; c < channels; c++) sum += FROM(from[c]);
        const float mean = sum / channels;
        for (int64_t c = 0; c < channels; c++) squares += (FROM(from[c]) - mean) * (FROM(from[c]) - mean);
        const float scale = 1 / sqrtf(squares / channels + eps);
        for (int64_t c = 0; c < channels; c++) to[c] = TO((FROM(from[c]) - mean) * scale);
        if (scales) scales[pixel] = scale;
    }
}

FOR_EACH_PROCESSOR
void PART(normalise)(const TYPE *x, TYPE *y, float *scales, float eps, int64_t channels, int64_t first, int64_t last) {
#define CALL(WIDTH) OF(normalise)(x, y, scales, eps, WIDTH, first, last)
    FOR_EACH_WIDTH(CALL)
#undef CALL
}

void KIND(normalise)(const TYPE *x, TYPE *y, float *scales, float eps, int64_t channels, int64_t count,
                     int64_t threads) {
#define CALL(FIRST, LAST) PART(normalise)(x, y, scales, eps, channels, FIRST, LAST)
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

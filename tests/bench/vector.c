/* Floating point and vectors. Each operation is exactly rounded and in a fixed order, so checksums are exact. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "bench.h"

static const char *lacks_avx2_fma(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NULL : "AVX2, FMA";
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* --- 64 x 64 matrices --- */

enum {
    SIDE = 64
};
static double (*matrix_a)[SIDE], (*matrix_b)[SIDE], (*matrix_c)[SIDE];

static void prepare_matrix(void)
{
    matrix_a = bench_allocate(sizeof(double[SIDE][SIDE]));
    matrix_b = bench_allocate(sizeof(double[SIDE][SIDE]));
    matrix_c = bench_allocate(sizeof(double[SIDE][SIDE]));
    uint64_t random = 17;
    for (unsigned i = 0; i < SIDE * SIDE; i++) {
        matrix_a[i / SIDE][i % SIDE] = (double)(bench_random(&random) >> 40) / 1024.0;
        matrix_b[i / SIDE][i % SIDE] = (double)(bench_random(&random) >> 40) / 1024.0;
    }
}

static uint64_t matrix_checksum(void)
{
    uint64_t checksum = 0;
    for (unsigned i = 0; i < SIDE; i++) {
        checksum = bench_mix(checksum, bits_of(matrix_c[i][(i * 7) % SIDE]));
    }
    return checksum;
}

static uint64_t run_matmul_sse2(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        for (unsigned i = 0; i < SIDE; i++) {
            for (unsigned j = 0; j < SIDE; j += 8) {
                __m128d sum[4] = {_mm_setzero_pd(), _mm_setzero_pd(), _mm_setzero_pd(),
                                  _mm_setzero_pd()};
                for (unsigned k = 0; k < SIDE; k++) {
                    __m128d a = _mm_set1_pd(matrix_a[i][k]);
                    for (unsigned v = 0; v < 4; v++) {
                        sum[v] =
                            _mm_add_pd(sum[v], _mm_mul_pd(a, _mm_load_pd(&matrix_b[k][j + 2 * v])));
                    }
                }
                for (unsigned v = 0; v < 4; v++) {
                    _mm_store_pd(&matrix_c[i][j + 2 * v], sum[v]);
                }
            }
        }
    }
    return matrix_checksum();
}

__attribute__((target("avx2,fma"))) static uint64_t run_matmul_avx2(uint64_t count)
{
    for (uint64_t n = 0; n < count; n++) {
        for (unsigned i = 0; i < SIDE; i++) {
            for (unsigned j = 0; j < SIDE; j += 16) {
                __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                                  _mm256_setzero_pd()};
                for (unsigned k = 0; k < SIDE; k++) {
                    __m256d a = _mm256_set1_pd(matrix_a[i][k]);
                    for (unsigned v = 0; v < 4; v++) {
                        sum[v] =
                            _mm256_fmadd_pd(a, _mm256_load_pd(&matrix_b[k][j + 4 * v]), sum[v]);
                    }
                }
                for (unsigned v = 0; v < 4; v++) {
                    _mm256_store_pd(&matrix_c[i][j + 4 * v], sum[v]);
                }
            }
        }
    }
    return matrix_checksum();
}

/* --- bytes: blend of two images of 4 KiB, as video code does it --- */

enum {
    IMAGE_SIZE = 4096
};
static uint8_t *image_a, *image_b;

static void prepare_image(void)
{
    image_a = bench_allocate(IMAGE_SIZE);
    image_b = bench_allocate(IMAGE_SIZE);
    uint64_t random = 19;
    for (size_t i = 0; i < IMAGE_SIZE; i++) {
        image_a[i] = (uint8_t)bench_random(&random);
        image_b[i] = (uint8_t)bench_random(&random);
    }
}

__attribute__((target("avx2"))) static uint64_t run_bytes_avx2(uint64_t count)
{
    __m256i total = _mm256_setzero_si256();
    for (uint64_t n = 0; n < count; n++) {
        __m256i limit = _mm256_set1_epi8((char)(n & 0x7f));
        for (size_t i = 0; i < IMAGE_SIZE; i += 32) {
            __m256i a = _mm256_load_si256((const __m256i *)(image_a + i));
            __m256i b = _mm256_load_si256((const __m256i *)(image_b + i));
            __m256i mean = _mm256_avg_epu8(a, b);
            __m256i mask = _mm256_cmpgt_epi8(mean, limit);
            __m256i blended = _mm256_blendv_epi8(_mm256_subs_epu8(a, b), mean, mask);
            total = _mm256_add_epi64(total, _mm256_sad_epu8(blended, limit));
        }
    }
    uint64_t sums[4];
    _mm256_storeu_si256((__m256i *)sums, total);
    return sums[0] ^ sums[1] << 1 ^ sums[2] << 2 ^ sums[3] << 3;
}

/* --- five bodies under gravity: one step of the pairs, scalar SSE2 with square roots and divisions --- */

enum {
    BODIES = 5
};

struct body {
    double place[3], speed[3], mass;
};

static struct body bodies[BODIES];

static void place_bodies(void)
{
    for (unsigned i = 0; i < BODIES; i++) {
        for (unsigned axis = 0; axis < 3; axis++) {
            bodies[i].place[axis] = (double)((i * 7 + axis * 3) % 11) + 0.25 * i;
            bodies[i].speed[axis] = (double)((i + axis) % 3) * 0.125 - 0.125;
        }
        bodies[i].mass = 1.0 + 0.5 * i;
    }
}

static double square_root(double value)
{
    __m128d vector = _mm_set_sd(value);
    return _mm_cvtsd_f64(_mm_sqrt_sd(vector, vector));
}

static uint64_t run_nbody(uint64_t count)
{
    static const double step = 0.001;
    place_bodies();
    for (uint64_t n = 0; n < count; n++) {
        for (unsigned i = 0; i < BODIES; i++) {
            for (unsigned j = i + 1; j < BODIES; j++) {
                double away[3], square = 0.01;
                for (unsigned axis = 0; axis < 3; axis++) {
                    away[axis] = bodies[i].place[axis] - bodies[j].place[axis];
                    square += away[axis] * away[axis];
                }
                double pull = step / (square * square_root(square));
                for (unsigned axis = 0; axis < 3; axis++) {
                    bodies[i].speed[axis] -= away[axis] * bodies[j].mass * pull;
                    bodies[j].speed[axis] += away[axis] * bodies[i].mass * pull;
                }
            }
        }
        for (unsigned i = 0; i < BODIES; i++) {
            for (unsigned axis = 0; axis < 3; axis++) {
                bodies[i].place[axis] += step * bodies[i].speed[axis];
            }
        }
    }
    uint64_t checksum = 0;
    for (unsigned i = 0; i < BODIES; i++) {
        checksum = bench_mix(checksum, bits_of(bodies[i].place[0]) ^ bits_of(bodies[i].speed[2]));
    }
    return checksum;
}

/* --- conversions between integers and floating point --- */

static uint64_t run_convert(uint64_t count)
{
    int64_t value = 12345;
    for (uint64_t n = 0; n < count; n++) {
        double wide = (double)value * 1.5;
        float narrow = (float)(int32_t)wide;
        value = ((int64_t)narrow + (int64_t)n) & 0xffffff;
    }
    return (uint64_t)value;
}

/* --- x87: a square root by Newton's method in extended precision --- */

enum {
    NEWTON_STEPS = 6
};

static uint64_t run_x87(uint64_t count)
{
    long double sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        volatile long double of = 2.0L + (long double)(n & 1023);
        long double root = of;
        for (unsigned step = 0; step < NEWTON_STEPS; step++) {
            root = (root + of / root) * 0.5L;
        }
        sum += root;
    }
    uint64_t mantissa;
    memcpy(&mantissa, &sum, sizeof(mantissa));
    return mantissa;
}

const struct bench_case bench_vector_cases[] = {
    {"matmul_sse2", "64x64 doubles", run_matmul_sse2, prepare_matrix, .check_count = 1},
    {"matmul_avx2", "64x64 doubles", run_matmul_avx2, prepare_matrix, lacks_avx2_fma, 1},
    {"bytes_avx2", "4 KiB", run_bytes_avx2, prepare_image, lacks_avx2_fma, 20},
    {"nbody", "step of 5 bodies", run_nbody, .check_count = 200},
    {"convert", "4 conversions", run_convert, .check_count = 20000},
    {"x87", "root by 6 divisions", run_x87, .check_count = 500},
    {0},
};

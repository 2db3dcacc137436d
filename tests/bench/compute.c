/* Integer work: what ordinary programs spend their time with. */
#include <string.h>

#include "bench.h"

/* --- sha256 --- */

static const uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t value, unsigned by)
{
    return value >> by | value << (32 - by);
}

void bench_sha256_block(uint32_t state[8], const uint8_t block[64])
{
    uint32_t w[64];
    for (unsigned i = 0; i < 16; i++) {
        uint32_t word;
        memcpy(&word, block + 4 * i, 4);
        w[i] = __builtin_bswap32(word);
    }
    for (unsigned i = 16; i < 64; i++) {
        uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t v[8];
    memcpy(v, state, sizeof(v));
    for (unsigned i = 0; i < 64; i++) {
        uint32_t s1 = rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t t1 = v[7] + s1 + choice + sha256_constants[i] + w[i];
        uint32_t s0 = rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        v[7] = v[6];
        v[6] = v[5];
        v[5] = v[4];
        v[4] = v[3] + t1;
        v[3] = v[2];
        v[2] = v[1];
        v[1] = v[0];
        v[0] = t1 + s0 + majority;
    }
    for (unsigned i = 0; i < 8; i++) {
        state[i] += v[i];
    }
}

uint64_t bench_sha256_chain(uint64_t count, uint8_t seed)
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t block[64];
    memset(block, seed, sizeof(block));
    for (uint64_t i = 0; i < count; i++) {
        bench_sha256_block(state, block);
        memcpy(block, state, sizeof(state));
    }
    return (uint64_t)state[0] << 32 | state[7];
}

static uint64_t run_sha256(uint64_t count)
{
    return bench_sha256_chain(count, 1);
}

/* --- mixed integer: a linked list, a small matrix, a state machine and a CRC in turn --- */

enum {
    MIX_NODES = 256,
    MIX_SIDE = 8
};

struct mix_node {
    struct mix_node *next;
    int32_t value;
};

static struct mix_node mix_nodes[MIX_NODES];
static int32_t mix_matrix[3][MIX_SIDE][MIX_SIDE];

static void prepare_mix(void)
{
    uint64_t random = 11;
    for (unsigned i = 0; i < MIX_NODES; i++) {
        mix_nodes[i].next = &mix_nodes[(i + 97) % MIX_NODES];
        mix_nodes[i].value = (int32_t)(bench_random(&random) & 0xffff);
    }
    for (unsigned i = 0; i < MIX_SIDE * MIX_SIDE; i++) {
        mix_matrix[0][i / MIX_SIDE][i % MIX_SIDE] = (int32_t)(bench_random(&random) & 0xff);
        mix_matrix[1][i / MIX_SIDE][i % MIX_SIDE] = (int32_t)(bench_random(&random) & 0xff);
    }
}

static uint32_t mix_crc(uint32_t crc, uint32_t data)
{
    crc ^= data;
    for (unsigned bit = 0; bit < 16; bit++) {
        crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return crc;
}

static unsigned mix_state_step(unsigned state, unsigned input)
{
    switch (state) {
    case 0:
        return input < 64 ? 1 : input < 200 ? 2 : 0;
    case 1:
        return input & 1 ? 3 : 2;
    case 2:
        return input > 128 ? 0 : 4;
    case 3:
        return input & 2 ? 4 : 1;
    default:
        return input % 5;
    }
}

static uint64_t run_mix(uint64_t count)
{
    prepare_mix();
    uint64_t checksum = 0;
    for (uint64_t n = 0; n < count; n++) {
        int64_t sum = 0;
        const struct mix_node *node = &mix_nodes[n % MIX_NODES];
        for (unsigned i = 0; i < 64; i++, node = node->next) {
            sum += node->value > 0x8000 ? node->value : -node->value;
        }
        for (unsigned i = 0; i < MIX_SIDE; i++) {
            for (unsigned j = 0; j < MIX_SIDE; j++) {
                int32_t total = 0;
                for (unsigned k = 0; k < MIX_SIDE; k++) {
                    total += mix_matrix[0][i][k] * mix_matrix[1][k][j];
                }
                mix_matrix[2][i][j] = total;
            }
        }
        mix_matrix[0][n % MIX_SIDE][(n / MIX_SIDE) % MIX_SIDE] =
            mix_matrix[2][(n + 1) % MIX_SIDE][n % MIX_SIDE] & 0xff;
        unsigned state = 0;
        uint32_t crc = (uint32_t)sum;
        for (unsigned i = 0; i < 64; i++) {
            state = mix_state_step(state, (crc >> (i & 15)) & 0xff);
            crc = i % 8 ? crc * 5 + state : mix_crc(crc, state + i);
        }
        checksum = bench_mix(checksum, (uint64_t)sum ^ (uint64_t)crc << 32 ^ state);
    }
    return checksum;
}

/* --- quicksort of 4096 integers --- */

enum {
    SORT_COUNT = 4096
};
static int32_t sort_values[SORT_COUNT];

static void quicksort(int32_t *values, long low, long high)
{
    while (low < high) {
        int32_t pivot = values[(low + high) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) {
                i++;
            }
            while (values[j] > pivot) {
                j--;
            }
            if (i <= j) {
                int32_t kept = values[i];
                values[i++] = values[j];
                values[j--] = kept;
            }
        }
        if (j - low < high - i) {
            quicksort(values, low, j);
            low = i;
        } else {
            quicksort(values, i, high);
            high = j;
        }
    }
}

static uint64_t run_quicksort(uint64_t count)
{
    uint64_t checksum = 0, random = 7;
    for (uint64_t n = 0; n < count; n++) {
        for (unsigned i = 0; i < SORT_COUNT; i++) {
            sort_values[i] = (int32_t)bench_random(&random);
        }
        quicksort(sort_values, 0, SORT_COUNT - 1);
        checksum = bench_mix(checksum, (uint32_t)sort_values[n % SORT_COUNT]);
    }
    return checksum;
}

/* --- open-addressing hash table of 1 MiB: look-ups, updates --- */

enum {
    HASH_SLOTS = 1 << 16
};

struct hash_slot {
    uint64_t key, value;
};

static struct hash_slot hash_slots[HASH_SLOTS];

static struct hash_slot *hash_find(uint64_t key)
{
    size_t at = (key * 0x9e3779b97f4a7c15ull) >> 48;
    while (hash_slots[at].key != 0 && hash_slots[at].key != key) {
        at = (at + 1) % HASH_SLOTS;
    }
    return &hash_slots[at];
}

static uint64_t run_hash(uint64_t count)
{
    bench_timer_stop();
    memset(hash_slots, 0, sizeof(hash_slots));
    for (uint64_t key = 1; key <= HASH_SLOTS / 2; key++) {
        *hash_find(key) = (struct hash_slot){.key = key, .value = key ^ 0x55};
    }
    bench_timer_start();
    uint64_t checksum = 0;
    for (uint64_t n = 0; n < count; n++) {
        struct hash_slot *slot = hash_find(1 + (n * 40503) % (HASH_SLOTS / 2));
        checksum += slot->value;
        slot->value += n;
    }
    return checksum;
}

/* --- compressor: greedy LZ with a hash of four bytes over 64 KiB of text-like data --- */

enum {
    LZ_SIZE = 65536,
    LZ_HASHES = 4096
};
static uint8_t lz_input[LZ_SIZE], lz_output[2 * LZ_SIZE];

static void prepare_lz(void)
{
    uint64_t random = 3;
    size_t at = 0;
    while (at < LZ_SIZE) {
        /* Words from a small vocabulary, each always the same letters. */
        uint64_t word = bench_random(&random) % 400 + 1;
        size_t length = 2 + word % 9;
        for (size_t i = 0; i < length && at < LZ_SIZE; i++) {
            lz_input[at++] = (uint8_t)('a' + (word * (i + 7) * 2654435761u >> 9) % 26);
        }
        if (at < LZ_SIZE) {
            lz_input[at++] = ' ';
        }
    }
}

static size_t lz_compress(void)
{
    static uint16_t last_seen[LZ_HASHES];
    memset(last_seen, 0, sizeof(last_seen));
    size_t out = 0, at = 1;
    lz_output[out++] = lz_input[0];
    while (at + 8 < LZ_SIZE) {
        uint32_t four;
        memcpy(&four, lz_input + at, 4);
        uint32_t hash = four * 2654435761u >> 20;
        size_t candidate = last_seen[hash];
        last_seen[hash] = (uint16_t)at;
        size_t length = 0;
        while (at + length < LZ_SIZE && length < 255 &&
               lz_input[candidate + length] == lz_input[at + length]) {
            length++;
        }
        if (length >= 4 && candidate < at) {
            lz_output[out++] = 0xff;
            lz_output[out++] = (uint8_t)length;
            lz_output[out++] = (uint8_t)(at - candidate);
            lz_output[out++] = (uint8_t)((at - candidate) >> 8);
            at += length;
        } else {
            lz_output[out++] = lz_input[at++];
        }
    }
    return out;
}

static uint64_t run_lz(uint64_t count)
{
    uint64_t checksum = 0;
    for (uint64_t n = 0; n < count; n++) {
        size_t size = lz_compress();
        checksum = bench_mix(checksum, size ^ (uint64_t)lz_output[n % size] << 32);
    }
    return checksum;
}

/* --- 64 x 64 bit multiplication, division, bit operations --- */

static uint64_t run_mul(uint64_t count)
{
    uint64_t value = 0x123456789abcdef1ull;
    for (uint64_t n = 0; n < count; n++) {
        unsigned __int128 product = (unsigned __int128)value * (value ^ n);
        value = (uint64_t)product ^ (uint64_t)(product >> 64) ^ 1;
    }
    return value;
}

static uint64_t run_div(uint64_t count)
{
    uint64_t value = 0xfedcba9876543210ull, sum = 0;
    for (uint64_t n = 0; n < count; n++) {
        uint64_t divisor = (sum & 0xffff) + 3;
        sum += value / divisor + value % divisor;
        value += 0x9e3779b97f4a7c15ull;
    }
    return sum;
}

static uint64_t run_bits(uint64_t count)
{
    uint64_t value = 0x0f1e2d3c4b5a6978ull;
    for (uint64_t n = 0; n < count; n++) {
        unsigned low = (unsigned)__builtin_ctzll(value | 1ull << 63);
        unsigned high = (unsigned)__builtin_clzll(value | 1);
        value =
            (value << (low + 1) % 64 | value >> (63 - low)) + __builtin_bswap64(value ^ n) + high;
    }
    return value;
}

/* --- sums of 512-bit numbers in memory, with one carry chain --- */

static uint64_t run_adc(uint64_t count)
{
    static uint64_t sum[8];
    static const uint64_t addend[8] = {0xfedcba9876543211, 0x8000000000000001, 0xffffffffffffffff,
                                       0x0123456789abcdef, 0xffffffff00000000, 0x00000000ffffffff,
                                       0xaaaaaaaaaaaaaaaa, 0x5555555555555555};
    memset(sum, 0, sizeof(sum));
    for (uint64_t n = 0; n < count; n++) {
        uint64_t kept;
        __asm__ volatile("mov (%2), %0; add %0, (%1)\n\t"
                         "mov 8(%2), %0; adc %0, 8(%1)\n\t"
                         "mov 16(%2), %0; adc %0, 16(%1)\n\t"
                         "mov 24(%2), %0; adc %0, 24(%1)\n\t"
                         "mov 32(%2), %0; adc %0, 32(%1)\n\t"
                         "mov 40(%2), %0; adc %0, 40(%1)\n\t"
                         "mov 48(%2), %0; adc %0, 48(%1)\n\t"
                         "mov 56(%2), %0; adc %0, 56(%1)"
                         : "=&r"(kept)
                         : "r"(sum), "r"(addend)
                         : "cc", "memory");
    }
    uint64_t checksum = 0;
    for (unsigned i = 0; i < 8; i++) {
        checksum = bench_mix(checksum, sum[i]);
    }
    return checksum;
}

const struct bench_case bench_compute_cases[] = {
    {"sha256", "64-byte block", run_sha256, .check_count = 500, .is_smp = true},
    {"mix", "round", run_mix, .check_count = 50},
    {"quicksort", "4096 integers", run_quicksort, .check_count = 2},
    {"hash", "look-up", run_hash, .check_count = 20000},
    {"lz", "64 KiB", run_lz, prepare_lz, .check_count = 1},
    {"mul", "64x64 multiplication", run_mul, .check_count = 20000},
    {"div", "64-bit division", run_div, .check_count = 20000},
    {"bits", "round", run_bits, .check_count = 20000},
    {"adc", "512-bit sum", run_adc, .check_count = 20000},
    {0},
};

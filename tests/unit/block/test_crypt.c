/* Covers block/crypt: data as IEEE 1619 says it looks, sector by sector, and headers that are made and unlocked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "block/crypt.h"
#include "block/provider.h"

#define SECTOR 512u
#define KIB    1024u
#define MIB    (1024u * 1024)

static struct event_loop *loop;

static int setup(void **state)
{
    return event_loop_create(&loop, NULL);
}

static int teardown(void **state)
{
    event_loop_destroy(loop);
    return 0;
}

/* --- known answers: IEEE Std 1619-2007, annex B --- */

#define KEY_128 "2718281828459045235360287471352631415926535897932384626433832795"
#define KEY_256                                                                                    \
    "2718281828459045235360287471352662497757247093699959574966967627"                             \
    "3141592653589793238462643383279502884197169399375105820974944592"

/* The cipher texts of vectors 4, 5, 10 and 14, of 512 bytes each. */
static const char vector_4[] =
    "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89cc78cf7f5e543445f8333d8fa"
    "7f56000005279fa5d8b5e4ad40e736ddb4d35412328063fd2aab53e5ea1e0a9f332500a5df9487d07a5c92cc"
    "512c8866c7e860ce93fdf166a24912b422976146ae20ce846bb7dc9ba94a767aaef20c0d61ad02655ea92dc4"
    "c4e41a8952c651d33174be51a10c421110e6d81588ede82103a252d8a750e8768defffed9122810aaeb99f91"
    "72af82b604dc4b8e51bcb08235a6f4341332e4ca60482a4ba1a03b3e65008fc5da76b70bf1690db4eae29c5f"
    "1badd03c5ccf2a55d705ddcd86d449511ceb7ec30bf12b1fa35b913f9f747a8afd1b130e94bff94effd01a91"
    "735ca1726acd0b197c4e5b03393697e126826fb6bbde8ecc1e08298516e2c9ed03ff3c1b7860f6de76d4cecd"
    "94c8119855ef5297ca67e9f3e7ff72b1e99785ca0a7e7720c5b36dc6d72cac9574c8cbbc2f801e23e56fd344"
    "b07f22154beba0f08ce8891e643ed995c94d9a69c9f1b5f499027a78572aeebd74d20cc39881c213ee770b10"
    "10e4bea718846977ae119f7a023ab58cca0ad752afe656bb3c17256a9f6e9bf19fdd5a38fc82bbe872c5539e"
    "db609ef4f79c203ebb140f2e583cb2ad15b4aa5b655016a8449277dbd477ef2c8d6c017db738b18deb4a427d"
    "1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568";
static const char vector_5[] =
    "264d3ca8512194fec312c8c9891f279fefdd608d0c027b60483a3fa811d65ee59d52d9e40ec5672d81532b38"
    "b6b089ce951f0f9c35590b8b978d175213f329bb1c2fd30f2f7f30492a61a532a79f51d36f5e31a7c9a12c28"
    "6082ff7d2394d18f783e1a8e72c722caaaa52d8f065657d2631fd25bfd8e5baad6e527d763517501c68c5edc"
    "3cdd55435c532d7125c8614deed9adaa3acade5888b87bef641c4c994c8091b5bcd387f3963fb5bc37aa922f"
    "bfe3df4e5b915e6eb514717bdd2a74079a5073f5c4bfd46adf7d282e7a393a52579d11a028da4d9cd9c77124"
    "f9648ee383b1ac763930e7162a8d37f350b2f74b8472cf09902063c6b32e8c2d9290cefbd7346d1c779a0df5"
    "0edcde4531da07b099c638e83a755944df2aef1aa31752fd323dcb710fb4bfbb9d22b925bc3577e1b8949e72"
    "9a90bbafeacf7f7879e7b1147e28ba0bae940db795a61b15ecf4df8db07b824bb062802cc98a9545bb2aaeed"
    "77cb3fc6db15dcd7d80d7d5bc406c4970a3478ada8899b329198eb61c193fb6275aa8ca340344a75a862aebe"
    "92eee1ce032fd950b47d7704a3876923b4ad62844bf4a09c4dbe8b4397184b7471360c9564880aedddb9baa4"
    "af2e75394b08cd32ff479c57a07d3eab5d54de5f9738b8d27f27a9f0ab11799d7b7ffefb2704c95c6ad12c39"
    "f1e867a4b7b1d7818a4b753dfd2a89ccb45e001a03a867b187f225dd";
static const char vector_10[] =
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9"
    "ac683f44680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f2"
    "7d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d"
    "7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834"
    "f280d7667b327f6c8cd7557e12ac3a0f93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1"
    "a8cc81ec583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070"
    "c13e9f1f289be54fbc481457778f616015e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec"
    "4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29"
    "a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac6e333b93eb4aff0479da9a41"
    "0e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed"
    "5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38"
    "014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";
static const char vector_14[] =
    "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed2350eae7e96087c8a0db51ad29"
    "0bd00c1ac1620857635bf246c176ab463be30b808da548081ac847b158e1264be25bb0910bbc926471080894"
    "15d45fab1b3d2604e8a8eff1ae4020cfa39936b66827b23f371b92200be90251e6d73c5f86de5fd4a9507819"
    "33d79a28272b782a2ec313efdfcc0628f43d744c2dc2ff3dcb66999b50c7ca895b0c64791eeaa5f29499fb1c"
    "026f84ce5b5c72ba1083cddb5ce45434631665c333b60b11593fb253c5179a2c8db813782a004856a1653011"
    "e93fb6d876c18366dd8683f53412c0c180f9c848592d593f8609ca736317d356e13e2bff3a9f59cd9aeb19cd"
    "482593d8c46128bb32423b37a9adfb482b99453fbe25a41bf6feb4aa0bef5ed24bf73c762978025482c13115"
    "e4015aac992e5613a3b5c2f685b84795cb6e9b2656d8c88157e52c42f978d8634c43d06fea928f2822e465aa"
    "6576e9bf419384506cc3ce3c54ac1a6f67dc66f3b30191e698380bc999b05abce19dc0c6dcc2dd001ec535ba"
    "18deb2df1a101023108318c75dc98611a09dc48a0acdec676fabdf222f07e026f059b672b56e5cbc8e1d21bb"
    "d867dd927212054681d70ea737134cdfce93b6f82ae22423274e58a0821cc5502e2d0ab4585e94de6975be5e"
    "0b4efce51cd3e70c25a1fbbbd609d273ad5b0d59631c531f6a0a57b9";

struct vector {
    const char *key;
    uint64_t sector;
    const char *plain; /* NULL: 00 01 .. ff, twice */
    const char *cipher;
};

static const struct vector vectors[] = {
    {KEY_128, 0, NULL, vector_4},
    {KEY_128, 1, vector_4, vector_5},
    {KEY_256, 0xff, NULL, vector_10},
    {KEY_256, 0xffffffffff, NULL, vector_14},
};

static size_t from_hex(const char *text, uint8_t *out_data)
{
    size_t size = strlen(text) / 2;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
        out_data[i] = (uint8_t)byte;
    }
    return size;
}

static void fill_plain(const struct vector *vector, uint8_t *out_data)
{
    if (vector->plain != NULL) {
        assert_int_equal(from_hex(vector->plain, out_data), SECTOR);
        return;
    }
    for (unsigned i = 0; i < SECTOR; i++) {
        out_data[i] = (uint8_t)i;
    }
}

static void fill_crypt(const struct vector *vector, uint64_t payload_offset, uint32_t sector_size,
                       struct block_crypt *out_crypt)
{
    *out_crypt = (struct block_crypt){.payload_offset = payload_offset, .sector_size = sector_size};
    out_crypt->key_size = (uint32_t)from_hex(vector->key, out_crypt->key);
}

/* Memory that is a file: sectors far out take no space. */
static struct block *open_file(uint64_t size)
{
    struct block *file;
    struct block_file_options options = {.is_growable = true};
    int fd = memfd_create("disk", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(block_open_file(fd, "disk", &options, loop, &file, NULL), 0);
    assert_int_equal(block_resize(file, size), 0);
    return file;
}

static void known_answers(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(vectors); i++) {
        const struct vector *vector = &vectors[i];
        uint8_t plain[SECTOR], cipher[SECTOR], found[SECTOR];
        struct block_crypt crypt;
        struct block *block, *file = open_file((vector->sector + 1) * SECTOR);
        fill_crypt(vector, 0, SECTOR, &crypt);
        fill_plain(vector, plain);
        assert_int_equal(from_hex(vector->cipher, cipher), SECTOR);
        assert_int_equal(block_crypt_open(file, &crypt, &block, NULL), 0);
        assert_int_equal(block_write(block, vector->sector * SECTOR, plain, SECTOR), 0);
        assert_int_equal(block_read(file, vector->sector * SECTOR, found, SECTOR), 0);
        assert_memory_equal(found, cipher, SECTOR);
        assert_int_equal(block_read(block, vector->sector * SECTOR, found, SECTOR), 0);
        assert_memory_equal(found, plain, SECTOR);
        block_close(block);
    }
}

/* NIST's AESAVS, appendix B (CBCGFSbox, 128 and 256 bits): the IV is zeros, as "plain64" has it for the first sector. */
static void known_answers_of_cbc(void **state)
{
    static const struct {
        uint32_t key_size;
        const char *plain, *cipher;
    } cases[] = {
        {16, "f34481ec3cc627bacd5dc3fb08f273e6", "0336763e966d92595a567cc9ce537f5e"},
        {32, "014730f80ac625fe84f026c60bfd547d", "5c9d844ed46f9885085e5d6a4f94c7d7"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t data[SECTOR] = {0}, cipher[16], found[SECTOR], other[SECTOR];
        struct block_crypt crypt = {
            .mode = BLOCK_CRYPT_CBC, .key_size = cases[i].key_size, .sector_size = SECTOR};
        assert_int_equal(from_hex(cases[i].plain, data), 16);
        assert_int_equal(from_hex(cases[i].cipher, cipher), 16);
        for (unsigned iv = BLOCK_CRYPT_PLAIN64; iv <= BLOCK_CRYPT_ESSIV; iv++) {
            struct block *block, *file = open_file(MIB);
            crypt.iv = (enum block_crypt_iv)iv;
            assert_int_equal(block_crypt_open(file, &crypt, &block, NULL), 0);
            assert_int_equal(block_write(block, 0, data, SECTOR), 0);
            assert_int_equal(block_write(block, SECTOR, data, SECTOR), 0);
            assert_int_equal(block_read(file, 0, found, SECTOR), 0);
            assert_int_equal(memcmp(found, cipher, 16) == 0, iv != BLOCK_CRYPT_ESSIV);
            /* The same in another sector is something else. */
            assert_int_equal(block_read(file, SECTOR, other, SECTOR), 0);
            assert_memory_not_equal(found, other, 16);
            assert_int_equal(block_read(block, SECTOR, found, SECTOR), 0);
            assert_memory_equal(found, data, SECTOR);
            block_close(block);
        }
    }
}

/* "plain64": sectors are counted from the start of the data, not of the file. */
static void sectors_count_from_the_data(void **state)
{
    const uint64_t payload = 8 * KIB;
    for (size_t i = 0; i < 3; i++) {
        const struct vector *vector = &vectors[i];
        uint8_t plain[SECTOR], cipher[SECTOR], found[SECTOR];
        struct block_crypt crypt;
        struct block *block, *file = open_file(MIB);
        fill_crypt(vector, payload, SECTOR, &crypt);
        fill_plain(vector, plain);
        assert_int_equal(from_hex(vector->cipher, cipher), SECTOR);
        assert_int_equal(block_write(file, payload + vector->sector * SECTOR, cipher, SECTOR), 0);
        assert_int_equal(block_crypt_open(file, &crypt, &block, NULL), 0);
        assert_int_equal(block->info.size_bytes, MIB - payload);
        assert_int_equal(block_read(block, vector->sector * SECTOR, found, SECTOR), 0);
        assert_memory_equal(found, plain, SECTOR);
        block_close(block);
    }
}

/* Larger sectors count in units of 512 bytes all the same, and begin as smaller ones of that number do. */
static void sectors_of_4096_bytes(void **state)
{
    const struct vector *vector = &vectors[0];
    uint8_t plain[SECTOR], cipher[SECTOR];
    uint8_t *data = calloc(2, 4096), *found = calloc(2, 4096);
    struct block_crypt crypt;
    struct block *large, *small, *file = open_file(MIB), *other = open_file(MIB);
    fill_plain(vector, plain);
    assert_int_equal(from_hex(vector->cipher, cipher), SECTOR);
    memcpy(data, plain, SECTOR);
    memcpy(data + 4096, plain, SECTOR);
    fill_crypt(vector, 0, 4096, &crypt);
    assert_int_equal(block_crypt_open(file, &crypt, &large, NULL), 0);
    assert_int_equal(large->info.logical_block_size, 4096);
    assert_int_equal(block_write(large, 0, data, 8192), 0);
    assert_int_equal(block_read(file, 0, found, 8192), 0);
    assert_memory_equal(found, cipher, SECTOR);
    crypt.sector_size = SECTOR;
    assert_int_equal(block_crypt_open(other, &crypt, &small, NULL), 0);
    assert_int_equal(block_write(small, 4096, plain, SECTOR), 0);
    assert_int_equal(block_read(other, 4096, cipher, SECTOR), 0);
    assert_memory_equal(found + 4096, cipher, SECTOR);
    assert_int_equal(block_read(large, 4096, found, 4096), 0);
    assert_memory_equal(found, data + 4096, 4096);
    block_close(large);
    block_close(small);
    free(data);
    free(found);
}

/* Requests of many sectors, in vectors cut anywhere, and what is written as zeros. */
static void large_requests(void **state)
{
    const size_t size = MIB + 3 * SECTOR;
    uint8_t *data = malloc(size), *found = malloc(size);
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)(i * 7 + (i >> 9));
    }
    struct block_crypt crypt;
    struct block *block, *file = open_file(2 * MIB);
    fill_crypt(&vectors[2], 4096, SECTOR, &crypt);
    assert_int_equal(block_crypt_open(file, &crypt, &block, NULL), 0);
    struct iovec iov[3] = {{data, 1}, {data + 1, 300 * KIB}, {data + 1 + 300 * KIB, 0}};
    iov[2].iov_len = size - 1 - 300 * KIB;
    struct block_request request = {
        .op = BLOCK_WRITE, .offset_bytes = SECTOR, .size_bytes = size, .iov = iov, .iov_count = 3};
    assert_int_equal(block_perform(block, &request), 0);
    assert_int_equal(block_read(block, SECTOR, found, size), 0);
    assert_memory_equal(found, data, size);
    assert_int_equal(block_write_zeroes(block, 0, 700 * KIB, true), 0);
    memset(data, 0, 700 * KIB - SECTOR);
    assert_int_equal(block_read(block, SECTOR, found, size), 0);
    assert_memory_equal(found, data, size);
    /* Zeros are encrypted too. */
    assert_int_equal(block_read(file, 4096, found, 16), 0);
    assert_memory_not_equal(found, data, 16);
    assert_int_equal(block_discard(block, 0, MIB), 0);
    /* The header is no part of the disk, whatever is done. */
    assert_int_equal(block_flush(block), 0);
    assert_int_equal(block->info.size_bytes, 2 * MIB - 4096);
    assert_int_equal(block_write(block, 2 * MIB - 4096, data, SECTOR), -EINVAL);
    assert_int_equal(block_resize(block, MIB), 0);
    assert_int_equal(block->info.size_bytes, MIB);
    assert_int_equal(file->info.size_bytes, MIB + 4096);
    struct block_extent extent;
    assert_int_equal(block_map(block, 0, MIB, &extent), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_DATA);
    block_close(block);
    free(data);
    free(found);
}

static void what_cannot_be_is_refused(void **state)
{
    static const struct block_crypt wrong[] = {
        {.sector_size = 512, .key_size = 48},
        {.sector_size = 512, .key_size = 64, .mode = BLOCK_CRYPT_CBC},
        {.sector_size = 512, .key_size = 64, .iv = BLOCK_CRYPT_ESSIV},
        {.sector_size = 512, .key_size = 64, .mode = (enum block_crypt_mode)7},
        {.sector_size = 256, .key_size = 64},
        {.sector_size = 8192, .key_size = 64},
        {.sector_size = 513, .key_size = 64},
        {.sector_size = 4096, .key_size = 64, .payload_offset = 512},
        {.sector_size = 512, .key_size = 64, .payload_offset = MIB},
        {.sector_size = 512, .key_size = 64, .payload_offset = UINT64_MAX - 511},
    };
    struct block *block, *file = open_file(MIB);
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct error err = {0};
        assert_int_equal(block_crypt_open(file, &wrong[i], &block, &err), -EINVAL);
        assert_true(strlen(err.text) > 10);
    }
    block_close(file);
}

/* --- headers --- */

static const struct block_crypt_creation creations[] = {
    {.version = 1, .iter_ms = 1},
    {.version = 2, .iter_ms = 1},
    {.version = 2, .iter_ms = 1, .sector_size = 4096},
};

static int unlock_ours(void *ctx, const struct block_crypt_header *header,
                       struct block_crypt *out_crypt, struct error *err)
{
    return block_crypt_unlock(header, "horse", 5, out_crypt, err);
}

static void headers_are_made_and_unlocked(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(creations); i++) {
        struct block_crypt *made = block_crypt_new(), *found = block_crypt_new();
        struct block *block, *file = open_file(0);
        struct error err = {0};
        int rc = block_crypt_format(file, &creations[i], "horse", 5, made, &err);
        if (rc == -EOPNOTSUPP) {
            print_message("%s\n", err.text);
            block_close(file);
            block_crypt_free(made);
            block_crypt_free(found);
            skip();
        }
        assert_int_equal(rc, 0);
        assert_int_equal(made->sector_size, MAX(creations[i].sector_size, SECTOR));
        assert_int_equal(block_resize(file, made->payload_offset + MIB), 0);
        const struct block_crypt_header header = {.file = file};
        assert_int_equal(block_crypt_unlock(&header, "horsf", 5, found, &err), -EKEYREJECTED);
        assert_int_equal(block_crypt_unlock(&header, "horse", 4, found, &err), -EKEYREJECTED);
        assert_int_equal(block_crypt_unlock(&header, "horse", 5, found, &err), 0);
        assert_int_equal(found->payload_offset, made->payload_offset);
        assert_int_equal(found->sector_size, made->sector_size);
        assert_int_equal(found->key_size, made->key_size);
        assert_memory_equal(found->key, made->key, made->key_size);
        /* No two headers have the same key. */
        static const uint8_t zeroes[BLOCK_CRYPT_MAX_KEY];
        assert_memory_not_equal(found->key, zeroes, 32);
        /* As a disk. */
        uint8_t data[4096], again[4096];
        memset(data, 0x5a, sizeof(data));
        struct block_options options = {.format = "luks", .unlock = unlock_ours};
        assert_int_equal(block_open_format(file, &options, &block, &err), 0);
        assert_int_equal(block->info.size_bytes, MIB);
        assert_int_equal(block_write(block, 8192, data, sizeof(data)), 0);
        assert_int_equal(block_read(block, 8192, again, sizeof(again)), 0);
        assert_memory_equal(data, again, sizeof(data));
        assert_int_equal(block_read(file, made->payload_offset + 8192, again, sizeof(again)), 0);
        assert_memory_not_equal(data, again, 16);
        block_close(block);
        block_crypt_free(made);
        block_crypt_free(found);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(known_answers_of_cbc),
        cmocka_unit_test(sectors_count_from_the_data),
        cmocka_unit_test(sectors_of_4096_bytes),
        cmocka_unit_test(large_requests),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(headers_are_made_and_unlocked),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

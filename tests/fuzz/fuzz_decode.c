/* Fuzzes cpu/x86/decode.c and disasm.c. Input: one byte that chooses the mode, then the instruction's bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "cpu/x86/decode.h"

#define MAX_INPUT 32

/* Decodes a copy of exactly 'size' bytes on the heap, where the sanitizer sees a read beyond it. */
static enum x86_decode_status decode_copy(const uint8_t *bytes, size_t size, int mode,
                                          struct x86_insn *out_insn)
{
    uint8_t *copy = malloc(size ? size : 1);
    invariant(copy != NULL);
    memcpy(copy, bytes, size);
    enum x86_decode_status status = x86_decode(copy, size, mode, out_insn);
    free(copy);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > MAX_INPUT) {
        return 0;
    }
    int mode = data[0] % 3;
    const uint8_t *bytes = data + 1;
    size--;
    struct x86_insn insn;
    enum x86_decode_status status = decode_copy(bytes, size, mode, &insn);
    invariant(insn.length <= X86_INSN_MAX_LENGTH && insn.length <= size);

    /* More bytes behind the instruction change nothing. */
    uint8_t longer[MAX_INPUT + 16];
    memcpy(longer, bytes, size);
    memset(longer + size, 0xcc, sizeof(longer) - size);
    struct x86_insn again;
    enum x86_decode_status longer_status = x86_decode(longer, sizeof(longer), mode, &again);
    if (status == X86_DECODE_MORE) {
        invariant(size < X86_INSN_MAX_LENGTH);
        return 0;
    }
    invariant(status == longer_status && memcmp(&insn, &again, sizeof(insn)) == 0);
    if (status != X86_DECODE_OK) {
        return 0;
    }

    /* One byte less is not enough. */
    invariant(decode_copy(bytes, insn.length, mode, &again) == X86_DECODE_OK);
    invariant(decode_copy(bytes, insn.length - 1u, mode, &again) == X86_DECODE_MORE);

    invariant(insn.row < x86_row_count && insn.id == x86_rows[insn.row].id);
    size_t text_size = (size_t)data[0] / 3;
    char *text = malloc(text_size ? text_size : 1);
    invariant(text != NULL);
    size_t length = x86_disassemble(&insn, 0xfffffffffffffff0, text, text_size);
    invariant(text_size == 0 ? length == 0 : length < text_size && text[length] == 0);
    free(text);
    return 0;
}

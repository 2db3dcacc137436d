#include "agent/hosts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"

static bool is_word(const char *word, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(word, name, length) == 0;
}

/* Writes the words of one line, and returns whether 'new' is one of them. */
static bool copy_line(FILE *out, const char *line, size_t length, const char *old, const char *new)
{
    bool is_named = false;
    const char *end = line + length;
    size_t index = 0;
    while (line < end) {
        size_t gap = MIN(strspn(line, " \t"), (size_t)(end - line));
        (void)fwrite(line, 1, gap, out);
        line += gap;
        if (line < end && *line == '#') {
            (void)fwrite(line, 1, (size_t)(end - line), out);
            break;
        }
        size_t word = MIN(strcspn(line, " \t#\n"), (size_t)(end - line));
        bool is_old =
            index > 0 && word > 0 && is_word(line, word, old); /* the first is an address */
        is_named = is_named || is_old || (index > 0 && is_word(line, word, new));
        (void)fwrite(is_old ? new : line, 1, is_old ? strlen(new) : word, out);
        line += word;
        index += word > 0;
    }
    return is_named;
}

char *hosts_rename(const char *text, const char *old, const char *new)
{
    char *result = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&result, &size);
    if (out == NULL) {
        return NULL;
    }
    bool is_named = false;
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        /* "localhost" stays what it is, whatever the guest was called. */
        is_named |= copy_line(out, text, length, strcmp(old, "localhost") == 0 ? "" : old, new);
        (void)fputc('\n', out);
        text += length + (text[length] == '\n');
    }
    if (!is_named) {
        (void)fprintf(out, "127.0.1.1\t%s\n", new);
    }
    if (fclose(out) != 0) {
        free(result);
        return NULL;
    }
    return result;
}

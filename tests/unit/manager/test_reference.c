/* docs/configuration.md is what the table of keys says. HULL_WRITE_REFERENCE=1 in the environment writes it anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above. */
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/instance/keys.h"

#define MAX_SIZE (1u << 20)

static void test_page_is_the_table(void **state)
{
    AUTO_FREE char *wanted = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&wanted, &size);
    assert_non_null(stream);
    instance_reference(stream);
    assert_int_equal(fclose(stream), 0);
    if (getenv("HULL_WRITE_REFERENCE") != NULL) {
        assert_int_equal(file_replace(REFERENCE_PAGE, wanted, 0644, false, NULL), 0);
    }
    AUTO_CLOSE int fd = open(REFERENCE_PAGE, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    AUTO_FREE void *page = NULL;
    assert_int_equal(file_read_whole(fd, MAX_SIZE, "the page", &page, &size, NULL), 0);
    assert_string_equal((char *)page, wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_page_is_the_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

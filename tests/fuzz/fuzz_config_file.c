/* The configuration file: whatever the bytes, they are refused with file and line or read; and what
 * was read is dumped as a file that reads back to the same dump. */
#include <stdlib.h>
#include <string.h>

#include "options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool holds)
{
    if (!holds) {
        abort();
    }
}

static char *dump(const struct options *options, size_t *out_n)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, out_n);
    options_dump(options, f);
    fclose(f);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct options options;
    struct options again;
    struct err err = {0};
    options_init(&options);
    options_init(&again);
    if (options_parse_text("fuzz.conf", (const char *)data, n, 1, &options, &err) == 0) {
        size_t text_n;
        size_t again_n;
        char *text = dump(&options, &text_n);
        check(options_parse_text("dump.conf", text, text_n, 1, &again, &err) == 0);
        char *second = dump(&again, &again_n);
        check(text_n == again_n && memcmp(text, second, text_n) == 0);
        free(text);
        free(second);
    } else {
        check(strncmp(err.text, "fuzz.conf:", 10) == 0);
    }
    options_done(&options);
    options_done(&again);
    return 0;
}

/* Compiling and matching. The translation is in pattern_syntax.c. */
#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/limits.h"
#include "base/mem.h"
#include "text/utf8.h"

#define JIT_STACK_START 32768
#define JIT_STACK_MAX   (1u << 20)
#define HEAP_KIB        65536 /* for the interpreter, where the JIT is not allowed */

struct pattern {
    pcre2_code *code;
};

struct pattern_room {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
};

static void *pattern_alloc(size_t bytes, void *unused)
{
    (void)unused;
    return mem_alloc(bytes);
}

static void pattern_free(void *p, void *unused)
{
    (void)unused;
    mem_free(p);
}

static int pattern_compile(const char *label, const struct buf *text, uint32_t options,
                           pcre2_code **out, struct err *err)
{
    pcre2_general_context *general =
        pcre2_general_context_create(pattern_alloc, pattern_free, NULL);
    pcre2_compile_context *context = pcre2_compile_context_create(general);
    int code;
    size_t at;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *out = pcre2_compile((PCRE2_SPTR)(text->data ? text->data : ""), text->n, options, &code, &at,
                         context);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (!*out) {
        char message[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return err_set(err, ERR_BAD_FILE,
                       "%s: pattern does not compile, at byte %zu of \"%.*s\": %s", label, at,
                       (int)MIN(text->n, 200), text->data ? text->data : "", message);
    }
    return 0;
}

int pattern_open(const char *label, const char *source, size_t n, bool is_literal,
                 struct pattern **out, struct err *err)
{
    struct buf text = {0};
    pcre2_code *code = NULL;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int rc = 0;
    if (n == 0 || n > LIMIT_PATTERN_BYTES) {
        return err_set(err, ERR_BAD_FILE, "%s: pattern has %zu bytes, it must have 1 to %d", label,
                       n, LIMIT_PATTERN_BYTES);
    }
    if (is_literal) {
        buf_add(&text, source, n);
        options = PCRE2_UTF | PCRE2_LITERAL;
    } else {
        rc = pattern_translate(label, source, n, &text, err);
        options |= PCRE2_MULTILINE;
    }
    if (rc == 0) {
        rc = pattern_compile(label, &text, options, &code, err);
    }
    buf_done(&text);
    if (rc) {
        return rc;
    }
    /* Where memory may not be made executable this fails, and matching falls back by itself. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    *out = mem_alloc(sizeof **out);
    (*out)->code = code;
    return 0;
}

void pattern_close(struct pattern *pattern)
{
    if (pattern) {
        pcre2_code_free(pattern->code);
        mem_free(pattern);
    }
}

struct pattern_room *pattern_room_new(void)
{
    struct pattern_room *room = mem_zalloc(sizeof *room);
    room->general = pcre2_general_context_create(pattern_alloc, pattern_free, NULL);
    room->context = pcre2_match_context_create(room->general);
    room->data = pcre2_match_data_create(1, room->general);
    room->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, room->general);
    pcre2_set_match_limit(room->context, LIMIT_PATTERN_STEPS);
    pcre2_set_heap_limit(room->context, HEAP_KIB);
    if (room->stack) {
        pcre2_jit_stack_assign(room->context, NULL, room->stack);
    }
    return room;
}

void pattern_room_free(struct pattern_room *room)
{
    if (room) {
        pcre2_jit_stack_free(room->stack);
        pcre2_match_data_free(room->data);
        pcre2_match_context_free(room->context);
        pcre2_general_context_free(room->general);
        mem_free(room);
    }
}

int pattern_scan_next(struct pattern_scan *scan, struct err *err)
{
    while (scan->at <= scan->n) {
        /* The text was checked once, and every border here is a character's. */
        int rc = pcre2_match(scan->pattern->code, (PCRE2_SPTR)scan->text, scan->n, scan->at,
                             PCRE2_NO_UTF_CHECK, scan->room->data, scan->room->context);
        if (rc == PCRE2_ERROR_NOMATCH) {
            return 0;
        }
        if (rc < 0) {
            char message[128];
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
            return err_set(err, ERR_INVALID_PARAMETER,
                           "could not split the text into words at byte %zu: %s", scan->at,
                           message);
        }
        const size_t *pair = pcre2_get_ovector_pointer(scan->room->data);
        if (pair[0] == pair[1] && scan->has_matched && scan->last_end == pair[1]) {
            size_t char_n = 1;
            if (scan->at < scan->n) {
                utf8_get(scan->text + scan->at, &char_n);
            }
            scan->at += char_n;
            continue;
        }
        scan->begin = pair[0];
        scan->end = pair[1];
        scan->at = pair[1];
        scan->last_end = pair[1];
        scan->has_matched = true;
        return 1;
    }
    return 0;
}

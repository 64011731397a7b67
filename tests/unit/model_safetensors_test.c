/* The safetensors reader: what it reads, and every way a header can lie, each with its error. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "model/safetensors.h"

#define FILE_MAX 4096

/* A file with this header and data_n bytes 0, 1, 2, ... behind it; returns its size. */
static size_t build(unsigned char *out, const char *header, size_t data_n)
{
    size_t n = strlen(header);
    assert_true(8 + n + data_n <= FILE_MAX);
    memset(out, 0, 8);
    out[0] = (unsigned char)n;
    out[1] = (unsigned char)(n >> 8);
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < data_n; i++) {
        out[8 + n + i] = (unsigned char)i;
    }
    return 8 + n + data_n;
}

static void reads_every_field(void **state)
{
    (void)state;
    unsigned char file[FILE_MAX];
    struct tensor_set set;
    struct err err;
    char shape[64];
    size_t n = build(file,
                     "{\"__metadata__\":{\"format\":\"pt\"},"
                     "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                     "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                     "\"z\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[16,16]},"
                     "\"c\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[16,24]}}  ",
                     24);
    assert_int_equal(tensor_set_parse(&set, "x", file, n, &err), 0);
    assert_int_equal(set.tensor_n, 4);
    const struct tensor *b = tensor_set_find(&set, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DTYPE_BF16);
    assert_string_equal(b->dtype_name, "BF16");
    assert_string_equal(b->file, "x");
    assert_int_equal(b->bytes, 12);
    assert_int_equal(*(const unsigned char *)b->data, 4);
    tensor_shape_text(b, shape, sizeof shape);
    assert_string_equal(shape, "[2, 3]");
    const struct tensor *a = tensor_set_find(&set, "a");
    assert_non_null(a);
    assert_int_equal(a->dim_n, 0);
    assert_int_equal(a->bytes, 4);
    tensor_shape_text(a, shape, sizeof shape);
    assert_string_equal(shape, "[]");
    assert_int_equal(tensor_set_find(&set, "c")->dtype, -1);
    assert_null(tensor_set_find(&set, "d"));
    tensor_set_close(&set);
    n = build(file, "{}", 0);
    assert_int_equal(tensor_set_parse(&set, "x", file, n, &err), 0);
    assert_int_equal(set.tensor_n, 0);
    assert_null(tensor_set_find(&set, "a"));
    tensor_set_close(&set);
}

struct lie {
    const char *header;
    size_t data_n;
    const char *error;
};

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct lie lies[] = {
    {"[]", 0, "x: the header does not start with \"{\""},
    {"{", 0, "x: line 1: not valid JSON: string or '}' expected near end of file"},
    {"{\"a\":1,\"a\":1}", 0, "x: line 1: not valid JSON: duplicate object key near '\"a\"'"},
    {"{\"a\":1}", 0, "x: tensor \"a\" is not described by an object"},
    {"{\"__metadata__\":[]}", 0, "x: \"__metadata__\" is not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "x: \"__metadata__\" holds a value that is no text"},
    {"{\"a\\u0001b\":{}}", 0, "x: has a tensor name with a control character: \"a\""},
    {"{\"\":{}}", 0, "x: has a tensor name of 0 bytes, it must have 1 to 255"},
    {"{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "x: tensor \"t\" has no \"dtype\""},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4,
     "x: tensor \"t\" has a key besides dtype, shape and data_offsets"},
    {ONE("\"F31\"", "[1]", "[0,4]"), 4, "x: tensor \"t\" has the unknown dtype \"F31\""},
    {ONE("\"F32\"", "1", "[0,4]"), 4, "x: tensor \"t\" has no \"shape\" list"},
    {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4,
     "x: tensor \"t\" has 9 dimensions, limit is 8"},
    {ONE("\"F32\"", "[-1]", "[0,4]"), 4, "x: tensor \"t\" has a dimension that is not a count"},
    {ONE("\"F32\"", "[1.0]", "[0,4]"), 4, "x: tensor \"t\" has a dimension that is not a count"},
    {ONE("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4,
     "x: tensor \"t\" has a shape whose size overflows"},
    {ONE("\"F4\"", "[3]", "[0,1]"), 1, "x: tensor \"t\" does not fill whole bytes"},
    {ONE("\"F32\"", "[1]", "[0]"), 4, "x: tensor \"t\" has no \"data_offsets\" pair"},
    {ONE("\"F32\"", "[1]", "[0,8]"), 4, "x: tensor \"t\" lies at bytes 0 to 8, the file has 4"},
    {ONE("\"F32\"", "[1]", "[4,0]"), 4, "x: tensor \"t\" lies at bytes 4 to 0, the file has 4"},
    {ONE("\"F32\"", "[1]", "[-4,0]"), 4, "x: tensor \"t\" lies at bytes -4 to 0, the file has 4"},
    {ONE("\"F32\"", "[2]", "[0,4]"), 4, "x: tensor \"t\" has 4 bytes, its shape needs 8"},
    {ONE("\"F32\"", "[1]", "[4,8]"), 8, "x: tensor \"t\" leaves unused bytes before it"},
    {ONE("\"F32\"", "[1]", "[0,4]"), 9, "x: has 5 bytes that belong to no tensor"},
    {"{}", 3, "x: has 3 bytes that belong to no tensor"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "x: tensor \"b\" overlaps another tensor"},
};

static void refuses_lies(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(lies); i++) {
        /* On the heap at its exact size, so that a sanitizer sees a read behind it. */
        unsigned char file[FILE_MAX];
        struct tensor_set set;
        struct err err = {0};
        size_t n = build(file, lies[i].header, lies[i].data_n);
        unsigned char *exact = malloc(n);
        memcpy(exact, file, n);
        int rc = tensor_set_parse(&set, "x", exact, n, &err);
        free(exact);
        assert_string_equal(err.text, lies[i].error);
        assert_int_equal(rc, ERR_BAD_FILE);
    }
}

static void refuses_lengths(void **state)
{
    (void)state;
    struct tensor_set set;
    struct err err;
    unsigned char file[16] = {200, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    assert_int_equal(tensor_set_parse(&set, "x", file, 7, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "x: is 7 bytes long, no safetensors file is");
    assert_int_equal(tensor_set_parse(&set, "x", file, 10, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "x: has a header of 200 bytes, 2 are left in it");
    file[7] = 1;
    assert_int_equal(tensor_set_parse(&set, "x", file, 10, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "x: has a header of 72057594037928136 bytes, limit is 104857600");
    memset(file, 0, 8);
    assert_int_equal(tensor_set_parse(&set, "x", file, 10, &err), ERR_BAD_FILE);
    assert_string_equal(err.text, "x: the header does not start with \"{\"");
}

/* A directory below /tmp that is emptied at the end. */
static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/graft-tensors-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static void put_file(const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void put_tensors(const char *name, const char *header, size_t data_n)
{
    unsigned char file[FILE_MAX];
    size_t n = build(file, header, data_n);
    put_file(name, file, n);
}

static int drop_dir(void **state)
{
    static const char *const names[] = {"one.safetensors", "two.safetensors", "pytorch_model.bin",
                                        "model.safetensors.index.json", "model.safetensors"};
    char path[256];
    (void)state;
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static void assert_refused(int code, const char *what)
{
    struct tensor_set set;
    struct err err = {0};
    char want[512];
    snprintf(want, sizeof want, "%s%s", dir, what);
    int rc = tensor_set_open_dir(&set, dir, &err);
    assert_string_equal(err.text, want);
    assert_int_equal(rc, code);
}

static void put_index(const char *weight_map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", weight_map);
    put_file("model.safetensors.index.json", text, strlen(text));
}

#define A_TENSOR(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"

static void opens_directories(void **state)
{
    (void)state;
    struct tensor_set set;
    struct err err = {0};
    assert_refused(ERR_BAD_FILE, ": has neither model.safetensors nor "
                                 "model.safetensors.index.json");
    put_file("pytorch_model.bin", "x", 1);
    assert_refused(ERR_NOT_IMPLEMENTED,
                   ": holds \"pytorch_model.bin\" and no model.safetensors: pickled weights are "
                   "never read, convert them to safetensors");
    put_tensors("one.safetensors", A_TENSOR("a"), 4);
    put_tensors("two.safetensors", A_TENSOR("b"), 4);
    put_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    assert_int_equal(tensor_set_open_dir(&set, dir, &err), 0);
    assert_int_equal(set.tensor_n, 2);
    assert_int_equal(set.map_n, 2);
    assert_string_equal(tensor_set_find(&set, "a")->name, "a");
    tensor_set_close(&set);
    put_file("model.safetensors", "", 0);
    assert_refused(ERR_BAD_FILE, "/model.safetensors: is 0 bytes long, no safetensors file is");
}

static void refuses_indexes(void **state)
{
    (void)state;
    put_tensors("one.safetensors", A_TENSOR("a"), 4);
    put_tensors("two.safetensors", A_TENSOR("a"), 4);
    put_index("{\"a\":\"../one.safetensors\"}");
    assert_refused(ERR_BAD_FILE, "/model.safetensors.index.json: tensor \"a\" is in "
                                 "\"../one.safetensors\", a plain name of a .safetensors file is "
                                 "wanted");
    put_index("{\"a\":\"one.bin\"}");
    assert_refused(ERR_BAD_FILE, "/model.safetensors.index.json: tensor \"a\" is in \"one.bin\", a "
                                 "plain name of a .safetensors file is wanted");
    put_index("{\"a\":\"none.safetensors\"}");
    assert_refused(ERR_BAD_FILE, "/none.safetensors: No such file or directory");
    put_index("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}");
    assert_refused(ERR_BAD_FILE, "/model.safetensors.index.json: tensor \"b\" is not in "
                                 "one.safetensors");
    put_index("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}");
    assert_refused(ERR_BAD_FILE, "/model.safetensors.index.json: tensor \"a\" is in "
                                 "two.safetensors, the index does not say so");
    put_file("model.safetensors.index.json", "{}", 2);
    assert_refused(ERR_BAD_FILE, "/model.safetensors.index.json: has no \"weight_map\" object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_field),
        cmocka_unit_test(refuses_lies),
        cmocka_unit_test(refuses_lengths),
        cmocka_unit_test_setup_teardown(opens_directories, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(refuses_indexes, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What loading is made of: the tensors that a model wants, one after the other, and the values of a
 * checkpoint's tensors: reading one, and finding one that may not be served. */
#ifndef MODEL_LOAD_INT_H
#define MODEL_LOAD_INT_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "base/limits.h"

struct kern;
struct model;
struct model_desc;

/* Row of the file's tensor that row i of a matrix is. */
typedef uint32_t load_row(const struct model_desc *desc, uint32_t i);

struct load_want {
    char name[LIMIT_TENSOR_NAME + 8];
    uint32_t n, k;       /* [n, k]; a vector [n] has k == 0 */
    const void **matrix; /* where the pointer goes: one of the two is set */
    const float **vector;
    /* Matrices: where only some rows of a tensor [file_n, k] are wanted, or in another order. */
    uint32_t file_n;
    load_row *row;
    /* Vectors. */
    uint32_t taps; /* not 0: of a tensor [n, 1, taps] */
    float plus;    /* what is added to each value of a file */
};

typedef int load_visit(void *state, const struct load_want *want, struct err *err);

struct load_walk {
    load_visit *visit;
    void *state;
    struct err *err;
};

/* Every tensor, in the order the walk uses them. `model` receives pointers only from a visit that
 * loads. */
int load_each(const struct load_walk *walk, const struct model_desc *desc, struct model *model);

/* Values of a vector. */
size_t load_vector_n(const struct load_want *want);

/* Device memory that it takes. */
size_t load_bytes(const struct load_want *want, const struct kern *kern, enum dtype held);

/* Visits with one that fills `at` and goes on to the next; reserves the memory of all. */
struct load_memory {
    struct model *model;
    char *at; /* device memory not yet given out */
};
int load_reserve(struct load_memory *memory, struct err *err);
void load_put_vector(struct load_memory *memory, const struct load_want *want, const float *values);
void load_next(struct load_memory *memory, const struct load_want *want);

/* Value i of an array that is aligned for its type. */
float load_value(const void *data, enum dtype dtype, size_t i);

/* Index of the first value that is not finite, or not finite any more once it is rounded to `held`;
 * n when there is none. */
size_t load_find_bad(const void *data, enum dtype dtype, size_t n, enum dtype held);

#endif

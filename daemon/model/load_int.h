/* Values of a checkpoint's tensors: reading one, and finding one that may not be served. */
#ifndef MODEL_LOAD_INT_H
#define MODEL_LOAD_INT_H

#include <stddef.h>

#include "base/dtype.h"

/* Value i of an array that is aligned for its type. */
float load_value(const void *data, enum dtype dtype, size_t i);

/* Index of the first value that is not finite, or not finite any more once it is rounded to `held`;
 * n when there is none. */
size_t load_find_bad(const void *data, enum dtype dtype, size_t n, enum dtype held);

#endif

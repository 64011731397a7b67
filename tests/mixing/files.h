/* A model of some 0.1 M random parameters and six random LoRA adapters, written to a temporary
 * directory in the formats users have. Widths are no multiples of any tile. */
#ifndef TESTS_MIXING_FILES_H
#define TESTS_MIXING_FILES_H

#include "base/buf.h"

#define FILES_ADAPTERS 6
#define FILES_VOCAB    139

struct files {
    char root[64]; /* <root>/model and <root>/adapters/a0 .. a5 */
    char model[96];
    char adapters[96];
};

void files_open(struct files *files);
void files_close(struct files *files);

#endif

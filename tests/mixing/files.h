/* Two hybrid models of some 0.1 M random parameters, and adapters of every kind for each, written
 * to a temporary directory in the formats users have. Widths are no multiples of any tile. */
#ifndef TESTS_MIXING_FILES_H
#define TESTS_MIXING_FILES_H

#include "base/buf.h"

#define FILES_LORA     6
#define FILES_ADAPTERS 10
#define FILES_VOCAB    139

/* Layers of the gated delta rule and gated attention; or Mamba-2 beside attention in each. */
enum files_family { FILES_QWEN35, FILES_FALCON, FILES_FAMILIES };

/* Adapters a0 .. a9: LoRA, but a2 and a7 are S0 states and a4 and a9 IA3, so that no three in a row
 * have two states. */
struct files {
    enum files_family family;
    char root[64]; /* <root>/model and <root>/adapters/a0 .. a9 */
    char model[96];
    char adapters[96];
};

void files_open(struct files *files, enum files_family family);
void files_close(struct files *files);

#endif

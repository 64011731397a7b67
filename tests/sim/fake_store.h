/* Folders that are numbers: the store's side of a load, without files. */
#ifndef TESTS_SIM_FAKE_STORE_H
#define TESTS_SIM_FAKE_STORE_H

#include <stdint.h>

#include "adapters/store.h"
#include "tests/sim/client.h"

/* What lies in each name's folder; 0 = there is none. */
struct fake_store {
    uint64_t content[CLIENT_NAMES];
    struct dice dice;
    uint32_t fail_one_in; /* loads that find a broken file */
};

/* Versions that are in host memory, of all stores. */
int64_t fake_store_version_n(void);

/* Does what an io worker would do with a job of the registry. */
void fake_store_run(struct fake_store *store, struct job *job);

#endif

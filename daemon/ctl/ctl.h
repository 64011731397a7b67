/* graftctl: what its commands share.
 *
 * A command gets the arguments behind its name and returns an exit status: 0, 1 when the server
 * said no or could not be reached, 2 for wrong usage. People read tables, programs `--json`. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/base.h"
#include "rpc/client.h"

enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl {
    const char *address;
    bool is_json;
    struct rpc_client *client;
    struct arena arena; /* requests and answers; freed at exit */
};

/* "graftctl: <text>" on stderr; returns CTL_USAGE. */
int ctl_usage(const char *fmt, ...) PRINTF_FMT(1, 2);

/* Prints a failed call with what can be done about it; returns CTL_FAILED. */
int ctl_failed(const struct ctl *ctl, const struct rpc_failure *failure);

/* A unary call; NULL after printing the failure. */
void *ctl_call(struct ctl *ctl, const char *path, const void *request,
               const ProtobufCMessageDescriptor *type);

/* One message as one line of JSON on stdout, by its descriptor: names as in the protos, enums by
 * name, absent messages and empty lists left out. */
void ctl_print_json(const void *message);

/* Numbers from arguments; false when text is not one, or lies outside. */
bool ctl_parse_u64(const char *text, uint64_t max, uint64_t *out);
bool ctl_parse_real(const char *text, float *out);

int ctl_generate(struct ctl *ctl, int argc, char **argv);
int ctl_adapters(struct ctl *ctl, int argc, char **argv);
int ctl_model(struct ctl *ctl, int argc, char **argv);
int ctl_tokenize(struct ctl *ctl, int argc, char **argv);
int ctl_health(struct ctl *ctl, int argc, char **argv);

#endif

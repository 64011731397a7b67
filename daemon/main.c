/* graftd: start and stop order, nothing else.
 *
 * options, log, server (its listeners answer STARTING from here on), model and engine, ready; then
 * wait for a signal to have been answered, server down, engine down. Exit codes are those of
 * sysexits: 78 for a configuration nobody should retry, 75 for an address that is in use. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/log.h"
#include "boot.h"
#include "engine/engine.h"
#include "options.h"
#include "server/server.h"
#include "world.h"

static int exit_code(int code)
{
    switch (code) {
    case ERR_CONFLICT:
        return EX_TEMPFAIL;
    case ERR_DEVICE_FAILURE:
        return EX_SOFTWARE;
    case ERR_IO_FAILURE:
        return EX_IOERR;
    default:
        return EX_CONFIG; /* a model, an address or a size that is wrong stays wrong */
    }
}

static int fail(const struct err *err)
{
    log_msg(LOG_ERROR, "%s", err->text);
    return exit_code(err->code);
}

static void log_start_line(const struct server *server, const struct world *world)
{
    const struct server_model *model = world_model(world);
    char addresses[1024] = "";
    size_t n = 0;
    for (uint32_t i = 0; server_address(server, i) && n < sizeof addresses; i++) {
        n += (size_t)snprintf(addresses + n, sizeof addresses - n, "%s%s", i ? "," : "",
                              server_address(server, i));
    }
    struct log_field fields[] = {
        LOG_F_STR("version", GRAFTD_VERSION),
        LOG_F_STR("addresses", addresses),
        LOG_F_STR("model", model->name),
        LOG_F_STR("architecture", model->architecture),
        LOG_F_STR("backend", model->backend),
        LOG_F_STR("dtype", model->dtype),
        LOG_F_STR("isa", model->isa),
        LOG_F_INT("threads", model->thread_n),
        LOG_F_INT("kv_tokens", (int64_t)model->kv_tokens),
        LOG_F_INT("adapters", world_adapter_n(world)),
    };
    log_fields(LOG_INFO, "ready", fields, ARRAY_N(fields));
}

static int serve(const struct options *options)
{
    struct err err = {0};
    struct ports ports;
    struct server *server;
    struct world *world;
    struct server_options server_options;
    boot_ports_init(&ports, (uint32_t)options->sequence_max);
    boot_server_options(options, &ports, &server_options);
    int rc = server_start(&server_options, &server, &err);
    if (rc) {
        boot_ports_done(&ports);
        return fail(&err);
    }
    rc = world_open(options, &ports, &world, &err);
    if (rc) {
        server_stop(server);
        boot_ports_done(&ports);
        return fail(&err);
    }
    server_ready(server, world_model(world));
    log_start_line(server, world);
    server_wait(server);
    server_stop(server);
    bool is_lost = world_is_lost(world);
    world_close(world);
    boot_ports_done(&ports);
    log_msg(LOG_INFO, "stopped");
    return is_lost ? ENGINE_EXIT_DEVICE_LOST : EX_OK;
}

static int act(const struct options *options)
{
    int rc;
    switch (options->action) {
    case OPTIONS_HELP:
        options_help(stdout);
        return EX_OK;
    case OPTIONS_VERSION:
        printf("graftd %s\n", GRAFTD_VERSION);
        return EX_OK;
    case OPTIONS_DUMP_CONFIG:
        options_dump(options, stdout);
        return EX_OK;
    case OPTIONS_CHECK_CONFIG:
        printf("the configuration is sound\n");
        return EX_OK;
    case OPTIONS_CHECK:
        rc = world_check(options, stdout);
        return rc ? exit_code(rc) : EX_OK;
    case OPTIONS_RUN:
        break;
    }
    boot_log_init(options);
    return serve(options);
}

int main(int argc, char **argv)
{
    struct options options;
    struct err err = {0};
    int rc = options_read(argc, argv, &options, &err);
    if (rc) {
        fprintf(stderr, "graftd: %s\n", err.text);
    }
    int code = rc ? exit_code(rc) : act(&options);
    options_done(&options);
    return code;
}

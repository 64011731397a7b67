/* From a GenerateRequest message to a lane that is ready for the engine. cq thread. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "server/lane.h"
#include "server/server.h"

struct Graft__V1__GenerateRequest; /* graft/v1/inference.pb-c.h */
struct Graft__V1__Chat;

/* Checks every field against the model and fills lane->request but for its key, arrival and
 * deadline. The message lives in the lane's arena. Tokenizes, allocates. */
int request_fill(const struct server_model *model, const struct Graft__V1__GenerateRequest *message,
                 struct lane *lane, struct rpc_error *error);

/* "" or the served name. */
int request_check_model(const struct server_model *model, const char *name,
                        struct rpc_error *error);

/* Token ids of a text, and of chat messages. What the context cannot hold is refused unread. */
int request_encode(const struct server_model *model, const char *text, bool add_special,
                   struct token_vec *out, struct rpc_error *error);
int request_render_chat(const struct server_model *model, const struct Graft__V1__Chat *chat,
                        struct token_vec *out, struct rpc_error *error);

/* Notes the field and the error; returns the code. */
int request_refuse(struct rpc_error *error, int code, const char *field, const char *fmt, ...)
    PRINTF_FMT(4, 5);

#endif

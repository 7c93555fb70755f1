/*
 * The HTTP listener of a replicator (libmicrohttpd), for service managers, Prometheus and people:
 *
 *   /         the status page (page.html), which asks for the next three
 *   /status   JSON, as tailwater status --json
 *   /history  JSON, what the charts show (monitor.h)
 *   /events   JSON, the newest lines of the log (base/log.h)
 *   /livez    200 while the threads go round, 503 with the name of one that stopped
 *   /readyz   200 where the mirror can be relied on, 503 with the reasons
 *   /metrics  Prometheus
 *
 * GET and HEAD alone.  Where http.token is set all but the page and the two probes want "Authorization: Bearer
 * TOKEN".  No TLS: it is for loopback, or behind something that has it.
 */
#ifndef TAILWATER_SERVER_H
#define TAILWATER_SERVER_H

#include "config/config.h"
#include "tailwater/error.h"

#include <stdbool.h>

struct server;

/* Listens where config->http says, in threads of its own; config has to outlive it.  ERROR_BUSY: the
 * port is taken. */
bool server_start(const struct config *config, const char *version, struct server **ret_server,
                  struct error *err);

/* From now on the pipeline is judged and shown as this configuration, which has to outlive the server, has
 * it; where it listens, and the token, are those of its start.  server may be NULL. */
void server_follow(struct server *server, const struct config *config);

/* Waits for requests that are being answered.  server may be NULL. */
void server_stop(struct server *server);

#endif

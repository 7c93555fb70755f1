/*
 * A thread a connection, few connections: a request may wait, and keeps nobody but its own client
 * waiting; the probe of life never does.  What is answered comes from monitor.c; here are the paths,
 * the token and the listening socket.
 */
#include "http/server.h"

#include "base/clock.h"
#include "base/human.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "http/monitor.h"
#include "http/page.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CONNECTIONS 32U
#define IDLE_S          30U
#define BACKLOG         16
#define COUNT(array)    ((int) (sizeof(array) / sizeof((array)[0])))

/* The page carries its script and its style, loads nothing from elsewhere, and stands in no frame. */
#define POLICY                                                                                     \
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "                  \
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "                     \
    "frame-ancestors 'none'"

struct server {
    const struct config *config;
    struct monitor *monitor;
    struct MHD_Daemon *daemon;
};

/* ---- what is answered ---- */

struct answer {
    unsigned code;
    const char *type;
    struct buf body;
};

#define TEXT    "text/plain; charset=utf-8"
#define HTML    "text/html; charset=utf-8"
#define JSON    "application/json"
#define METRICS "text/plain; version=0.0.4; charset=utf-8"

static void answer_alive(struct server *server, struct answer *answer)
{
    const char *part;
    char age[HUMAN_TEXT_SIZE];
    int64_t age_us;

    (void) server;
    answer->type = TEXT;
    if (pulse_is_going(clock_tick_us(), &part, &age_us)) {
        buf_add(&answer->body, "alive\n");
        return;
    }
    answer->code = MHD_HTTP_SERVICE_UNAVAILABLE;
    buf_printf(&answer->body, "the %s has not moved for %s\n", part, human_duration(age_us, age));
}

/* What is not there is told in words. */
static void finish(struct answer *answer, const char *type, bool is_there)
{
    answer->type = is_there ? type : TEXT;
    answer->code = is_there ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static void answer_ready(struct server *server, struct answer *answer)
{
    finish(answer, TEXT, monitor_add_ready(server->monitor, &answer->body));
}

static void answer_status(struct server *server, struct answer *answer)
{
    finish(answer, JSON, monitor_add_status(server->monitor, &answer->body));
}

static void answer_metrics(struct server *server, struct answer *answer)
{
    finish(answer, METRICS, monitor_add_metrics(server->monitor, &answer->body));
}

static void answer_lineage(struct server *server, struct answer *answer)
{
    finish(answer, JSON, monitor_add_lineage(server->monitor, &answer->body));
}

static void answer_history(struct server *server, struct answer *answer)
{
    answer->type = JSON;
    monitor_add_history(server->monitor, &answer->body);
}

static void answer_events(struct server *server, struct answer *answer)
{
    (void) server;
    answer->type = JSON;
    log_add_recent(&answer->body);
    buf_add_char(&answer->body, '\n');
}

static void answer_page(struct server *server, struct answer *answer)
{
    (void) server;
    answer->type = HTML;
    buf_add(&answer->body, page_html);
}

static const struct path {
    const char *path;
    bool is_open; /* without a token */
    void (*answer)(struct server *server, struct answer *answer);
} paths[] = {{"/", true, answer_page}, /* it has nothing in it, and asks the others */
             {"/livez", true, answer_alive},     {"/readyz", true, answer_ready},
             {"/status", false, answer_status},  {"/history", false, answer_history},
             {"/events", false, answer_events},  {"/metrics", false, answer_metrics},
             {"/lineage", false, answer_lineage}};

static void refuse(struct answer *answer, unsigned code, const char *text)
{
    answer->code = code;
    answer->type = TEXT;
    buf_add(&answer->body, text);
}

static void answer_unknown(struct answer *answer)
{
    refuse(answer, MHD_HTTP_NOT_FOUND, "there is:");
    for (int i = 0; i < COUNT(paths); i++)
        buf_printf(&answer->body, " %s", paths[i].path);
    buf_add_char(&answer->body, '\n');
}

/* ---- a request ---- */

/* In a time that does not tell how much of it was right. */
static bool is_allowed(const struct server *server, struct MHD_Connection *connection)
{
    static const char scheme[] = "Bearer ";
    const char *token = server->config->http.token, *given;
    const size_t len = token ? strlen(token) : 0;

    if (token == NULL)
        return true;
    given = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
    return given != NULL && strncasecmp(given, scheme, strlen(scheme)) == 0 &&
           strlen(given) == strlen(scheme) + len &&
           CRYPTO_memcmp(given + strlen(scheme), token, len) == 0;
}

static void make_answer(struct server *server, struct MHD_Connection *connection, const char *url,
                        const char *method, struct answer *answer)
{
    const struct path *path = NULL;

    for (int i = 0; i < COUNT(paths); i++)
        if (strcmp(paths[i].path, url) == 0)
            path = &paths[i];
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        refuse(answer, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or HEAD\n");
    else if (path == NULL)
        answer_unknown(answer);
    else if (!path->is_open && !is_allowed(server, connection))
        refuse(answer, MHD_HTTP_UNAUTHORIZED,
               "http.token is set: send Authorization: Bearer TOKEN\n");
    else
        path->answer(server, answer);
}

static enum MHD_Result send_answer(struct MHD_Connection *connection, const struct answer *answer)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        answer->body.len, answer->body.data, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", answer->type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy", POLICY);
    if (answer->code == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (answer->code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, "Allow", "GET, HEAD");
    result = MHD_queue_response(connection, answer->code, response);
    MHD_destroy_response(response);
    return result;
}

/* Called once with the headers, before a body, and then as often as there is more of that. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **state)
{
    static char seen;
    struct answer answer = {.code = MHD_HTTP_OK};
    enum MHD_Result result;

    (void) version;
    (void) data;
    if (*state == NULL) {
        *state = &seen;
        return MHD_YES;
    }
    if (*len > 0) { /* nobody wants it */
        *len = 0;
        return MHD_YES;
    }
    make_answer(context, connection, url, method, &answer);
    result = send_answer(connection, &answer);
    buf_release(&answer.body);
    return result;
}

/* ---- listening ---- */

static bool make_address(const struct config *config, struct sockaddr_storage *address,
                         socklen_t *ret_len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *) address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) address;
    const uint16_t port = htons((uint16_t) config->http.port);

    if (inet_pton(AF_INET, config->http.host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = port;
        *ret_len = sizeof(*v4);
        return true;
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = port;
    *ret_len = sizeof(*v6);
    return inet_pton(AF_INET6, config->http.host, &v6->sin6_addr) == 1;
}

/* A socket of our own, since libmicrohttpd does not say why it could not make one. */
static bool open_socket(const struct config *config, int *ret_fd, struct error *err)
{
    struct sockaddr_storage address = {0};
    socklen_t len = 0;
    const int on = 1;
    int fd;

    if (!make_address(config, &address, &len))
        return error_set(err, ERROR_CONFIG, "http.listen: %s is no address", config->http.host);
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        bind(fd, (const struct sockaddr *) &address, len) == 0 && listen(fd, BACKLOG) == 0) {
        *ret_fd = fd;
        return true;
    }
    error_set(err, errno == EADDRINUSE ? ERROR_BUSY : ERROR_CONFIG,
              "cannot listen on %s port %d: %s", config->http.host, config->http.port,
              strerror(errno));
    error_hint(err, "give http.listen in %s an address and a port that are free", config->file);
    if (fd >= 0)
        close(fd);
    return false;
}

bool server_start(const struct config *config, const char *version, struct server **ret_server,
                  struct error *err)
{
    struct server *server;
    int fd = -1;

    if (!open_socket(config, &fd, err))
        return false;
    server = memory_new(struct server);
    server->config = config;
    if (!monitor_start(config, version, &server->monitor, err)) {
        close(fd);
        free(server);
        return false;
    }
    server->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL, 0, NULL,
        NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_END);
    if (server->daemon == NULL) {
        close(fd);
        monitor_stop(server->monitor);
        free(server);
        return error_set(err, ERROR_FAILED, "cannot serve HTTP: %s", strerror(errno));
    }
    *ret_server = server;
    return true;
}

void server_follow(struct server *server, const struct config *config)
{
    if (server != NULL)
        monitor_follow(server->monitor, config);
}

void server_stop(struct server *server)
{
    if (server == NULL)
        return;
    MHD_stop_daemon(server->daemon);
    monitor_stop(server->monitor);
    free(server);
}

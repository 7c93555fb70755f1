/*
 * HTTP, by libcurl: one easy handle, and so one connection that is kept from request to request.
 *
 * The body is an array of documents, one document, or documents line by line; an envelope is text
 * around it with places that are filled in. Each request says which it is (Idempotency-Key,
 * Tailwater-…); with hmac it carries a signature of its body, made before it is compressed.
 *
 * What the answer means is one table (verdicts).  Redirects are not followed: a POST would become a
 * GET, and credentials go to who was named. No proxy but the environment's (libcurl's own rules).
 *
 * Nothing that is private leaves this file but to the receiver: errors are libcurl's own words for
 * the code, which name no header; of an answer its beginning is kept, which the receiver wrote.
 */
#include "feed/destination.h"

#include "base/memory.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#define MAX_SECRET      8192
#define MAX_RETRY_AFTER (INT64_C(3600) * 1000000)
#define GZIP_WINDOW     (15 + 16) /* zlib: with gzip's header */

struct http {
    const struct destination_options *options;
    struct destination_options own_options;
    const struct config_destination *to;
    CURL *curl;
    char answer[DESTINATION_ANSWER_SIZE];
    size_t answer_len;
};

static void curl_once(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- the answer ---- */

static size_t take_answer(char *data, size_t size, size_t count, void *arg)
{
    struct http *http = arg;
    const size_t room = sizeof(http->answer) - http->answer_len;
    const size_t len = size * count, taken = len < room ? len : room;

    memcpy(http->answer + http->answer_len, data, taken);
    http->answer_len += taken;
    return len;
}

static int look_stop(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct http *http = arg;

    (void) a;
    (void) b;
    (void) c;
    (void) d;
    return *http->options->stop ? 1 : 0;
}

/* Statuses that say more than their first digit. */
static const struct {
    long status;
    enum destination_verdict verdict;
} verdicts[] = {
    {401, DESTINATION_AWAY},     {403, DESTINATION_AWAY}, {407, DESTINATION_AWAY},
    {408, DESTINATION_DOUBTFUL}, {425, DESTINATION_AWAY}, {429, DESTINATION_AWAY},
    {502, DESTINATION_AWAY},     {503, DESTINATION_AWAY}, {504, DESTINATION_AWAY},
};

static enum destination_verdict verdict_of(long status)
{
    for (size_t i = 0; i < sizeof(verdicts) / sizeof(verdicts[0]); i++)
        if (verdicts[i].status == status)
            return verdicts[i].verdict;
    if (status >= 200 && status < 300)
        return DESTINATION_ACCEPTED;
    /* A redirect that nobody follows: the address is wrong, the documents are not. */
    if (status >= 300 && status < 400)
        return DESTINATION_AWAY;
    return status >= 400 && status < 500 ? DESTINATION_REFUSED : DESTINATION_DOUBTFUL;
}

/* Before anything was sent? */
static enum destination_verdict verdict_of_failure(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return DESTINATION_AWAY;
    default:
        return DESTINATION_DOUBTFUL;
    }
}

static void judge(struct http *http, CURLcode code, struct destination_answer *answer)
{
    curl_off_t retry_after_s = 0;
    double connected_s = 0;
    long status = 0;

    curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK) {
        enum destination_verdict verdict = verdict_of_failure(code);

        curl_easy_getinfo(http->curl, CURLINFO_APPCONNECT_TIME, &connected_s);
        if (connected_s == 0)
            curl_easy_getinfo(http->curl, CURLINFO_CONNECT_TIME, &connected_s);
        if (code == CURLE_OPERATION_TIMEDOUT && connected_s == 0)
            verdict = DESTINATION_AWAY;
        destination_answer_set(answer, verdict, NULL, 0, "%s", curl_easy_strerror(code));
        return;
    }
    destination_answer_set(answer, verdict_of(status), http->answer, http->answer_len, "HTTP %ld",
                           status);
    curl_easy_getinfo(http->curl, CURLINFO_RETRY_AFTER, &retry_after_s);
    if (retry_after_s > 0 && answer->verdict == DESTINATION_AWAY)
        answer->retry_after_us = retry_after_s > MAX_RETRY_AFTER / 1000000
                                     ? MAX_RETRY_AFTER
                                     : (int64_t) retry_after_s * 1000000;
}

/* ---- the body ---- */

static void add_documents(struct buf *body, const struct destination_parcel *parcel,
                          const char *between)
{
    for (int i = 0; i < parcel->count; i++) {
        buf_add(body, i > 0 ? between : "");
        buf_add_bytes(body, parcel->documents[i]->json, parcel->documents[i]->len);
    }
}

/* Each document with what tells it from others of its key. */
static void add_records(struct buf *body, const struct destination_parcel *parcel)
{
    buf_add_char(body, '[');
    for (int i = 0; i < parcel->count; i++) {
        const struct document *document = parcel->documents[i];
        char key[DESTINATION_KEY_SIZE];

        destination_document_key(parcel, document, key);
        buf_printf(body,
                   "%s{\"idempotency_key\": \"%s\", \"version\": %lld, \"vanished\": %s, \"key\": ",
                   i > 0 ? "," : "", key, (long long) parcel->version,
                   document->is_vanished ? "true" : "false");
        buf_add_json(body, document->key);
        buf_add(body, ", \"document\": ");
        buf_add_bytes(body, document->json, document->len);
        buf_add_char(body, '}');
    }
    buf_add_char(body, ']');
}

static void add_array(struct buf *body, const struct destination_parcel *parcel)
{
    buf_add_char(body, '[');
    add_documents(body, parcel, ",");
    buf_add_char(body, ']');
}

static void add_first(struct buf *body, const struct destination_parcel *parcel)
{
    add_documents(body, parcel, "\n");
}

static void add_feed(struct buf *body, const struct destination_parcel *parcel)
{
    buf_add_json(body, parcel->feed);
}

static void add_epoch(struct buf *body, const struct destination_parcel *parcel)
{
    buf_add_json(body, parcel->epoch);
}

static void add_key(struct buf *body, const struct destination_parcel *parcel)
{
    buf_add_json(body, parcel->key);
}

static void add_batch(struct buf *body, const struct destination_parcel *parcel)
{
    buf_printf(body, "%lld", (long long) parcel->batch);
}

static void add_version(struct buf *body, const struct destination_parcel *parcel)
{
    buf_printf(body, "%lld", (long long) parcel->version);
}

/* What stands for what in an envelope; each yields JSON. */
static const struct {
    const char *place;
    void (*add)(struct buf *body, const struct destination_parcel *parcel);
} places[] = {
    {"{documents}", add_array}, {"{document}", add_first},      {"{records}", add_records},
    {"{feed}", add_feed},       {"{epoch}", add_epoch},         {"{batch}", add_batch},
    {"{version}", add_version}, {"{idempotency_key}", add_key},
};
#define NPLACES (sizeof(places) / sizeof(places[0]))

static void add_envelope(struct buf *body, const char *envelope,
                         const struct destination_parcel *parcel)
{
    for (const char *p = envelope; *p != '\0';) {
        size_t i = 0;

        while (i < NPLACES && strncmp(p, places[i].place, strlen(places[i].place)) != 0)
            i++;
        if (i == NPLACES) {
            buf_add_char(body, *p++);
            continue;
        }
        places[i].add(body, parcel);
        p += strlen(places[i].place);
    }
}

static void make_body(const struct http *http, const struct destination_parcel *parcel,
                      struct buf *body)
{
    if (http->to->envelope != NULL)
        add_envelope(body, http->to->envelope, parcel);
    else if (http->to->body == BODY_ARRAY)
        add_array(body, parcel);
    else
        add_first(body, parcel);
    if (http->to->body == BODY_LINES && http->to->envelope == NULL)
        buf_add_char(body, '\n');
}

static bool compress_body(struct buf *body, struct error *err)
{
    struct buf packed = {0};
    z_stream z = {.next_in = (unsigned char *) body->data, .avail_in = (unsigned) body->len};
    int result;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) !=
        Z_OK)
        return error_set(err, ERROR_FAILED, "zlib: out of memory");
    buf_grow(&packed, deflateBound(&z, body->len));
    z.next_out = (unsigned char *) packed.data;
    z.avail_out = (unsigned) packed.size - 1;
    result = deflate(&z, Z_FINISH);
    packed.len = z.total_out;
    deflateEnd(&z);
    buf_release(body);
    *body = packed;
    return result == Z_STREAM_END || error_set(err, ERROR_BUG, "zlib: %d", result);
}

/* ---- the headers ---- */

static void add_header(struct curl_slist **headers, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void add_header(struct curl_slist **headers, const char *format, ...)
{
    _cleanup_buf_ struct buf line = {0};
    struct curl_slist *longer;
    va_list args;

    va_start(args, format);
    buf_vprintf(&line, format, args);
    va_end(args);
    longer = curl_slist_append(*headers, buf_text(&line));
    if (longer == NULL)
        abort(); /* no memory */
    *headers = longer;
}

/* The first line of a file, read each time: tokens are renewed. */
static bool read_secret(const char *file, char *ret_secret, struct error *err)
{
    _cleanup_fclose_ FILE *stream = fopen(file, "re");

    if (stream == NULL)
        return error_set(err, ERROR_CONFIG, "bearer_file %s: %s", file, strerror(errno));
    if (fgets(ret_secret, MAX_SECRET, stream) == NULL)
        return error_set(err, ERROR_CONFIG, "bearer_file %s is empty", file);
    ret_secret[strcspn(ret_secret, "\r\n")] = '\0';
    return true;
}

static void add_signature(const struct http *http, const struct buf *body,
                          struct curl_slist **headers)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned len = 0;

    if (HMAC(EVP_sha256(), http->to->hmac_secret, (int) strlen(http->to->hmac_secret),
             (const unsigned char *) buf_text(body), body->len, digest, &len) == NULL)
        abort(); /* libcrypto without SHA-256 */
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    add_header(headers, "%s: sha256=%s", http->to->hmac_header, hex);
}

static bool has_header(const struct http *http, const char *name)
{
    const size_t len = strlen(name);

    for (const char **h = http->to->headers; h != NULL && *h != NULL; h++)
        if (strncasecmp(*h, name, len) == 0 && (*h)[len] == ':')
            return true;
    return false;
}

static bool make_headers(const struct http *http, const struct destination_parcel *parcel,
                         const struct buf *body, struct curl_slist **headers, struct error *err)
{
    char secret[MAX_SECRET];

    if (!has_header(http, "Content-Type"))
        add_header(headers, "Content-Type: application/%s",
                   http->to->body == BODY_LINES ? "x-ndjson" : "json");
    add_header(headers, "Idempotency-Key: %s", parcel->key);
    add_header(headers, "Tailwater-Feed: %s", parcel->feed);
    add_header(headers, "Tailwater-Epoch: %s", parcel->epoch);
    add_header(headers, "Tailwater-Batch: %lld", (long long) parcel->batch);
    add_header(headers, "Tailwater-Version: %lld", (long long) parcel->version);
    add_header(headers, "Expect:"); /* no waiting for 100-continue */
    if (http->to->is_gzip)
        add_header(headers, "Content-Encoding: gzip");
    for (const char **h = http->to->headers; h != NULL && *h != NULL; h++)
        add_header(headers, "%s", *h);
    if (http->to->bearer != NULL)
        add_header(headers, "Authorization: Bearer %s", http->to->bearer);
    if (http->to->bearer_file != NULL) {
        if (!read_secret(http->to->bearer_file, secret, err))
            return false;
        add_header(headers, "Authorization: Bearer %s", secret);
    }
    if (http->to->hmac_secret != NULL)
        add_signature(http, body, headers);
    return true;
}

/* ---- the request ---- */

static void set_request(struct http *http, const struct buf *body, struct curl_slist *headers)
{
    CURL *curl = http->curl;

    http->answer_len = 0;
    curl_easy_reset(curl); /* options; connections stay */
    curl_easy_setopt(curl, CURLOPT_URL, http->to->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, http->to->method);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) body->len);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, buf_text(body));
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "tailwater");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long) (http->to->timeout_us / 1000));
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long) (http->to->connect_timeout_us / 1000));
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, http->to->is_unverified ? 0L : 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, http->to->is_unverified ? 0L : 2L);
    if (http->to->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, http->to->ca_file);
    if (http->to->basic != NULL) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERPWD, http->to->basic);
    }
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, http);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, look_stop);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, http);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
}

static bool send_request(void *self, const struct destination_parcel *parcel,
                         struct destination_answer *ret_answer, struct error *err)
{
    struct http *http = self;
    struct curl_slist *headers = NULL;
    _cleanup_buf_ struct buf body = {0};
    struct error failure;
    CURLcode code;

    make_body(http, parcel, &body);
    if (!make_headers(http, parcel, &body, &headers, &failure)) {
        /* A token that is being renewed comes back. */
        destination_answer_set(ret_answer, DESTINATION_AWAY, NULL, 0, "%s", failure.message);
        curl_slist_free_all(headers);
        return true;
    }
    if (http->to->is_gzip && !compress_body(&body, err)) {
        curl_slist_free_all(headers);
        return false;
    }
    set_request(http, &body, headers);
    code = curl_easy_perform(http->curl);
    judge(http, code, ret_answer);
    curl_slist_free_all(headers);
    return true;
}

static bool open_http(const struct destination_options *options, void **ret_self, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct http *http;
    CURL *curl;

    pthread_once(&once, curl_once);
    curl = curl_easy_init();
    if (curl == NULL)
        return error_set(err, ERROR_FAILED, "libcurl cannot be initialised");
    http = memory_new(struct http);
    http->own_options = *options;
    http->options = &http->own_options;
    http->to = &options->feed->destination;
    http->curl = curl;
    *ret_self = http;
    return true;
}

static void close_http(void *self)
{
    struct http *http = self;

    curl_easy_cleanup(http->curl);
    free(http);
}

const struct destination_ops destination_http = {
    .kind = "http",
    .open = open_http,
    .close = close_http,
    .send = send_request,
};

/*
 * The decoder of wal2json, format version 2: one JSON object a message, whose grammar is fixed by
 * the options that we ask for.  It is read as that grammar: every key has its place, and whatever
 * is not expected there stops the pipeline (P12).  A message ends with the brace that closes it, so
 * no strict prefix of one is valid.  One that is refused leaves the decoder as it was.
 *
 * Rows name and type every column again.  A row of the same shape as the one before it of that
 * table (shapes.h) is therefore read by comparing bytes: what surrounds the values is the same to
 * the byte.  Columns that were left out (unchanged TOAST, P1) are passed over; anything else goes
 * the long way, which knows the grammar and makes shapes.
 *
 * wal2json sends the identity of an update, copied from the new row where the WAL has no old one:
 * change_normalise() drops it again.  Now and then it leaves that copy out: it asks which index is
 * the identity before it writes the columns, looks at the answer afterwards, and a look into the
 * catalogs in between may have brought the news that the table was altered, vacuumed or analyzed
 * elsewhere, with which the server forgets the answer.  The WAL has no old row where the identity
 * did not change, so an update without one is of a row whose key is the same, if the identity is the key:
 * another row of the table has to have shown that before (src/batch/binding.c holds it against the
 * mirror's key); else the stream is begun anew, where the answer will be there.  A delete is never
 * without: its key would be unknown.
 *
 * Identity entries carry no position, so a table whose first message is a delete has columns without
 * a number until a row brings it.
 *
 * What is not asked for: type names (invalid JSON for some, P12), defaults (likewise), the primary
 * key (the identity says what we key on, P19), the origin (we write nothing to the source, P65).
 * Messages of logical decoding lose what follows a NUL, and may hold bytes that are no UTF-8 (P66).
 */
#include "message.h"

#include <string.h>

/* ---- header fields ---- */

static bool read_lsn(struct message *m, lsn_t *ret_lsn)
{
    struct json_text text;
    char copy[LSN_TEXT_SIZE] = "";

    if (!json_string(&m->json, JSON_TEXT, m->scratch, &text))
        return false;
    if (text.len < sizeof(copy))
        memcpy(copy, text.data, text.len);
    return lsn_parse(copy, ret_lsn) || json_fail(&m->json, "an LSN before this");
}

/* The count digits at p; *is_good becomes false where there is something else. */
static int read_digits(const char *p, int count, bool *is_good)
{
    int value = 0;

    for (int i = 0; i < count; i++) {
        *is_good = *is_good && p[i] >= '0' && p[i] <= '9';
        value = value * 10 + (*is_good ? p[i] - '0' : 0);
    }
    return value;
}

/* Days since 1970-01-01 in the Gregorian calendar (years from March, so that leap days are last).
 */
static int64_t days_since_1970(int year, int month, int day)
{
    int y = month > 2 ? year : year - 1;
    int day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

    return INT64_C(365) * y + y / 4 - y / 100 + y / 400 + day_of_year - 719468;
}

/* "2026-11-22 01:40:00.123456+00": timestamptz_to_str() in time zone UTC, which is pinned (P10);
 * the fraction has no trailing zeros, and no point if it is zero. */
static bool parse_time(struct json_text text, int64_t *ret_us)
{
    const char *p = text.data;
    uint32_t nfraction = text.len > 23 ? text.len - 23 : 0;
    bool is_good = (text.len == 22 || nfraction > 0) && nfraction <= 6;
    int year, month, day, hour, minute, second, fraction;

    if (!is_good || p[4] != '-' || p[7] != '-' || p[10] != ' ' || p[13] != ':' || p[16] != ':' ||
        (nfraction > 0 && p[19] != '.') || memcmp(p + text.len - 3, "+00", 3) != 0)
        return false;
    year = read_digits(p, 4, &is_good);
    month = read_digits(p + 5, 2, &is_good);
    day = read_digits(p + 8, 2, &is_good);
    hour = read_digits(p + 11, 2, &is_good);
    minute = read_digits(p + 14, 2, &is_good);
    second = read_digits(p + 17, 2, &is_good);
    fraction = read_digits(p + 20, (int) nfraction, &is_good);
    for (uint32_t i = nfraction; i < 6; i++)
        fraction *= 10;
    if (!is_good || year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 ||
        minute > 59 || second > 60)
        return false;
    *ret_us = (((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) *
                  INT64_C(1000000) +
              fraction;
    return true;
}

static bool read_time(struct message *m, int64_t *ret_us)
{
    struct json_text text;

    return json_expect(&m->json, ",\"timestamp\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text) &&
           (parse_time(text, ret_us) || json_fail(&m->json, "a time in UTC before this"));
}

/* ---- transactions ---- */

/* B and C are the same but for the letter. */
static bool read_boundary(struct message *m, struct json_text *ret_lead)
{
    struct change *change = &m->change;
    const char *from = m->json.p;

    if (!message_read_xid(m, &change->xid) || !read_time(m, &change->commit_time_us))
        return message_refuse_json(m);
    *ret_lead = (struct json_text){.data = from, .len = (uint32_t) (m->json.p - from)};
    if (!json_expect(&m->json, ",\"lsn\":") || !read_lsn(m, &change->final_lsn) ||
        !json_expect(&m->json, ",\"nextlsn\":") || !read_lsn(m, &change->end_lsn) ||
        !message_is_whole(m))
        return message_refuse_json(m);
    return true;
}

static bool on_begin(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct json_text lead;

    if (!read_boundary(m, &lead))
        return false;
    if (decoder->in_transaction)
        return message_refuse(m, "a transaction begins inside another");
    if (m->change.end_lsn <= m->change.final_lsn)
        return message_refuse(m, "the transaction of " LSN_FORMAT " ends at " LSN_FORMAT,
                              LSN_ARGS(m->change.final_lsn), LSN_ARGS(m->change.end_lsn));
    /* Of the last transaction; they come in the order of their commits (P27). */
    if (m->change.final_lsn < decoder->end_lsn)
        return message_refuse(
            m, "the transaction of " LSN_FORMAT " came behind one that ended at " LSN_FORMAT,
            LSN_ARGS(m->change.final_lsn), LSN_ARGS(decoder->end_lsn));
    m->change.kind = CHANGE_BEGIN;
    decoder->in_transaction = true;
    decoder->xid = m->change.xid;
    decoder->final_lsn = m->change.final_lsn;
    decoder->end_lsn = m->change.end_lsn;
    decoder->lead_len = lead.len <= sizeof(decoder->lead) ? lead.len : 0;
    memcpy(decoder->lead, lead.data, decoder->lead_len);
    return true;
}

static bool on_commit(struct message *m)
{
    struct decoder *decoder = m->decoder;
    struct change *change = &m->change;
    struct json_text lead;

    if (!read_boundary(m, &lead) || !message_in_transaction(m))
        return false;
    if (change->xid != decoder->xid || change->final_lsn != decoder->final_lsn ||
        change->end_lsn != decoder->end_lsn)
        return message_refuse(
            m, "the commit at " LSN_FORMAT " ends a transaction begun for " LSN_FORMAT,
            LSN_ARGS(change->final_lsn), LSN_ARGS(decoder->final_lsn));
    change->kind = CHANGE_COMMIT;
    decoder->in_transaction = false;
    return true;
}

/* A message outside transactions has null where others name theirs. */
static bool on_message(struct message *m)
{
    struct change *change = &m->change;
    struct json *json = &m->json;
    struct json_text prefix, content;
    bool is_transactional,
        has_transaction = !json_pass_literal(json, ",\"xid\":null,\"timestamp\":null");

    if ((has_transaction && !message_skip_lead(m)) || !message_skip_lsn(m) ||
        !json_expect(json, ",\"transactional\":"))
        return message_refuse_json(m);
    is_transactional = json_pass_literal(json, "true");
    if ((!is_transactional && !json_expect(json, "false")) || !json_expect(json, ",\"prefix\":") ||
        !json_string(json, JSON_OPAQUE, m->scratch, &prefix) ||
        !json_expect(json, ",\"content\":") ||
        !json_string(json, JSON_OPAQUE, m->scratch, &content) || !message_is_whole(m))
        return message_refuse_json(m);
    if (is_transactional != has_transaction)
        return message_refuse(
            m, "the message is transactional and names no transaction, or the reverse");
    if (is_transactional && !message_in_transaction(m))
        return false;
    if (m->decoder->prefix == NULL || prefix.len != strlen(m->decoder->prefix) ||
        memcmp(prefix.data, m->decoder->prefix, prefix.len) != 0)
        return true;
    change->kind = CHANGE_MESSAGE;
    change->is_transactional = is_transactional;
    change->prefix = m->decoder->prefix;
    change->content = content.data;
    change->content_len = content.len;
    return true;
}

static bool (*const handlers[256])(struct message *) = {
    ['B'] = on_begin,   ['C'] = on_commit,  ['M'] = on_message,          ['I'] = row_decode,
    ['U'] = row_decode, ['D'] = row_decode, ['T'] = row_decode_truncate,
};

static bool wal2json_decode(struct decoder *decoder, struct bytes in, struct arena *scratch,
                            struct change *ret_change, struct error *err)
{
    const char *text = (const char *) in.p;
    struct message m = {.decoder = decoder,
                        .json = {.p = text, .end = text + bytes_left(&in), .start = text},
                        .scratch = scratch,
                        .change = {.kind = CHANGE_NONE},
                        .err = err};

    if (bytes_left(&in) > INT32_MAX)
        return message_refuse(&m, "it is longer than any the server can send");
    if (!json_expect(&m.json, "{\"action\":\""))
        return message_refuse_json(&m);
    m.action = m.json.p < m.json.end ? *m.json.p : '\0';
    if (handlers[(unsigned char) m.action] == NULL)
        return message_refuse(&m, "the action is not known");
    m.json.p++;
    if (!json_expect(&m.json, "\""))
        return message_refuse_json(&m);
    if (!handlers[(unsigned char) m.action](&m))
        return false;
    *ret_change = m.change;
    return true;
}

/* ---- the ends ---- */

/* A prefix that nobody uses: an empty list would mean all messages. */
#define NO_PREFIX "tailwater:none"

static int wal2json_options(const struct decoder_config *config, struct arena *arena,
                            struct decoder_option *ret_options)
{
    static const struct decoder_option always[] = {
        {"format-version", "2"},    {"include-transaction", "1"}, {"include-xids", "1"},
        {"include-timestamp", "1"}, {"include-lsn", "1"},         {"include-schemas", "1"},
        {"include-types", "0"},     {"include-type-oids", "1"},   {"include-column-positions", "1"},
    };
    const char *prefix = config->prefix ? config->prefix : NO_PREFIX;
    int n = 0;

    (void) arena;
    for (; n < (int) (sizeof(always) / sizeof(always[0])); n++)
        ret_options[n] = always[n];
    if (config->has_numeric_as_string)
        ret_options[n++] = (struct decoder_option){"numeric-data-types-as-string", "1"};
    if (config->add_tables != NULL)
        ret_options[n++] = (struct decoder_option){"add-tables", config->add_tables};
    /* That list knows no escapes: a prefix it cannot hold is looked for on this side alone. */
    if (prefix[0] != '\0' && strpbrk(prefix, ",\\ \t\n\v\f\r") == NULL)
        ret_options[n++] = (struct decoder_option){"add-msg-prefixes", prefix};
    return n;
}

static struct decoder *wal2json_create(const struct decoder_config *config)
{
    struct arena arena = {0};
    struct decoder *decoder = arena_zalloc(&arena, sizeof(*decoder));

    decoder->prefix = config->prefix;
    decoder->arena = arena;
    shapes_init(&decoder->shapes, &decoder->arena);
    return decoder;
}

static void wal2json_destroy(struct decoder *decoder)
{
    struct arena arena;

    if (decoder == NULL)
        return;
    arena = decoder->arena; /* the decoder lies in it */
    arena_release(&arena);
}

const struct decoder_ops decoder_wal2json = {
    .plugin = "wal2json",
    .options = wal2json_options,
    .create = wal2json_create,
    .destroy = wal2json_destroy,
    .decode = wal2json_decode,
};

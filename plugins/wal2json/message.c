/* What the handlers of messages share: the fields that all have, and the words of a refusal. */
#include "message.h"

#include <stdarg.h>
#include <stdio.h>

bool message_refuse(const struct message *m, const char *format, ...)
{
    char reason[512];
    va_list args;

    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    error_set(m->err, ERROR_PROTOCOL, "%s", reason);
    if (m->table.data != NULL)
        return error_wrap(m->err, "wal2json message for %.*s.%.*s, byte %zu", (int) m->schema.len,
                          m->schema.data, (int) m->table.len, m->table.data,
                          (size_t) (m->json.p - m->json.start));
    return error_wrap(m->err, "wal2json message, byte %zu", (size_t) (m->json.p - m->json.start));
}

bool message_refuse_json(const struct message *m)
{
    message_refuse(m, "expected %s", m->json.expected);
    if (strcmp(m->json.expected, JSON_EXPECTS_UTF8) == 0)
        error_hint(m->err, "wal2json needs a source database in UTF8; source.plugin: pgoutput "
                           "converts from any other encoding");
    return false;
}

bool message_is_whole(struct message *m)
{
    if (!json_expect(&m->json, "}"))
        return false;
    return m->json.p == m->json.end || json_fail(&m->json, "the end of the message");
}

bool message_in_transaction(const struct message *m)
{
    return m->decoder->in_transaction || message_refuse(m, "it came outside a transaction");
}

bool message_read_xid(struct message *m, uint32_t *ret_xid)
{
    int64_t xid;

    if (!json_expect(&m->json, ",\"xid\":") || !json_integer(&m->json, 0, UINT32_MAX, &xid))
        return false;
    *ret_xid = (uint32_t) xid;
    return true;
}

bool message_skip_lead(struct message *m)
{
    const struct decoder *decoder = m->decoder;
    struct json_text text;
    uint32_t xid;

    if (decoder->lead_len > 0 && json_pass(&m->json, decoder->lead, decoder->lead_len))
        return true;
    return message_read_xid(m, &xid) && json_expect(&m->json, ",\"timestamp\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text);
}

bool message_skip_lsn(struct message *m)
{
    struct json_text text;

    return json_expect(&m->json, ",\"lsn\":") &&
           json_string(&m->json, JSON_TEXT, m->scratch, &text);
}

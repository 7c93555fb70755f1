/* What the kinds of destinations share. */
#include "feed/destination.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct destination_ops *destination_find(const struct config_destination *to)
{
    if (to->url != NULL)
        return &destination_http;
    if (to->command != NULL)
        return &destination_command;
    return to->table.name != NULL ? &destination_table : &destination_stdout;
}

int destination_max_documents(const struct config_feed *feed)
{
    return feed->destination.body == BODY_ONE ? 1 : feed->batch_size;
}

const char *destination_describe(const struct config_destination *to, struct arena *arena)
{
    if (to->url != NULL)
        /* What follows a question mark may be a key. */
        return arena_printf(arena, "%s %.*s", to->method, (int) strcspn(to->url, "?#"), to->url);
    if (to->command != NULL)
        return arena_printf(arena, "command %s", to->command[0]);
    if (to->table.name != NULL)
        return arena_printf(arena, "table %s.%s", to->table.schema, to->table.name);
    return "standard output";
}

void destination_add_identity(const struct destination_parcel *parcel,
                              const struct document *document, struct buf *text)
{
    buf_printf(text, "%s\n%s\n%" PRId64 "\n", document->key, document->hash, document->since);
    if (parcel->batch == 0 && document->asked_at != NULL)
        buf_printf(text, "%s\n", document->asked_at);
}

void destination_document_key(const struct destination_parcel *parcel,
                              const struct document *document,
                              char ret_key[static DESTINATION_KEY_SIZE])
{
    _cleanup_buf_ struct buf text = {0};
    char digest[33];

    destination_add_identity(parcel, document, &text);
    document_digest(buf_text(&text), text.len, digest, sizeof(digest));
    snprintf(ret_key, DESTINATION_KEY_SIZE, "%s-%lld-%s", parcel->epoch, (long long) parcel->batch,
             digest);
}

/* The receiver's words, as far as there is room. */
static void add_said(struct destination_answer *answer, const char *said, size_t len)
{
    _cleanup_buf_ struct buf text = {0};
    size_t at = strlen(answer->text), size;

    buf_add_bytes(&text, said, len);
    while (text.len > 0 && (unsigned char) text.data[text.len - 1] <= ' ')
        text.data[--text.len] = '\0';
    if (text.len > 0)
        at += (size_t) snprintf(answer->text + at, sizeof(answer->text) - at, ": ");
    for (size_t i = 0; i < text.len; i += size) {
        const unsigned char *p = (const unsigned char *) text.data + i;

        size = buf_multibyte_length(p);
        if (at + size + 1 >= sizeof(answer->text))
            break;
        if (size > 0) {
            memcpy(answer->text + at, p, size);
        } else {
            answer->text[at] = *p >= 0x80 ? '?' : *p < ' ' || *p == 0x7F ? ' ' : (char) *p;
            size = 1;
        }
        at += size;
    }
    answer->text[at] = '\0';
}

void destination_answer_set(struct destination_answer *answer, enum destination_verdict verdict,
                            const char *said, size_t len, const char *format, ...)
{
    va_list args;

    answer->verdict = verdict;
    va_start(args, format);
    vsnprintf(answer->text, sizeof(answer->text) / 2, format, args);
    va_end(args);
    answer->own_len = (int) strlen(answer->text);
    if (len > 0)
        add_said(answer, said, len);
}

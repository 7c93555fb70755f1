/* A part that cannot be looked up is null: the verdict above it says what is wrong. */
#include "http/overview.h"

#include "feed/feed_status.h"
#include "ledger/ledger_status.h"
#include "mirror/job.h"

static const struct part {
    const char *name;
    bool (*add)(struct pg *mirror, const char *pipeline, struct buf *json, struct error *err);
} parts[] = {{"ledger", ledger_status_json}, {"feeds", feed_status_json}, {"jobs", job_add_json}};

void overview_add_json(const struct status *status, struct pg *mirror, struct buf *json)
{
    const bool is_known = status->is_known && mirror != NULL;

    status_add_json(status, json);
    json->len -= 1; /* its closing brace comes last */
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        _cleanup_buf_ struct buf text = {0};
        struct error err = {0};
        const bool is_there = is_known &&
                              parts[i].add(mirror, status->config->pipeline, &text, &err);

        while (text.len > 0 && text.data[text.len - 1] == '\n')
            text.len--;
        buf_printf(json, ", \"%s\": ", parts[i].name);
        if (is_there)
            buf_add_bytes(json, text.data, text.len);
        else
            buf_add(json, "null");
    }
    buf_add_char(json, '}');
}

/* A part that cannot be looked up is null: the verdict above it says what is wrong. */
#include "http/overview.h"

#include "base/clock.h"
#include "feed/feed_status.h"
#include "ledger/ledger_status.h"
#include "mirror/job.h"

static const struct part {
    const char *name;
    bool is_slow;
    bool (*add)(struct pg *mirror, const char *pipeline, struct buf *json, struct error *err);
} parts[] = {
    [OVERVIEW_LEDGER] = {"ledger", true, ledger_status_json},
    [OVERVIEW_FEEDS] = {"feeds", true, feed_status_json},
    [OVERVIEW_JOBS] = {"jobs", false, job_add_json},
};

void overview_release(struct overview *overview)
{
    for (int i = 0; i < OVERVIEW_PARTS; i++)
        buf_release(&overview->parts[i]);
}

bool overview_is_slow(enum overview_part part)
{
    return parts[part].is_slow;
}

bool overview_read(struct pg *mirror, const char *pipeline, enum overview_part part,
                   struct overview *overview)
{
    struct buf *text = &overview->parts[part];
    struct error err;

    buf_clear(text);
    if (!parts[part].add(mirror, pipeline, text, &err)) {
        buf_clear(text);
        return false;
    }
    while (text->len > 0 && text->data[text->len - 1] == '\n')
        text->len--;
    return true;
}

void overview_add_json(const struct status *status, const struct overview *overview,
                       int64_t collected_at_us, struct buf *json)
{
    char at[CLOCK_TEXT_SIZE];

    status_add_json(status, json);
    json->len -= 1; /* its closing brace comes last */
    for (int i = 0; i < OVERVIEW_PARTS; i++) {
        const struct buf *text = &overview->parts[i];

        buf_printf(json, ", \"%s\": ", parts[i].name);
        if (text->len > 0)
            buf_add_bytes(json, text->data, text->len);
        else
            buf_add(json, "null");
    }
    buf_add(json, ", ");
    buf_add_json_member(json, "collected_at",
                        collected_at_us > 0 ? clock_text(collected_at_us, at) : NULL);
    buf_add_char(json, '}');
}

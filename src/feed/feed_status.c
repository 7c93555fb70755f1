/* One query each; the server makes the JSON of the rows that the text is printed from. */
#include "feed/feed_status.h"

#include "base/human.h"
#include "feed/feed.h"
#include "ledger/inspect.h"

#include <inttypes.h>
#include <stdlib.h>

#define MAX_DEAD "1000"

static const char states[] =
    "select s.*, definition ->> 'destination' as destination, definition ->> 'fields' as fields, "
    "round(extract(epoch from clock_timestamp() - s.oldest_at), 3) as oldest_s, "
    "round(extract(epoch from clock_timestamp() - s.sent_at), 3) as last_s "
    "from tailwater.feed_states($1) s";

static const char *column(const struct pg_result *rows, int row, const char *name)
{
    for (int i = 0; i < pg_columns(rows); i++)
        if (strcmp(pg_column(rows, i), name) == 0)
            return pg_text(rows, row, i);
    abort(); /* not in the statement above */
}

static const char *seconds(const char *text, char human[static HUMAN_TEXT_SIZE])
{
    return human_duration((int64_t) (strtod(text, NULL) * 1000000), human);
}

static void add_feed(const struct pg_result *rows, int row, struct buf *out)
{
    const char *reason = column(rows, row, "reason"), *oldest = column(rows, row, "oldest_s");
    const char *last = column(rows, row, "last_s"), *latency = column(rows, row, "latency_ms");
    char human[HUMAN_TEXT_SIZE];

    buf_printf(out, "%s: fact %s to %s; %s%s", column(rows, row, "name"), column(rows, row, "fact"),
               column(rows, row, "destination"), column(rows, row, "state"),
               reason[0] != '\0' ? ": " : "");
    buf_add_shown(out, reason);
    buf_printf(out, "\n  fields %s\n", column(rows, row, "fields"));
    buf_printf(out, "  sent %s documents in %s requests, %s unchanged, %s refused",
               column(rows, row, "sent"), column(rows, row, "requests"),
               column(rows, row, "unchanged"), column(rows, row, "refused"));
    if (last[0] != '\0')
        buf_printf(out, "; last %s ago", seconds(last, human));
    buf_printf(out, "\n  %s keys pending", column(rows, row, "pending_keys"));
    if (oldest[0] != '\0')
        buf_printf(out, ", the oldest for %s", seconds(oldest, human));
    buf_printf(out, "; %s to be looked at, %s to be tried again, %s dead letters\n",
               column(rows, row, "due"), column(rows, row, "retrying"), column(rows, row, "dead"));
    if (latency[0] != '\0')
        buf_printf(out,
                   "  from commit to request: median %.0f ms, 99th percentile %.0f ms, at most "
                   "%.0f ms\n",
                   strtod(latency, NULL), strtod(column(rows, row, "latency_p99_ms"), NULL),
                   strtod(column(rows, row, "latency_max_ms"), NULL));
}

bool feed_status_text(struct pg *mirror, const char *pipeline, struct buf *out, struct error *err)
{
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(mirror, states, 1, &pipeline, &rows, err))
        return feed_explain(err);
    for (int row = 0; row < pg_rows(rows); row++)
        add_feed(rows, row, out);
    if (pg_rows(rows) == 0)
        buf_printf(out, "no feed of pipeline %s has run yet\n", pipeline);
    return true;
}

bool feed_status_json(struct pg *mirror, const char *pipeline, struct buf *out, struct error *err)
{
    return inspect_print(mirror, states, 1, &pipeline, NULL, 0, true, out, err) ||
           feed_explain(err);
}

bool feed_status_dead(struct pg *mirror, const char *feed, bool is_json, struct buf *out,
                      struct error *err)
{
    static const char *const titles[] = {"key", "attempts", "last try", "next try", "answer"};

    return inspect_print(mirror,
                         is_json ? "select * from tailwater.feed_dead($1, " MAX_DEAD ")"
                                 : "select array_to_string(key, ','), attempts, "
                                   "failed_at::timestamptz(0), coalesce(next_at::timestamptz(0)::"
                                   "text, 'never'), answer "
                                   "from tailwater.feed_dead($1, " MAX_DEAD ")",
                         1, &feed, titles, 5, is_json, out, err) ||
           feed_explain(err);
}

/*
 * TIMELINE_HISTORY gives the history file of a timeline as the server has it: one line for each
 * ancestor, with the LSN at which it was left.
 */
#include "source/timeline.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LINE 128 /* the part of it that is looked at; reasons may be long */

/* "3\t0/5000028\t…" */
static bool parse_line(const char *line, int *ret_timeline, lsn_t *ret_switch)
{
    char *end;
    long timeline = strtol(line, &end, 10);
    char lsn[LSN_TEXT_SIZE];
    size_t len;

    if (end == line || timeline <= 0 || timeline > INT32_MAX)
        return false;
    end += strspn(end, " \t");
    len = strcspn(end, " \t");
    if (len == 0 || len >= sizeof(lsn))
        return false;
    memcpy(lsn, end, len);
    lsn[len] = '\0';
    if (!lsn_parse(lsn, ret_switch))
        return false;
    *ret_timeline = (int) timeline;
    return true;
}

bool timeline_parse(const char *history, size_t len, int old, lsn_t *ret_switch)
{
    const char *end = history + len;

    while (history < end) {
        const char *newline = memchr(history, '\n', (size_t) (end - history));
        size_t line_len = (size_t) ((newline ? newline : end) - history);
        char line[MAX_LINE];
        int timeline;
        lsn_t at;

        if (line_len >= sizeof(line))
            line_len = sizeof(line) - 1;
        memcpy(line, history, line_len);
        line[line_len] = '\0';
        if (parse_line(line, &timeline, &at) && timeline == old) {
            *ret_switch = at;
            return true;
        }
        history = newline ? newline + 1 : end;
    }
    return false;
}

bool timeline_find_switch(struct pg *replication, int old, int current, lsn_t *ret_switch,
                          struct error *err)
{
    _cleanup_result_ struct pg_result *result = NULL;
    _cleanup_buf_ struct buf command = {0};

    /* Timeline 1 has no ancestors, and so no file. */
    if (current > 1) {
        buf_printf(&command, "TIMELINE_HISTORY %d", current);
        if (!pg_query_row(replication, buf_text(&command), 0, NULL, &result, err))
            return error_wrap(err, "reading the history of the source's timeline %d", current);
        if (timeline_parse(pg_text(result, 0, 1), pg_text_len(result, 0, 1), old, ret_switch))
            return true;
    }
    return error_set(err, ERROR_SLOT,
                     "the source is on timeline %d, which does not come from timeline %d that the "
                     "mirror was made from: it was restored to an earlier state, or is another "
                     "server",
                     current, old);
}

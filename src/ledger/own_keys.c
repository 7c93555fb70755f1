/* COPY takes whole lines, so that what all of them begin with is put before each here.  The lines are
 * of one batch, which bounds them (apply.max_rows). */
#include "ledger/own_keys.h"

#include "ledger/reach.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PUT_BYTES (64 << 10)

/* Own keys are of lane 0 and node 0. */
static bool put_lines(struct pg *pg, int64_t number, const struct buf *lines, struct error *err)
{
    _cleanup_buf_ struct buf out = {0};
    char head[64];
    const size_t head_len = (size_t) snprintf(head, sizeof(head), "%" PRId64 "\t0\t0\t", number);
    const char *at = lines->data, *end = lines->data + lines->len;

    while (at < end) {
        const char *next = (const char *) memchr(at, '\n', (size_t) (end - at)) + 1;

        buf_add_bytes(&out, head, head_len);
        buf_add_bytes(&out, at, (size_t) (next - at));
        at = next;
        if (out.len < PUT_BYTES && at < end)
            continue;
        if (!pg_copy_in_put(pg, out.data, out.len, err))
            return false;
        buf_clear(&out);
    }
    return true;
}

static bool copy(struct pg *pg, const struct fact *fact, int64_t number, const struct buf *lines,
                 int64_t *ret_copied, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};

    reach_add_copy(&sql, fact);
    return pg_pipeline_leave(pg, err) && pg_copy_in_begin(pg, buf_text(&sql), err) &&
           put_lines(pg, number, lines, err) && pg_copy_in_end(pg, ret_copied, err) &&
           pg_pipeline_enter(pg, err);
}

bool own_keys_copy(struct pg *pg, const struct fact *fact, int64_t number, const struct buf *lines,
                   int64_t count, struct error *err)
{
    int64_t copied = 0;

    if (!copy(pg, fact, number, lines, &copied, err))
        return error_wrap(err, "keys of fact %s", fact->name);
    if (copied != count)
        return error_set(err, ERROR_BUG, "%" PRId64 " keys of fact %s were copied, not %" PRId64,
                         copied, fact->name, count);
    return true;
}

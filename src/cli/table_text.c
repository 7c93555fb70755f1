/* Changed on the source: how long ago.  Resynced and verified: that too, and how many rows differed
 * then. */
#include "cli/table_text.h"

#include "base/clock.h"
#include "base/human.h"
#include "config/edit.h"
#include "mirror/freshness.h"

#include <inttypes.h>
#include <stdio.h>

#define NAME_WIDTH 24

void table_text_add_header(struct buf *out)
{
    buf_printf(out, "%-*s  %-8s %7s %8s %7s %9s %9s\n", NAME_WIDTH, "table", "state", "rows",
               "size", "changed", "resynced", "verified");
}

/* "3d: 120": three days ago, 120 rows differed. */
#define COMPARED_SIZE (2 * HUMAN_TEXT_SIZE)

static const char *compared(int64_t at_us, int64_t differences, char text[static COMPARED_SIZE])
{
    char age[HUMAN_TEXT_SIZE];

    if (at_us == 0)
        return "-";
    human_age(clock_now_us() - at_us, age);
    if (differences < 0)
        snprintf(text, COMPARED_SIZE, "%s", age);
    else if (differences < 10000)
        snprintf(text, COMPARED_SIZE, "%s: %" PRId64, age, differences);
    else
        snprintf(text, COMPARED_SIZE, "%s: %" PRId64 "k", age, differences / 1000);
    return text;
}

/* Marked where that is worth a look. */
static const char *changed(const struct freshness *freshness, char text[static COMPARED_SIZE])
{
    char age[HUMAN_TEXT_SIZE];

    if (freshness == NULL || freshness->last_change_us == 0)
        return "-";
    snprintf(text, COMPARED_SIZE, "%s%s",
             human_age(clock_now_us() - freshness->last_change_us, age),
             freshness_event(freshness->state) != NULL ? "!" : "");
    return text;
}

static const char *state_of(const struct config *config, const struct control_table *table)
{
    bool is_named;

    if (table->is_resynced)
        return "resync";
    if (table->quarantine.lsn != 0)
        return "QUARANT.";
    if (table->unlisted_lsn == 0)
        return control_table_state_name(table->state);
    return edit_is_taken(config, table->schema, table->name, &is_named) ? "gone" : "unlisted";
}

void table_text_add_row(struct buf *out, const struct config *config,
                        const struct control_table *table)
{
    char rows[HUMAN_TEXT_SIZE], bytes[HUMAN_TEXT_SIZE];
    char last[COMPARED_SIZE], resynced[COMPARED_SIZE], verified[COMPARED_SIZE];
    _cleanup_buf_ struct buf name = {0};
    int shown = 0;
    size_t cut = 0;

    buf_add_shown(&name, table->schema);
    buf_add_char(&name, '.');
    buf_add_shown(&name, table->name);
    /* In characters, not in bytes, so that the columns stay straight. */
    while (cut < name.len && shown < NAME_WIDTH) {
        cut++;
        while (cut < name.len && ((unsigned char) name.data[cut] & 0xC0) == 0x80)
            cut++;
        shown++;
    }
    buf_printf(out, "%.*s%*s  %-8s %7s %8s %7s %9s %9s\n", (int) cut, buf_text(&name),
               NAME_WIDTH - shown, "", state_of(config, table),
               human_estimate(table->estimated_rows, rows),
               table->total_bytes < 0 ? "-" : human_bytes(table->total_bytes, bytes),
               changed(table->freshness, last),
               compared(table->resynced_at_us, table->resynced_differences, resynced),
               compared(table->verified_at_us, table->verified_differences, verified));
}

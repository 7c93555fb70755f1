/*
 * The verdict: a list of rules, the first that applies speaks.  They stand in the order in which a
 * person woken at night would want to hear them: what cannot be seen, what has lost data or will,
 * who does not run, what is slow.
 */
#include "mirror/status.h"

#include "base/human.h"

/* Commit-to-visible is milliseconds; so old is worth a word, so old worth a look. */
#define LAG_WORD_US  INT64_C(5000000)
#define LAG_WATCH_US INT64_C(60000000)

/* A row waits for its repair for seconds. */
#define REPAIR_WATCH_US INT64_C(300000000)

static bool say(struct status *status, enum status_level level, const char *state,
                const char *words, const char *next)
{
    status->level = level;
    status->state = state;
    status->words = words;
    status->next = next;
    return true;
}

/* Commands with the file that they are to read. */
static const char *named(const struct status *status, struct arena *arena, const char *text)
{
    _cleanup_buf_ struct buf out = {0};

    human_commands(text, status->config->file, &out);
    return arena_strdup(arena, buf_text(&out));
}

static const char *command(const struct status *status, struct arena *arena, const char *verb)
{
    return named(status, arena, arena_printf(arena, "tailwater %s", verb));
}

static bool say_error(struct status *status, struct arena *arena, const char *state,
                      const struct error *err)
{
    status->kind = err->kind;
    return say(status, STATUS_BROKEN, state, arena_strdup(arena, err->message),
               named(status, arena, err->hint));
}

/* ---- what cannot be seen ---- */

static bool mirror_down(struct status *status, struct arena *arena)
{
    return !status->mirror.is_up &&
           say_error(status, arena,
                     status->mirror.error.kind == ERROR_MIRROR ? "mirror unreachable"
                                                               : "mirror refuses",
                     &status->mirror.error);
}

static bool unknown(struct status *status, struct arena *arena)
{
    return !status->is_known && say_error(status, arena, "unknown pipeline", &status->unknown);
}

static bool source_down(struct status *status, struct arena *arena)
{
    if (status->source.is_up)
        return false;
    return say_error(status, arena,
                     status->source.error.kind == ERROR_SOURCE ? "source unreachable"
                                                               : "source refuses",
                     &status->source.error);
}

/* ---- what is not ours, or lost ---- */

static bool setting_up(struct status *status, struct arena *arena)
{
    if (status->pipeline.identity.slot_lsn != 0)
        return false;
    if (status->holder.pid != 0)
        return say(status, STATUS_FINE, "starting",
                   "the pipeline is being set up; its slot is not made yet", "");
    return say(status, STATUS_WATCH, "stopped",
               "the pipeline was not set up to its end: its slot is not made yet",
               command(status, arena, "run"));
}

static bool other_source(struct status *status, struct arena *arena)
{
    const struct control_identity *stored = &status->pipeline.identity;
    struct control_identity actual = *stored;
    struct error err = {0};

    actual.slot = status->config->source.slot;
    actual.plugin = status->config->source.plugin;
    if (status->system_identifier != NULL)
        actual.system_identifier = status->system_identifier;
    return !control_check_identity(stored, &actual, &err) &&
           say_error(status, arena, "another source", &err);
}

static bool slot_wrong(struct status *status, struct arena *arena)
{
    struct slot_status slot = status->slot;
    struct error err = {0};

    slot.active_pid = 0; /* being read from is as it should be */
    if (slot_check(&slot, status->config->source.slot, status->pipeline.identity.plugin,
                   status->pipeline.identity.database, &err))
        return false;
    say_error(status, arena,
              !slot.exists   ? "slot missing"
              : slot.is_lost ? "slot lost"
                             : "slot not ours",
              &err);
    if (!slot.exists || slot.is_lost)
        status->next = command(status, arena, "resync --all --new-slot");
    return true;
}

/* ---- who does not run ---- */

static const char *last_error(const struct status *status, struct arena *arena)
{
    if (!status->has_heartbeat || status->heartbeat.last_error == NULL)
        return "";
    return arena_printf(arena, "; its last error: %s", status->heartbeat.last_error);
}

static bool is_at(const struct status *status, enum wal_level level)
{
    const struct config *config = status->config;

    return slot_wal_level(&status->slot, config->source.wal_guard.warn_bytes,
                          config->source.wal_guard.critical_bytes) >= level;
}

static bool is_critical(const struct status *status)
{
    return is_at(status, WAL_CRITICAL);
}

/* Did the process that holds the lock say it, and not one before it? */
static bool is_said_by_holder(const struct status *status)
{
    return status->has_heartbeat && status->heartbeat.said_at_us >= status->holder.since_us;
}

static const char *remedy_while_waiting(const struct status *status, struct arena *arena)
{
    const char *hint = status->heartbeat.last_hint;

    return hint ? named(status, arena, hint)
                : "it tries again by itself; its log says what it waits for";
}

/* It waits a moment before it tries again, and has nothing open meanwhile. */
static bool pausing(struct status *status, struct arena *arena)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;

    if ((status->holder.pid != 0 && is_said_by_holder(status)) || !status->has_heartbeat ||
        heartbeat->exit_code > 0 || strncmp(heartbeat->state, "waiting", 7) != 0 ||
        heartbeat->age_us >= STATUS_PAUSE_US)
        return false;
    return say(
        status, STATUS_WATCH, heartbeat->state,
        arena_printf(arena, "the replicator is %s%s", heartbeat->state, last_error(status, arena)),
        heartbeat->last_hint ? named(status, arena, heartbeat->last_hint)
                             : "it tries again by itself; its log says what it waits for");
}

/* It has ended because of something: that, and its remedy, is what there is to say. */
static bool failed(struct status *status, struct arena *arena)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    char age[HUMAN_TEXT_SIZE];

    if (status->holder.pid != 0 || !status->has_heartbeat || heartbeat->exit_code <= 0)
        return false;
    return say(status, STATUS_BROKEN, "failed",
               arena_printf(arena, "the replicator ended %s ago with exit code %d: %s",
                            human_duration(heartbeat->age_us, age), (int) heartbeat->exit_code,
                            heartbeat->last_error ? heartbeat->last_error : ""),
               heartbeat->last_hint ? named(status, arena, heartbeat->last_hint)
                                    : command(status, arena, "run"));
}

static bool stopped(struct status *status, struct arena *arena)
{
    char age[HUMAN_TEXT_SIZE], kept[HUMAN_TEXT_SIZE];
    const char *words;

    if (status->holder.pid != 0)
        return false;
    words = status->has_heartbeat
                ? arena_printf(arena, "nobody replicates: the replicator was last heard %s ago",
                               human_duration(status->heartbeat.age_us, age))
                : "nobody replicates";
    if (is_critical(status))
        words = arena_printf(arena, "%s, and the source keeps %s of WAL for it", words,
                             human_bytes(status->slot.retained_bytes, kept));
    return say(status, is_critical(status) ? STATUS_BROKEN : STATUS_WATCH, "stopped",
               arena_printf(arena, "%s%s", words, last_error(status, arena)),
               command(status, arena, "run"));
}

static bool silent(struct status *status, struct arena *arena)
{
    char age[HUMAN_TEXT_SIZE];

    if (!status->has_heartbeat || status->heartbeat.age_us < STATUS_SILENT_US ||
        status->heartbeat.said_at_us < status->holder.since_us)
        return false;
    return say(status, STATUS_BROKEN, "silent",
               arena_printf(arena,
                            "a replicator holds the pipeline's lock but has said nothing for %s",
                            human_duration(status->heartbeat.age_us, age)),
               arena_printf(arena,
                            "look at process %d on %s: its log, and what it waits for; ended with "
                            "kill, it can be started again at once, nothing is lost",
                            status->heartbeat.pid, status->heartbeat.host));
}

/* ---- what runs ---- */

/*
 * What holds WAL on the source: a transaction there, where the mirror has nearly all that there is, or
 * a mirror that does not keep up.
 */
static const char *why_retained(const struct status *status)
{
    if (status->lag_bytes >= 0 && status->lag_bytes < status->slot.retained_bytes / 2)
        return "end the long transaction on the source that holds it: SELECT pid, xact_start, "
               "query FROM "
               "pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; then SELECT "
               "pg_terminate_backend(pid) of the first";
    return "see why the mirror does not keep up (long transactions, locks, a full disk there); if "
           "the "
           "source's disk is in danger, tailwater destroy frees it at the price of a new copy";
}

static const char *retained(const struct status *status, struct arena *arena)
{
    char kept[HUMAN_TEXT_SIZE], limit[HUMAN_TEXT_SIZE], left[HUMAN_TEXT_SIZE];
    const int64_t passed = is_critical(status) ? status->config->source.wal_guard.critical_bytes
                                               : status->config->source.wal_guard.warn_bytes;

    human_bytes(status->slot.retained_bytes, kept);
    if (status->slot.retained_bytes >= passed)
        return arena_printf(arena, "the source keeps %s of WAL for the slot, past the %s %s", kept,
                            is_critical(status) ? "critical" : "warning at",
                            human_bytes(passed, limit));
    return arena_printf(
        arena,
        "the source keeps %s of WAL for the slot, and gives the slot up after %s more "
        "(max_slot_wal_keep_size)",
        kept, human_bytes(status->slot.safe_wal_bytes, left));
}

static bool wal_critical(struct status *status, struct arena *arena)
{
    return is_critical(status) &&
           say(status, STATUS_BROKEN, "WAL critical", retained(status, arena),
               named(status, arena, why_retained(status)));
}

/* Tables are left out: what the mirror shows of them is old and gets older. */
static bool quarantined(struct status *status, struct arena *arena)
{
    const struct control_table *first = NULL;
    char name[HUMAN_TABLE_SIZE];
    char age[HUMAN_TEXT_SIZE];
    bool is_healing = true;

    if (status->nquarantined == 0)
        return false;
    for (int i = 0; i < status->ntables; i++) {
        const struct control_table *table = &status->tables[i];

        if (table->quarantine.lsn == 0)
            continue;
        if (first == NULL || (first->is_resynced && !table->is_resynced))
            first = table;
        is_healing &= table->is_resynced;
    }
    if (first == NULL)
        return false;
    status->kind = ERROR_FINDINGS;
    human_duration(status->taken_at_us - first->quarantine.since_us, age);
    return say(status, STATUS_BROKEN, "quarantine",
               status->nquarantined == 1
                   ? arena_printf(arena, "%s.%s is quarantined, for %s: %s", first->schema,
                                  first->name, age, first->quarantine.reason)
                   : arena_printf(arena, "%d tables are quarantined; %s.%s for %s: %s",
                                  status->nquarantined, first->schema, first->name, age,
                                  first->quarantine.reason),
               is_healing ? "a resync is under way"
                          : arena_printf(arena, "tailwater resync -c %s %s", status->config->file,
                                         human_table(first->schema, first->name, name)));
}

/* How much of the copy, and how long from now on at the pace so far. */
static const char *progress(const struct status *status, struct arena *arena)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    char done[HUMAN_TEXT_SIZE], all[HUMAN_TEXT_SIZE], left[HUMAN_TEXT_SIZE];
    int64_t elapsed_us = heartbeat->said_at_us - heartbeat->started_at_us;
    double remaining;

    if (!is_said_by_holder(status) || heartbeat->copy_bytes <= 0)
        return "";
    remaining = heartbeat->copy_bytes_done > 0
                    ? (double) (heartbeat->copy_bytes - heartbeat->copy_bytes_done) /
                          (double) heartbeat->copy_bytes_done * (double) elapsed_us
                    : -1;
    return arena_printf(
        arena, ", %s of about %s%s%s", human_bytes(heartbeat->copy_bytes_done, done),
        human_bytes(heartbeat->copy_bytes, all), remaining >= 10e6 ? "; to go: about " : "",
        remaining >= 10e6 ? human_duration((int64_t) remaining, left) : "");
}

static bool copying(struct status *status, struct arena *arena)
{
    if (status->pipeline.state != CONTROL_COPYING)
        return false;
    return say(status, STATUS_FINE, "copying",
               arena_printf(arena, "initial copy: %d of %d tables%s", status->ncopied,
                            status->ntables, progress(status, arena)),
               "");
}

/* Nothing comes in meanwhile, for the reason that the replicator gives. */
static bool waiting(struct status *status, struct arena *arena)
{
    const char *state = status->heartbeat.state;

    if (!is_said_by_holder(status) || strncmp(state, "waiting", 7) != 0)
        return false;
    return say(status, STATUS_WATCH, state,
               arena_printf(arena, "the replicator is %s%s", state, last_error(status, arena)),
               remedy_while_waiting(status, arena));
}

/* Its heartbeat, a second old at most, does not know yet that it streams. */
static bool starting(struct status *status, struct arena *arena)
{
    (void) arena;
    return is_said_by_holder(status) && strcmp(status->heartbeat.state, "streaming") != 0 &&
           say(status, STATUS_FINE, "starting", "the copy is complete; streaming begins", "");
}

static bool catching_up(struct status *status, struct arena *arena)
{
    char left[HUMAN_TEXT_SIZE];

    if (status->newest_copy <= status->pipeline.cursor)
        return false;
    return say(status, STATUS_FINE, "catching up",
               arena_printf(
                   arena, "the copy is complete; %s of WAL to go until all tables are equally new",
                   human_bytes((int64_t) (status->newest_copy - status->pipeline.cursor), left)),
               "");
}

static bool wal_warning(struct status *status, struct arena *arena)
{
    return is_at(status, WAL_WARNING) &&
           say(status, STATUS_WATCH, "WAL warning",
               arena_printf(arena, "streaming; %s", retained(status, arena)),
               named(status, arena, why_retained(status)));
}

static bool behind(struct status *status, struct arena *arena)
{
    char lag[HUMAN_TEXT_SIZE];
    bool is_watched = status->lag_us >= LAG_WATCH_US;

    if (status->lag_us < LAG_WORD_US)
        return false;
    return say(status, is_watched ? STATUS_WATCH : STATUS_FINE, "behind",
               arena_printf(arena, "streaming, %s behind", human_duration(status->lag_us, lag)),
               is_watched ? "look again whether it shrinks; if not, see what the mirror waits for: "
                            "SELECT pid, state, "
                            "wait_event_type, query FROM pg_stat_activity WHERE application_name "
                            "LIKE 'tailwater%'"
                          : "");
}

static bool repairing(struct status *status, struct arena *arena)
{
    char age[HUMAN_TEXT_SIZE];

    if (status->doubt_rows > 0 && status->doubt_oldest_us >= REPAIR_WATCH_US &&
        status->config->source.nan_check != NAN_CHECK_OFF)
        return say(status, STATUS_WATCH, "streaming",
                   arena_printf(arena,
                                "streaming; the source has to be asked about the nulls of %lld "
                                "rows, the oldest for %s",
                                (long long) status->doubt_rows,
                                human_duration(status->doubt_oldest_us, age)),
                   "the replicator's log says what keeps it from asking (nan_check_failed); "
                   "source.max_read_rate may be too low for it");
    if (status->repair_keys == 0 || status->repair_oldest_us < REPAIR_WATCH_US)
        return false;
    return say(status, STATUS_WATCH, "streaming",
               arena_printf(
                   arena,
                   "streaming; %lld rows wait to be fetched from the source, the oldest for %s",
                   (long long) status->repair_keys, human_duration(status->repair_oldest_us, age)),
               "the replicator's log says what keeps it from fetching them");
}

/* "consumer stale": the event that it goes with, in words. */
static bool troubled(struct status *status, struct arena *arena)
{
    const struct control_trouble *first = status->troubles;
    char *state;

    if (status->ntroubles == 0)
        return false;
    state = arena_printf(arena, "%s", first->event);
    for (char *c = state; *c != '\0'; c++)
        *c = *c == '_' ? ' ' : *c;
    return say(status, STATUS_WATCH, state,
               status->ntroubles == 1 ? arena_printf(arena, "streaming; %s", first->words)
                                      : arena_printf(arena, "streaming; %d things to look at; %s",
                                                     status->ntroubles, first->words),
               first->next);
}

static bool fine(struct status *status, struct arena *arena)
{
    (void) arena;
    return say(status, STATUS_FINE, "streaming", "streaming, up to date", "");
}

static bool (*const rules[])(struct status *status, struct arena *arena) = {
    mirror_down, unknown,     source_down, setting_up,   other_source, slot_wrong, pausing,
    failed,      stopped,     silent,      wal_critical, copying,      waiting,    quarantined,
    starting,    catching_up, wal_warning, behind,       repairing,    troubled,   fine,
};

void status_judge(struct status *status, struct arena *arena)
{
    status->kind = ERROR_NONE;
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        if (rules[i](status, arena))
            return;
}

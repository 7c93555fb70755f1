/*
 * Collecting.  Both servers are asked with a handful of cheap queries: row counts are estimates,
 * and nothing is locked.
 *
 * Lag has two measures, and neither alone tells the truth.  Bytes are exact but count WAL that has
 * nothing to do with this pipeline (another database's, a checkpoint's) until a keepalive moves the
 * cursor over it; seconds are measured by the replicator from the commits it has received, and only
 * while it runs.  With nobody running, the last moment at which the mirror is known to have been
 * complete gives a bound.
 */
#include "mirror/status.h"

#include "base/clock.h"
#include "base/human.h"
#include "source/watch.h"

#include <stdlib.h>
#include <string.h>

void status_disconnect(struct status_connections *connections)
{
    pg_free(connections->source);
    pg_free(connections->mirror);
    *connections = (struct status_connections){0};
}

static bool connect_to(enum pg_side side, const char *conninfo, const char *pipeline,
                       struct pg **connection, struct error *err)
{
    _cleanup_buf_ struct buf application = {0};

    if (*connection != NULL && !pg_is_broken(*connection))
        return true;
    pg_free(*connection);
    *connection = NULL;
    buf_printf(&application, "tailwater %s status", pipeline);
    return pg_connect(&(struct pg_options){.side = side,
                                           .conninfo = conninfo,
                                           .application = buf_text(&application),
                                           .settings = "-c statement_timeout=10s",
                                           .connect_timeout_s = STATUS_CONNECT_TIMEOUT_S},
                      connection, err);
}

static const char *describe(const char *conninfo, struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};

    pg_describe(conninfo, &text);
    return arena_strdup(arena, buf_text(&text));
}

/* ---- the mirror's side ---- */

static bool load_pipeline(struct pg *mirror, struct arena *arena, struct status *status,
                          struct error *err)
{
    const char *name = status->config->pipeline;
    _cleanup_buf_ struct buf others = {0};
    const char **names;
    int count = 0, version, known;

    if (!control_version(mirror, &version, &known, err))
        return false;
    /* What is wrong with the pipeline is no failure of the mirror. */
    if (version > 0 && !control_require(mirror, &status->unknown)) {
        if (status->unknown.kind == ERROR_CONFIG)
            return true;
        *err = status->unknown;
        return false;
    }
    if (version > 0 &&
        (!control_load(mirror, name, arena, &status->is_known, &status->pipeline, err) ||
         !control_list(mirror, arena, &count, &names, err)))
        return false;
    if (status->is_known)
        return true;
    for (int i = 0; i < count; i++)
        buf_printf(&others, "%s%s", i > 0 ? ", " : "", names[i]);
    error_set(&status->unknown, ERROR_FAILED, "there is no pipeline %s in the mirror database",
              name);
    if (count > 0)
        error_hint(&status->unknown, "there is: %s; check pipeline: and mirror.conninfo in %s",
                   buf_text(&others), status->config->file);
    else
        error_hint(&status->unknown, "tailwater run -c %s", status->config->file);
    return true;
}

static void count_tables(struct status *status)
{
    for (int i = 0; i < status->ntables; i++) {
        const struct control_table *table = &status->tables[i];

        status->nready += table->state == CONTROL_TABLE_READY;
        status->nquarantined += table->quarantine.lsn != 0;
        status->ncopied += table->state >= CONTROL_TABLE_COPIED;
        if (table->copy_lsn > status->newest_copy)
            status->newest_copy = table->copy_lsn;
    }
}

static bool ask_mirror(struct pg *mirror, struct arena *arena, struct status *status,
                       struct error *err)
{
    const char *name = status->config->pipeline;

    if (!load_pipeline(mirror, arena, status, err))
        return false;
    if (!status->is_known)
        return true;
    if (!control_list_tables(mirror, name, arena, &status->ntables, &status->tables, err) ||
        !control_read_heartbeat(mirror, name, arena, &status->has_heartbeat, &status->heartbeat,
                                err) ||
        !control_find_holder(mirror, name, arena, &status->holder, err) ||
        !control_repairs(mirror, name, &status->repair_keys, &status->repair_oldest_us, err) ||
        !control_doubts(mirror, name, &status->doubt_rows, &status->doubt_oldest_us, err) ||
        !control_read_counters(mirror, name, arena, &status->ncounters, &status->counters, err) ||
        !control_list_troubles(mirror, name, arena, &status->ntroubles, &status->troubles, err) ||
        !freshness_list(mirror, status->config, arena, &status->nfreshness, &status->freshness,
                        err) ||
        !freshness_list_facts(mirror, status->config, arena, &status->nfact_freshness,
                              &status->fact_freshness, err)) {
        status->is_known = false;
        return false;
    }
    freshness_assign(status->freshness, status->nfreshness, status->tables, status->ntables);
    count_tables(status);
    return true;
}

/* ---- the source's side ---- */

static bool ask_source(struct pg *source, struct arena *arena, struct status *status,
                       struct error *err)
{
    _cleanup_result_ struct pg_result *system = NULL;
    struct error ignored;

    if (!slot_look(source, status->config->source.slot, &status->slot, err))
        return false;
    status->has_slot = true;
    /* Everybody may by default; where somebody took that away, run is the one to compare. */
    if (!watch_find_blocker(source, status->config->pipeline, arena, &status->blocker,
                            &status->blocker_next, err))
        return false;
    if (pg_query_row(source, "SELECT system_identifier FROM pg_control_system()", 0, NULL, &system,
                     &ignored))
        status->system_identifier = arena_strdup(arena, pg_text(system, 0, 0));
    return true;
}

/* ---- lag ---- */

static bool is_replicator_alive(const struct status *status)
{
    return status->holder.pid != 0 && status->has_heartbeat &&
           status->heartbeat.age_us < STATUS_SILENT_US;
}

static void measure_lag(struct status *status)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    int64_t complete_us = status->pipeline.commit_time_us;

    status->lag_bytes = status->lag_us = -1;
    if (!status->is_known || status->pipeline.state != CONTROL_STREAMING)
        return;
    if (status->has_slot && status->slot.exists)
        status->lag_bytes = status->slot.current > status->pipeline.cursor
                                ? (int64_t) (status->slot.current - status->pipeline.cursor)
                                : 0;
    if (status->lag_bytes == 0) {
        status->lag_us = 0;
        return;
    }
    if (is_replicator_alive(status) && heartbeat->lag_us >= 0) {
        status->lag_us = heartbeat->lag_us;
        return;
    }
    if (status->has_heartbeat && heartbeat->lag_us >= 0 &&
        heartbeat->said_at_us - heartbeat->lag_us > complete_us)
        complete_us = heartbeat->said_at_us - heartbeat->lag_us;
    if (complete_us == 0)
        return;
    status->lag_us = status->taken_at_us > complete_us ? status->taken_at_us - complete_us : 0;
    status->is_lag_bound = true;
}

/* ---- troubles ---- */

/* Where the clocks do not agree, ages and lag are wrong, and nobody sees why. */
static bool find_wrong_clock(const struct status *status, struct arena *arena,
                             struct control_trouble *ret_trouble)
{
    const struct control_heartbeat *heartbeat = &status->heartbeat;
    const int64_t source = heartbeat->source_ahead_us, mirror = heartbeat->mirror_ahead_us;
    const char *whose;
    char off[HUMAN_TEXT_SIZE];
    int64_t ahead;

    if (!status->has_heartbeat || !is_replicator_alive(status) ||
        !status_clock_is_wrong(source, mirror, &whose, &ahead))
        return false;
    if (whose == NULL)
        whose = arena_printf(arena, "the replicator's machine, %s,", heartbeat->host);
    *ret_trouble = (struct control_trouble){
        .event = "clock_wrong",
        .subject = status->config->pipeline,
        .words = arena_printf(arena, "the clock of %s is %s %s the others'", whose,
                              human_duration(llabs(ahead) + 500000, off),
                              ahead > 0 ? "ahead of" : "behind"),
        .next =
            "set that clock (timedatectl set-ntp true, or chronyc makestep there): until then ages "
            "and lag are wrong by as much; rows are not"};
    return true;
}

bool status_clock_is_wrong(int64_t source_ahead_us, int64_t mirror_ahead_us, const char **ret_whose,
                           int64_t *ret_ahead_us)
{
    const bool is_source_off = llabs(source_ahead_us) > STATUS_CLOCK_US;
    const bool is_mirror_off = llabs(mirror_ahead_us) > STATUS_CLOCK_US;

    if (!is_source_off && !is_mirror_off)
        return false;
    *ret_whose = is_source_off && is_mirror_off ? NULL
                 : is_source_off                ? "the source"
                                                : "the mirror";
    *ret_ahead_us = is_source_off && is_mirror_off ? -source_ahead_us
                    : is_source_off                ? source_ahead_us
                                                   : mirror_ahead_us;
    return true;
}

/* A table or fact each; above MAX_ALIKE of one kind they are one trouble, and have one cause. */
#define MAX_ALIKE 5

static int find_unusual(const struct status *status, const struct freshness *list, int nlist,
                        enum freshness_state state, struct arena *arena,
                        struct control_trouble ret_troubles[static MAX_ALIKE])
{
    const struct freshness *first = NULL;
    int count = 0;

    for (int i = 0; i < nlist; i++) {
        const struct freshness *freshness = &list[i];

        if (freshness->state != state)
            continue;
        first = first == NULL ? freshness : first;
        if (count++ < MAX_ALIKE)
            ret_troubles[count - 1] = (struct control_trouble){.event = freshness_event(state),
                                                               .subject = freshness->label,
                                                               .words = freshness->words,
                                                               .next = freshness->next};
    }
    if (count <= MAX_ALIKE)
        return count;
    ret_troubles[0].subject = first->schema != NULL
                                  ? status->config->pipeline
                                  : arena_printf(arena, "facts of %s", status->config->pipeline);
    ret_troubles[0].words = arena_printf(arena, "%d %s are %s; %s", count,
                                         first->schema != NULL ? "tables" : "facts",
                                         freshness_state_name(state), first->words);
    return 1;
}

/* Of what the mirror's function knows, and of what only the replicator does. */
static void gather_troubles(struct status *status, struct arena *arena)
{
    struct control_trouble *all = arena_new(arena, struct control_trouble,
                                            status->ntroubles + 2 + 8 * MAX_ALIKE);
    int count = 0;

    if (status->blocker != NULL)
        all[count++] = (struct control_trouble){.event = "snapshot_waiting",
                                                .subject = status->config->pipeline,
                                                .words = status->blocker,
                                                .next = status->blocker_next};
    count += find_wrong_clock(status, arena, &all[count]);
    for (int i = 0; i < status->ntroubles; i++) {
        _cleanup_buf_ struct buf next = {0};

        all[count] = status->troubles[i];
        human_commands(all[count].next, status->config->file, &next);
        all[count++].next = arena_strdup(arena, buf_text(&next));
    }
    for (int state = FRESHNESS_STALE; state <= FRESHNESS_HIGH; state++) {
        count += find_unusual(status, status->freshness, status->nfreshness,
                              (enum freshness_state) state, arena, &all[count]);
        count += find_unusual(status, status->fact_freshness, status->nfact_freshness,
                              (enum freshness_state) state, arena, &all[count]);
    }
    status->troubles = all;
    status->ntroubles = count;
}

/* ---- all of it ---- */

static void look_at(struct status_server *server, enum pg_side side, const char *conninfo,
                    struct pg **connection, struct arena *arena, struct status *status,
                    bool (*ask)(struct pg *pg, struct arena *arena, struct status *status,
                                struct error *err))
{
    server->where = describe(conninfo, arena);
    server->is_up = connect_to(side, conninfo, status->config->pipeline, connection,
                               &server->error);
    if (!server->is_up)
        return;
    server->version = pg_server_version(*connection);
    server->is_up = ask(*connection, arena, status, &server->error);
}

void status_look(const struct config *config, struct status_connections *connections,
                 struct arena *arena, struct status *ret_status)
{
    *ret_status = (struct status){
        .config = config, .taken_at_us = clock_now_us(), .lag_bytes = -1, .lag_us = -1};
    look_at(&ret_status->mirror, PG_MIRROR, config->mirror.conninfo, &connections->mirror, arena,
            ret_status, ask_mirror);
    look_at(&ret_status->source, PG_SOURCE, config->source.conninfo, &connections->source, arena,
            ret_status, ask_source);
    measure_lag(ret_status);
    gather_troubles(ret_status, arena);
    status_judge(ret_status, arena);
}

void status_collect(const struct config *config, struct status_connections *connections,
                    struct arena *arena, struct status *ret_status)
{
    struct control_size *sizes;
    struct error unmeasured; /* sizes that are not known say so by themselves */
    int nsizes;

    status_look(config, connections, arena, ret_status);
    if (ret_status->is_known && control_measure_tables(connections->mirror, config->pipeline, arena,
                                                       &nsizes, &sizes, &unmeasured))
        control_give_sizes(sizes, nsizes, ret_status->tables, ret_status->ntables);
}

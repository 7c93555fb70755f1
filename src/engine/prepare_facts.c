/* An index that a hop needs is made whatever mirror.indexes copies, unless it says none: then
 * somebody else takes care of indexes, and is told which. */
#include "engine/prepare_facts.h"

#include "base/log.h"
#include "ledger/store.h"
#include "mirror/ddl.h"

bool prepare_facts_examine(struct pg *mirror, const struct config *config,
                           const struct table_list *tables, struct arena *arena,
                           struct fact_list *ret_facts, struct error *err)
{
    struct finding_list findings = {.arena = arena};

    fact_resolve(config, tables, arena, &findings, ret_facts);
    if (!fact_examine(mirror, config, false, arena, &findings, ret_facts, err))
        return false;
    return finding_none_wrong(&findings, err);
}

static bool step_index(struct pg *mirror, void *context, struct error *err)
{
    const struct buf *sql = context;

    return pg_exec(mirror, buf_text(sql), err);
}

static bool add_index(struct pg *mirror, const struct config *config, const struct fact *fact,
                      int node, struct error *err)
{
    _cleanup_buf_ struct buf sql = {0};
    bool has;

    if (!fact_has_index(mirror, fact, node, &has, err))
        return false;
    if (has)
        return true;
    fact_add_index(fact, node, &sql);
    if (config->mirror.indexes.kind == INDEXES_NONE) {
        log_event(LOG_WARNING, "index_missing",
                  "fact %s: each change of %s reads all of its parent table, for want of an index: "
                  "%s",
                  fact->name, fact->nodes[node].name, buf_text(&sql));
        return true;
    }
    log_event(LOG_INFO, "index_made", "fact %s: %s", fact->name, buf_text(&sql));
    return ddl_attempt(mirror, step_index, &sql, err) ||
           error_wrap(err, "making an index for fact %s", fact->name);
}

static void log_notes(const struct notes *notes)
{
    for (int i = 0; i < notes->count; i++)
        log_event(LOG_INFO, "fact", "%s", notes->texts[i]);
}

bool prepare_facts_store(struct pg *mirror, const struct config *config, struct arena *arena,
                         struct fact_list *facts, struct error *err)
{
    struct notes notes = {.arena = arena};

    for (int i = 0; i < facts->count; i++)
        for (int node = 1; node < facts->facts[i].nnodes; node++)
            if (!add_index(mirror, config, &facts->facts[i], node, err))
                return false;
    if (!store_facts(mirror, config->pipeline, config->file, facts, &notes, err))
        return false;
    log_notes(&notes);
    return true;
}

bool prepare_facts_again(struct pg *mirror, const struct config *config, struct fact_list *facts,
                         struct error *err)
{
    _cleanup_(arena_release) struct arena arena = {0};
    struct notes notes = {.arena = &arena};

    if (!store_again(mirror, config->pipeline, config->file, facts, &notes, err))
        return false;
    log_notes(&notes);
    return true;
}

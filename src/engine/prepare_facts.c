/* An index that a hop needs is made whatever mirror.indexes copies, unless it says none: then
 * somebody else takes care of indexes, and is told which. */
#include "engine/prepare_facts.h"

#include "base/log.h"
#include "ledger/store.h"
#include "mirror/ddl.h"
#include "refresh/refresh.h"

#include <string.h>

/* The facts of level 0. */
static bool examine(struct pg *mirror, const struct config *config, const struct table_list *tables,
                    const struct chain *chain, struct arena *arena, struct fact_list *ret_facts,
                    bool *ret_fine, struct error *ret_wrong, struct error *err)
{
    struct finding_list findings = {.arena = arena};

    fact_resolve(config, tables, chain, 0, arena, &findings, ret_facts);
    if (!fact_examine(mirror, config, false, arena, &findings, ret_facts, err))
        return false;
    *ret_fine = finding_none_wrong(&findings, ret_wrong);
    return true;
}

static bool has_fact(const struct fact_list *facts, const char *name)
{
    for (int i = 0; i < facts->count; i++)
        if (strcmp(facts->facts[i].name, name) == 0)
            return true;
    return false;
}

/* Declared, and not in the list: what is wrong with it is asked of it alone. */
static bool break_fact(struct pg *mirror, const struct config *config, int i,
                       const struct table_list *tables, struct arena *arena, bool *ret_known,
                       struct error *wrong, struct error *err)
{
    struct config alone = *config;
    int level = 0;
    const struct chain one = {.levels = &level};
    struct fact_list none;
    bool is_fine;

    alone.facts = &config->facts[i];
    alone.nfacts = 1;
    if (!examine(mirror, &alone, tables, &one, arena, &none, &is_fine, wrong, err))
        return false;
    if (!store_break(mirror, config->pipeline, config->facts[i].name, wrong->message, ret_known,
                     err))
        return false;
    if (!*ret_known)
        return true;
    log_event(LOG_ERROR, "fact_suspended",
              "fact %s does not fit its tables any more: %s; it gets no keys until its declaration "
              "is changed, or the tables are; then it begins with everything",
              config->facts[i].name, wrong->message);
    return true;
}

bool prepare_facts_examine(struct pg *mirror, const struct config *config,
                           const struct table_list *tables, bool is_following, struct arena *arena,
                           struct chain *ret_chain, struct fact_list *ret_facts, struct error *err)
{
    struct finding_list circles = {.arena = arena};
    struct error wrong = {0};
    bool is_fine, is_known = true;

    chain_find_levels(config, arena, &circles, ret_chain);
    if (!finding_none_wrong(&circles, err) ||
        !examine(mirror, config, tables, ret_chain, arena, ret_facts, &is_fine, &wrong, err))
        return false;
    for (int i = 0; !is_fine && is_following && is_known && i < config->nfacts; i++)
        if (ret_chain->levels[i] == 0 && !has_fact(ret_facts, config->facts[i].name) &&
            !break_fact(mirror, config, i, tables, arena, &is_known, &wrong, err))
            return false;
    if (is_fine || (is_following && is_known))
        return true;
    *err = wrong;
    return false;
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
    if (!store_facts(mirror, config, facts, &notes, err))
        return false;
    log_notes(&notes);
    return true;
}

/* ---- facts over derived tables ---- */

/* A derived table that nobody has refreshed yet. */
static bool make_table(struct refresh *refresh, const struct config_fact *fact, struct arena *arena,
                       struct error *err)
{
    struct notes notes = {.arena = arena};
    struct target *target;

    if (!refresh_open(refresh, fact, &notes, &target, err))
        return false;
    for (int i = 0; i < notes.count; i++)
        log_event(LOG_INFO, "refresh", "%s", notes.texts[i]);
    return true;
}

/* Those of a level that others read. */
static bool make_tables(const struct config *config, const struct chain *chain, int level,
                        struct arena *arena, struct error *err)
{
    const struct refresh_options options = {
        .config = config, .application = "tailwater prepare", .wake_fd = -1};
    struct refresh *refresh;
    bool is_ok = true;

    if (!refresh_new(&options, &refresh, err))
        return false;
    for (int i = 0; is_ok && i < config->nfacts; i++)
        if (chain->levels[i] == level && chain_is_read(config, &config->facts[i]))
            is_ok = make_table(refresh, &config->facts[i], arena, err);
    refresh_free(refresh);
    return is_ok;
}

bool prepare_facts_chain(struct pg *mirror, const struct config *config,
                         const struct table_list *tables, struct arena *arena, struct chain *chain,
                         struct fact_list *facts, struct error *err)
{
    for (int level = 1; level <= chain->top; level++) {
        struct finding_list findings = {.arena = arena};
        struct fact_list more;

        if (!make_tables(config, chain, level - 1, arena, err) ||
            !chain_read_tables(mirror, config, level - 1, arena, chain, err))
            return false;
        fact_resolve(config, tables, chain, level, arena, &findings, &more);
        if (!fact_examine(mirror, config, false, arena, &findings, &more, err) ||
            !finding_none_wrong(&findings, err) ||
            !prepare_facts_store(mirror, config, arena, &more, err))
            return false;
        for (int i = 0; i < more.count; i++)
            facts->facts[facts->count++] = more.facts[i];
    }
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

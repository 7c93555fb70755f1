/*
 * Facts: what is declared, tried on the mirror.  Before the first run its tables and types are not
 * there; then only what can be known without them is judged, and run judges the rest before it
 * copies anything.
 */
#include "base/memory.h"
#include "engine/check_internal.h"
#include "ledger/fact.h"
#include "refresh/refresh_check.h"

#include <stdlib.h>
#include <string.h>

static int by_number(const void *a, const void *b)
{
    return *(const int *) a - *(const int *) b;
}

/* Do the columns that a hop looks up begin the primary key? */
static bool is_key_prefix(const struct table *table, const struct fact_node *node)
{
    int *wanted, *key;
    bool is_same = node->nlinks <= table->nkeys;

    if (!is_same)
        return false;
    wanted = memory_alloc(sizeof(int) * (size_t) (node->nlinks + 1));
    key = memory_alloc(sizeof(int) * (size_t) (node->nlinks + 1));
    for (int i = 0; i < node->nlinks; i++) {
        wanted[i] = node->links[i].parent_column;
        key[i] = table->keys[i];
    }
    qsort(wanted, (size_t) node->nlinks, sizeof(int), by_number);
    qsort(key, (size_t) node->nlinks, sizeof(int), by_number);
    for (int i = 0; i < node->nlinks; i++)
        is_same = is_same && wanted[i] == key[i];
    free(wanted);
    free(key);
    return is_same;
}

/* Does it read a derived table that is not there yet? */
static bool is_missing(const struct chain *chain, const struct config *config,
                       const struct config_fact *fact)
{
    for (int i = -1; i < fact->ndimensions; i++) {
        const struct config_table_name *name = i < 0 ? &fact->table : &fact->dimensions[i].table;

        if (chain_source(config, name) != NULL && chain_find(chain, name) == NULL)
            return true;
    }
    return false;
}

/* With indexes: none nobody makes what a hop looks up by. */
static bool check_index(struct check *check, const struct fact *fact, int node, struct error *err)
{
    const struct fact_node *child = &fact->nodes[node];
    const struct table *parent = fact->nodes[child->parent].table;
    _cleanup_buf_ struct buf sql = {0};
    struct finding *finding;
    bool has = is_key_prefix(parent, child);

    if (!has && !fact_has_index(check->mirror, fact, node, &has, err))
        return false;
    if (has)
        return true;
    fact_add_index(fact, node, &sql);
    finding = finding_add(&check->findings, "fact_index", FINDING_WARNING,
                          "fact %s looks rows of %s up without an index", fact->name,
                          parent->label);
    finding_why(&check->findings, finding,
                "mirror.indexes is none; each change of %s would read the whole table",
                child->name);
    finding_remedy(&check->findings, finding, "on the mirror: %s", buf_text(&sql));
    return true;
}

/* The queries read live views, which the first run makes. */
static bool check_refreshes(struct check *check, const struct fact_list *facts, struct error *err)
{
    const struct config *config = check->config;

    for (int i = 0; i < config->nfacts; i++) {
        const struct fact *fact = NULL;

        for (int j = 0; j < facts->count; j++)
            if (strcmp(facts->facts[j].name, config->facts[i].name) == 0)
                fact = &facts->facts[j];
        if (!config->facts[i].refresh.is_declared || fact == NULL || check->mirror == NULL)
            continue;
        if (!check->has_pipeline || check->pipeline.state != CONTROL_STREAMING)
            check_ok(check, "fact_query",
                     "fact %s: its query can be tried once the first run has made the live views",
                     config->facts[i].name);
        else if (!refresh_check(check->mirror, config, &config->facts[i], fact, check->arena,
                                &check->findings, err))
            return false;
    }
    return true;
}

/* Facts over derived tables can be looked at once these are there. */
static bool resolve_facts(struct check *check, struct fact_list *ret_facts, struct error *err)
{
    const struct config *config = check->config;
    struct chain chain;

    chain_find_levels(config, check->arena, &check->findings, &chain);
    fact_resolve(config, &check->catalog.tables, &chain, 0, check->arena, &check->findings,
                 ret_facts);
    if (check->has_pipeline && check->pipeline.state == CONTROL_STREAMING &&
        !chain_read_tables(check->mirror, config, chain.top, check->arena, &chain, err))
        return false;
    for (int i = 0; i < config->nfacts; i++)
        if (chain.levels[i] > 0 && is_missing(&chain, config, &config->facts[i])) {
            check_ok(check, "fact",
                     "fact %s can be looked at once the first run has made the derived tables that "
                     "it reads",
                     config->facts[i].name);
            chain.levels[i] = -1;
        }
    for (int level = 1; level <= chain.top; level++) {
        struct fact_list more;

        fact_resolve(config, &check->catalog.tables, &chain, level, check->arena, &check->findings,
                     &more);
        for (int i = 0; i < more.count; i++)
            ret_facts->facts[ret_facts->count++] = more.facts[i];
    }
    return true;
}

bool check_facts(struct check *check, struct error *err)
{
    const int errors = finding_count(&check->findings, FINDING_ERROR);
    struct fact_list facts;

    if (check->config->nfacts == 0 || !check->has_catalog)
        return true;
    if (!resolve_facts(check, &facts, err))
        return false;
    if (check->mirror != NULL && !fact_examine(check->mirror, check->config, true, check->arena,
                                               &check->findings, &facts, err))
        return false;
    for (int i = 0; check->mirror != NULL && i < facts.count; i++)
        for (int node = 1;
             check->config->mirror.indexes.kind == INDEXES_NONE && node < facts.facts[i].nnodes;
             node++)
            if (!check_index(check, &facts.facts[i], node, err))
                return false;
    if (!check_refreshes(check, &facts, err))
        return false;
    if (finding_count(&check->findings, FINDING_ERROR) == errors)
        check_ok(check, "fact", "%d fact%s declared", check->config->nfacts,
                 check->config->nfacts == 1 ? "" : "s");
    return true;
}

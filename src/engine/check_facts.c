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

bool check_facts(struct check *check, struct error *err)
{
    const int errors = finding_count(&check->findings, FINDING_ERROR);
    struct fact_list facts;

    if (check->config->nfacts == 0 || !check->has_catalog)
        return true;
    fact_resolve(check->config, &check->catalog.tables, check->arena, &check->findings, &facts);
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

/*
 * Feeds: their queries, tried on the mirror where the facts are there already.  A feed that cannot
 * work is a warning: it does not keep tables from being mirrored.
 */
#include "engine/check_internal.h"
#include "feed/feed.h"

static bool has_fact(struct check *check, const char *fact, bool *ret_has, struct error *err)
{
    const char *params[] = {check->config->pipeline, fact};
    _cleanup_result_ struct pg_result *rows = NULL;

    if (!pg_query(check->mirror,
                  "select from tailwater.fact where pipeline = $1 and name = $2 and exists "
                  "(select from pg_proc where proname = 'feed_key' "
                  "and pronamespace = 'tailwater'::regnamespace)",
                  2, params, &rows, err))
        return false;
    *ret_has = pg_rows(rows) > 0;
    return true;
}

static void check_feed(struct check *check, struct pg *mirror, const struct config_feed *feed)
{
    const char *fields = NULL, *scanned = NULL;
    struct finding *finding;
    struct error err;

    if (!feed_try(mirror, check->config, feed, check->arena, &fields, &scanned, &err)) {
        finding = finding_add(&check->findings, "feed", FINDING_WARNING, "feed %s cannot work",
                              feed->name);
        finding_why(&check->findings, finding, "%s", err.message);
        finding_remedy(&check->findings, finding,
                       "mend its query; then: tailwater feed %s --dry-run KEY", feed->name);
        return;
    }
    check_ok(check, "feed", "feed %s sends the fields %s", feed->name, fields);
    if (scanned == NULL)
        return;
    finding = finding_add(&check->findings, "feed", FINDING_WARNING,
                          "feed %s reads all of %s for a few keys", feed->name, scanned);
    finding_why(&check->findings, finding, "that is the server's plan for its query");
    finding_remedy(
        &check->findings, finding,
        "join {keys} in the query, and see that the columns it is joined by have an index");
}

bool check_feeds(struct check *check, struct error *err)
{
    const struct config *config = check->config;
    _cleanup_pg_ struct pg *mirror = NULL;

    for (int i = 0; i < config->nfeeds; i++) {
        bool has = false;

        if (check->mirror != NULL && check->has_pipeline &&
            !has_fact(check, config->feeds[i].fact, &has, err))
            return false;
        if (!has) {
            check_ok(check, "feed",
                     "feed %s is declared; its query is tried once run has made its fact",
                     config->feeds[i].name);
            continue;
        }
        if (mirror == NULL && !feed_connect(config, "tailwater check", -1, &mirror, err))
            return false;
        check_feed(check, mirror, &config->feeds[i]);
    }
    return true;
}

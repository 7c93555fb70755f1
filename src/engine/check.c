/*
 * The order of the check, and what its parts share.
 *
 * Both servers are tried first, so that an unreachable one does not hide what is wrong with the
 * other.  Then the source: settings, role, tables, slot; then the mirror, which is judged by what
 * the tables need.
 *
 * Deliberately not here: repairing anything.  Every remedy is text.
 */
#include "engine/check_internal.h"

#include "mirror/known.h"

#include <stdarg.h>
#include <stdio.h>

void check_ok(struct check *check, const char *name, const char *format, ...)
{
    _cleanup_buf_ struct buf text = {0};
    va_list args;

    va_start(args, format);
    buf_vprintf(&text, format, args);
    va_end(args);
    finding_add(&check->findings, name, FINDING_OK, "%s", buf_text(&text));
}

struct finding *check_failed(struct check *check, const char *name, const struct error *err)
{
    struct finding *finding = finding_add(&check->findings, name, FINDING_ERROR, "%s",
                                          err->message);

    finding_remedy(&check->findings, finding, "%s", err->hint);
    return finding;
}

void check_add_element(struct buf *array, const char *text)
{
    buf_add(array, array->len == 0 ? "{\"" : ",\"");
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            buf_add_char(array, '\\');
        buf_add_char(array, *text);
    }
    buf_add_char(array, '"');
}

const char *check_end_array(struct buf *array)
{
    buf_add(array, array->len == 0 ? "{}" : "}");
    return buf_text(array);
}

void check_add_listed(struct buf *text, int count, const char *item)
{
    if (count < CHECK_LISTED)
        buf_printf(text, "%s%s", count > 0 ? ", " : "", item);
}

void check_end_listed(struct buf *text, int count)
{
    if (count > CHECK_LISTED)
        buf_printf(text, " and %d more", count - CHECK_LISTED);
}

const char *check_ident(struct check *check, const char *name)
{
    _cleanup_buf_ struct buf text = {0};

    pg_add_ident(&text, name);
    return arena_strdup(check->arena, buf_text(&text));
}

/* ---- connecting ---- */

static void connect_one(struct check *check, enum pg_side side, const char *name,
                        const char *version_name, const char *conninfo, struct pg **ret_pg)
{
    const struct pg_options options = {
        .side = side, .conninfo = conninfo, .application = "tailwater check"};
    struct error err = {0};

    if (!pg_connect(&options, ret_pg, &err)) {
        check_failed(check, name, &err);
    } else if (!pg_check_version(*ret_pg, &err)) {
        check_failed(check, version_name, &err);
        check->is_too_old = true;
    }
}

/* ---- the whole ---- */

static bool load_pipeline(struct check *check, struct error *err)
{
    struct config *config = arena_new(check->arena, struct config, 1);

    if (!check->has_control)
        return true;
    if (!known_read(check->mirror, check->config, check->arena, config, err))
        return false;
    check->config = config;
    return control_load(check->mirror, check->config->pipeline, check->arena, &check->has_pipeline,
                        &check->pipeline, err);
}

static void take_catalog_findings(struct check *check)
{
    const struct finding_list *from = &check->catalog.findings;

    for (int i = 0; i < from->count; i++) {
        const struct finding *finding = &from->items[i];
        struct finding *added = finding_add(&check->findings, finding->name, finding->level, "%s",
                                            finding->what);

        added->why = finding->why;
        added->remedy = finding->remedy;
    }
    if (check->catalog.tables.count > 0)
        check_ok(check, "tables", "%d table%s to mirror", check->catalog.tables.count,
                 check->catalog.tables.count == 1 ? "" : "s");
}

static bool check_source_side(struct check *check, struct error *err)
{
    if (check->source == NULL)
        return true;
    if (!check_source(check, err) || !check_replication(check, err) ||
        !catalog_survey(check->source, check->config, check->arena, &check->catalog, err))
        return false;
    check->has_catalog = true;
    take_catalog_findings(check);
    if (!check_privileges(check, err) || !check_slot(check, err) || !check_plugin(check, err) ||
        !check_publication(check, err))
        return false;
    check_views(check);
    return true;
}

static bool check_mirror_side(struct check *check, struct error *err)
{
    if (check->mirror == NULL)
        return true;
    if (!check_readers(check, err) || !check_quarantine(check, err))
        return false;
    return !check->has_catalog ||
           (check_schemas(check, err) && check_names(check, err) && check_needs(check, err));
}

static bool check_both(struct check *check, struct error *err)
{
    connect_one(check, PG_SOURCE, "source_connect", "source_version",
                check->config->source.conninfo, &check->source);
    connect_one(check, PG_MIRROR, "mirror_connect", "mirror_version",
                check->config->mirror.conninfo, &check->mirror);
    if (check->is_too_old)
        return true;
    if (check->mirror != NULL && (!check_mirror(check, err) || !load_pipeline(check, err)))
        return false;
    return check_source_side(check, err) && check_mirror_side(check, err) &&
           check_facts(check, err) && check_feeds(check, err);
}

static enum error_kind verdict(const struct check *check)
{
    if (check->source == NULL)
        return ERROR_SOURCE;
    if (check->mirror == NULL)
        return ERROR_MIRROR;
    if (finding_count(&check->findings, FINDING_ERROR) == 0)
        return ERROR_NONE;
    return check->is_slot_wrong ? ERROR_SLOT : ERROR_FINDINGS;
}

bool check_run(const struct config *config, struct arena *arena, struct check_report *ret_report,
               struct error *err)
{
    struct check check = {.config = config, .arena = arena, .findings = {.arena = arena}};
    bool done = check_both(&check, err);

    if (done)
        *ret_report = (struct check_report){
            .findings = check.findings,
            .nerrors = finding_count(&check.findings, FINDING_ERROR),
            .nwarnings = finding_count(&check.findings, FINDING_WARNING),
            .kind = verdict(&check)};
    pg_free(check.source);
    pg_free(check.replication);
    pg_free(check.mirror);
    return done || error_wrap(err, "check");
}

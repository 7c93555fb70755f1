/*
 * The table of keys, and the walk that fills struct config by it: the file's tree is followed from
 * the top, each name is looked up in the table, and its reader (value.c) writes the field.  What
 * the table does not have is refused, with the nearest name that it has.  Defaults stand in the
 * table as they would in the file and go through the same readers.
 *
 * Errors come in the order of the file; then what is missing; then what does not fit together.
 * Whether tables, roles and connection strings are real is not known here: check finds that out.
 */
#include "config/config.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "config/pattern.h"
#include "config/tree.h"
#include "config/units.h"
#include "config/value.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array)   ((int) (sizeof(array) / sizeof((array)[0])))
#define MAX_FILE_BYTES ((size_t) 1024 * 1024)
#define TABLES         "tables[]." /* begins the path of what an entry of tables may hold */
#define FACTS          "facts{}."  /* of what a fact may hold … */
#define DIMENSIONS     "facts{}.dimensions[]." /* … each of its dimensions … */
#define REFRESH        "facts{}.refresh."      /* … and its derived table */
#define FEEDS          "feeds{}."              /* of what a feed may hold … */
#define DESTINATION    "feeds{}.destination."  /* … and where it sends to */

#define CHANGES           "schema_changes."
#define AT(member)        offsetof(struct config, member)
#define ENTRY(member)     offsetof(struct config_table, member)
#define FACT(member)      offsetof(struct config_fact, member)
#define DIMENSION(member) offsetof(struct config_dimension, member)
#define FEED(member)      offsetof(struct config_feed, member)
#define TO(member)        offsetof(struct config_feed, destination.member)

#define kB  (INT64_C(1) << 10)
#define MiB (INT64_C(1) << 20)
#define GiB (INT64_C(1) << 30)
#define TiB (INT64_C(1) << 40)

#define SECOND    INT64_C(1000000)
#define DAY       (86400 * SECOND)
#define MAX_DELAY (36500 * DAY)

static const char *const plugins[] = {"wal2json", "pgoutput", NULL};
static const char *const nan_checks[] = {"auto", "off", NULL};
static const char *const formats[] = {"text", "json", NULL};
static const char *const levels[] = {"debug", "info", "warning", "error", NULL};
static const char *const deletes[] = {"soft", "ignore", NULL};
static const char *const truncates[] = {"apply", "ignore", "stop", NULL};
static const char *const on_losts[] = {"stop", "resync", NULL};
static const char *const schema_changes[] = {"apply", "stop", "keep", NULL};
static const char *const schema_follow[] = {"apply", "stop", NULL}; /* where nothing can be kept */
static const char *const watches[] = {"usual", "off", NULL};
static const char *const on_errors[] = {"quarantine", "stop", NULL};

static const char *const fan_outs[] = {"auto", "defer", NULL};

static const char *const starts[] = {"all", "now", NULL};
static const char *const bodies[] = {"array", "one", "lines", NULL};
static const char *const methods[] = {"POST", "PUT", "PATCH", NULL};
static const char *const runners[] = {"auto", "manual", NULL};

static VALUE_READER(tables);
static VALUE_READER(facts);
static VALUE_READER(dimensions);
static VALUE_READER(feeds);
static VALUE_READER(verify);
static VALUE_READER(schema_changes);

/* decode_memory: the limits are those of logical_decoding_work_mem. */
static const struct value_key keys[] = {
    {"pipeline", value_read_pipeline, AT(pipeline), .max = 50, .fallback = "main"},

    {"source.conninfo", value_read_conninfo, AT(source.conninfo),
     .place = AT(source.conninfo_place),
     .example = "source: {conninfo: \"host=prod dbname=shop user=tailwater\"}"},
    {"source.plugin", value_read_choice, AT(source.plugin), .words = plugins,
     .fallback = "wal2json"},
    {"source.slot", value_read_slot, AT(source.slot), .max = 63},
    {"source.publication", value_read_name, AT(source.publication)},
    {"source.heartbeat", value_read_heartbeat, .min = SECOND / 10, .max = DAY, .fallback = "auto"},
    {"source.wal_guard.warn", value_read_size, AT(source.wal_guard.warn_bytes), .min = MiB,
     .max = 1024 * TiB, .fallback = "4GB"},
    {"source.wal_guard.critical", value_read_size, AT(source.wal_guard.critical_bytes), .min = MiB,
     .max = 1024 * TiB, .fallback = "16GB"},
    {"source.max_read_rate", value_read_rate, AT(source.max_read_rate_bytes), .max = TiB,
     .fallback = "0"},
    {"source.nan_check", value_read_word, AT(source.nan_check), .words = nan_checks,
     .fallback = "auto"},
    {"source.on_lost", value_read_word, AT(source.on_lost), .words = on_losts, .fallback = "stop"},
    {"source.failover", value_read_bool, AT(source.failover), .fallback = "false"},
    {"source.start_timeout", value_read_duration, AT(source.start_timeout_us), .max = DAY,
     .fallback = "90s"},
    {"source.decode_memory", value_read_size, AT(source.decode_memory_bytes), .min = 64 * kB,
     .max = INT32_MAX * kB, .fallback = "256MB"},

    {"mirror.conninfo", value_read_conninfo, AT(mirror.conninfo),
     .place = AT(mirror.conninfo_place),
     .example = "mirror: {conninfo: \"host=dwh dbname=reports user=tailwater\"}"},
    {"mirror.table_schema", value_read_schema, AT(mirror.table_schema),
     .fallback = "mirror_{schema}"},
    {"mirror.view_schema", value_read_schema, AT(mirror.view_schema), .fallback = "{schema}"},
    {"mirror.indexes", value_read_index_choice, AT(mirror.indexes), .fallback = "copy"},
    {"mirror.readers", value_read_names, AT(mirror.readers), AT(mirror.nreaders)},
    {"mirror.fillfactor", value_read_int, AT(mirror.fillfactor), .min = 10, .max = 100},

    {"tables", value_read_tables, .example = "tables: [public.*]"},
    {TABLES "name", value_read_pattern, .example = "{name: public.orders, deletes: ignore}"},
    {TABLES "exclude", value_read_names, ENTRY(exclude), ENTRY(nexclude)},
    {TABLES "mask", value_read_masks, ENTRY(mask), ENTRY(nmask)},
    {TABLES "deletes", value_read_word, ENTRY(deletes), .has = ENTRY(has_deletes),
     .words = deletes},
    {TABLES "truncate", value_read_word, ENTRY(truncate), .has = ENTRY(has_truncate),
     .words = truncates},
    {TABLES "purge_after", value_read_retention, ENTRY(purge_after_us),
     .has = ENTRY(has_purge_after), .max = MAX_DELAY},
    {TABLES "freshness.watch", value_read_word, ENTRY(watch), .has = ENTRY(has_watch),
     .words = watches},
    {TABLES "freshness.max_age", value_read_retention, ENTRY(max_age_us), .has = ENTRY(has_max_age),
     .min = SECOND, .max = MAX_DELAY},
    {TABLES "key", value_read_names, ENTRY(key), ENTRY(nkey)},
    {TABLES "indexes", value_read_index_choice, ENTRY(indexes)},

    {"purge.after", value_read_retention, AT(purge.after_us), .max = MAX_DELAY, .fallback = "0"},

    {"facts", value_read_facts},
    {FACTS "table", value_read_table_name, FACT(table), .example = "table: public.orders"},
    {FACTS "key", value_read_fact_key, FACT(keys), FACT(nkeys), .example = "key: [id]"},
    {FACTS "watch", value_read_names, FACT(watch), FACT(nwatch), .place = FACT(watch_place)},
    {FACTS "dimensions", value_read_dimensions},
    {DIMENSIONS "table", value_read_table_name, DIMENSION(table),
     .example = "table: public.customers"},
    {DIMENSIONS "as", value_read_name, DIMENSION(as)},
    {DIMENSIONS "join", value_read_joins, DIMENSION(joins), DIMENSION(njoins),
     .example = "join: customers.id = orders.customer_id"},
    {DIMENSIONS "watch", value_read_names, DIMENSION(watch), DIMENSION(nwatch),
     .place = DIMENSION(watch_place)},
    {DIMENSIONS "fan_out", value_read_word, DIMENSION(fan_out), .words = fan_outs},
    {DIMENSIONS "fan_out_limit", value_read_long, DIMENSION(fan_out_limit), .min = 1,
     .max = 10000000},
    {FACTS "lookback", value_read_duration, FACT(lookback_us), .min = SECOND, .max = MAX_DELAY},
    {REFRESH "into", value_read_table_name, FACT(refresh.into), .has = FACT(refresh.is_declared),
     .place = FACT(refresh.place)},
    {REFRESH "query", value_read_query, FACT(refresh.query), .place = FACT(refresh.query_place)},
    {REFRESH "key", value_read_key_columns, FACT(refresh.keys), FACT(refresh.nkeys)},
    {REFRESH "unique", value_read_names, FACT(refresh.unique), FACT(refresh.nunique)},
    {REFRESH "every", value_read_duration, FACT(refresh.every_us), .max = MAX_DELAY},
    {REFRESH "max_keys", value_read_long, FACT(refresh.max_keys), .min = 1, .max = 10000000},

    {"feeds", value_read_feeds},
    {FEEDS "fact", value_read_pipeline, FEED(fact), .place = FEED(fact_place),
     .max = VALUE_MAX_FACT, .example = "fact: customer"},
    {FEEDS "query", value_read_query, FEED(query), .place = FEED(query_place),
     .example = "query: \"select id, name from public.customers\""},
    {FEEDS "key", value_read_key_columns, FEED(keys), FEED(nkeys)},
    {FEEDS "start", value_read_word, FEED(start), .words = starts},
    {FEEDS "vanished", value_read_vanished},
    {FEEDS "batch", value_read_int, FEED(batch_size), .min = 1, .max = 10000},
    {FEEDS "max_rate", value_read_frequency, FEED(interval_us)},
    {FEEDS "linger", value_read_duration, FEED(linger_us), .max = DAY},
    {FEEDS "max_staleness", value_read_duration, FEED(max_staleness_us), .min = SECOND,
     .max = MAX_DELAY},
    {FEEDS "retry.attempts", value_read_int, FEED(retry.attempts), .min = 1, .max = 1000},
    {FEEDS "retry.first", value_read_duration, FEED(retry.first_us), .min = SECOND / 1000,
     .max = DAY},
    {FEEDS "retry.longest", value_read_duration, FEED(retry.longest_us), .min = SECOND / 1000,
     .max = 7 * DAY},
    {FEEDS "max_dead", value_read_long, FEED(max_dead), .max = 100000000},
    {FEEDS "run", value_read_word, FEED(run), .words = runners},
    {DESTINATION "url", value_read_url, TO(url)},
    {DESTINATION "command", value_read_command, TO(command)},
    {DESTINATION "table", value_read_table_name, TO(table)},
    {DESTINATION "stdout", value_read_bool, TO(is_stdout)},
    {DESTINATION "timeout", value_read_duration, TO(timeout_us), .min = SECOND / 100, .max = DAY},
    {DESTINATION "connect_timeout", value_read_duration, TO(connect_timeout_us),
     .min = SECOND / 100, .max = SECOND * 600},
    {DESTINATION "method", value_read_choice, TO(method), .words = methods},
    {DESTINATION "headers", value_read_headers, TO(headers)},
    {DESTINATION "body", value_read_word, TO(body), .words = bodies},
    {DESTINATION "envelope", value_read_text, TO(envelope)},
    {DESTINATION "gzip", value_read_bool, TO(is_gzip)},
    {DESTINATION "verify", value_read_verify, TO(is_unverified)},
    {DESTINATION "ca_file", value_read_text, TO(ca_file)},
    {DESTINATION "bearer", value_read_line, TO(bearer)},
    {DESTINATION "bearer_file", value_read_text, TO(bearer_file)},
    {DESTINATION "basic", value_read_line, TO(basic)},
    {DESTINATION "hmac.secret", value_read_text, TO(hmac_secret)},
    {DESTINATION "hmac.header", value_read_token, TO(hmac_header)},

    {"ledger.fan_out_limit", value_read_long, AT(ledger.fan_out_limit), .min = 1, .max = 10000000,
     .fallback = "10000"},
    {"ledger.stale_after", value_read_duration, AT(ledger.stale_after_us), .min = SECOND,
     .max = MAX_DELAY, .fallback = "7d"},
    {"ledger.stale_keys", value_read_long, AT(ledger.stale_keys), .min = 1, .max = 1000000000000,
     .fallback = "100000000"},
    {"ledger.replay_window", value_read_duration, AT(ledger.replay_window_us), .max = MAX_DELAY,
     .fallback = "24h"},

    {"refresh.workers", value_read_int, AT(refresh.workers), .max = 32, .fallback = "2"},
    {"refresh.max_attempts", value_read_int, AT(refresh.max_attempts), .min = 1, .max = 1000,
     .fallback = "5"},

    {"apply.max_rows", value_read_long, AT(apply.max_rows), .min = 1, .max = 10000000,
     .fallback = "20000"},
    {"apply.max_bytes", value_read_size, AT(apply.max_bytes), .min = MiB, .max = GiB,
     .fallback = "32MB"},
    {"apply.on_error", value_read_word, AT(apply.on_error), .words = on_errors,
     .fallback = "quarantine"},

    {"schema_changes", value_read_schema_changes, AT(schema_default), .words = schema_changes,
     .fallback = "stop"},
    {CHANGES "default", value_read_word, AT(schema_default), .words = schema_changes},
    {CHANGES "add_column", value_read_word, AT(schema_changes[CHANGE_ADD_COLUMN]),
     .words = schema_changes},
    {CHANGES "drop_column", value_read_word, AT(schema_changes[CHANGE_DROP_COLUMN]),
     .words = schema_changes},
    {CHANGES "rename_column", value_read_word, AT(schema_changes[CHANGE_RENAME_COLUMN]),
     .words = schema_follow},
    {CHANGES "widen_type", value_read_word, AT(schema_changes[CHANGE_WIDEN_TYPE]),
     .words = schema_follow},
    {CHANGES "change_type", value_read_word, AT(schema_changes[CHANGE_TYPE]),
     .words = schema_follow},
    {CHANGES "change_key", value_read_word, AT(schema_changes[CHANGE_KEY]), .words = schema_follow},
    {CHANGES "recreate_table", value_read_word, AT(schema_changes[CHANGE_RECREATE_TABLE]),
     .words = schema_follow},
    {CHANGES "partitions", value_read_word, AT(schema_changes[CHANGE_PARTITIONS]),
     .words = schema_follow},
    {CHANGES "new_table", value_read_word, AT(schema_changes[CHANGE_NEW_TABLE]),
     .words = schema_changes},
    {CHANGES "drop_table", value_read_word, AT(schema_changes[CHANGE_DROP_TABLE]),
     .words = schema_follow},
    {"resync.max_delete_fraction", value_read_fraction, AT(resync.max_delete_fraction),
     .fallback = "0.5"},

    {"copy.workers", value_read_int, AT(copy.workers), .min = 1, .max = 32, .fallback = "2"},

    {"freshness.watch", value_read_word, AT(freshness.watch), .words = watches,
     .fallback = "usual"},
    {"freshness.max_age", value_read_retention, AT(freshness.max_age_us), .min = SECOND,
     .max = MAX_DELAY, .fallback = "never"},

    {"http.listen", value_read_listen},
    {"http.token", value_read_text, AT(http.token)},
    {"http.max_lag", value_read_duration, AT(http.max_lag_us), .min = SECOND, .max = MAX_DELAY,
     .fallback = "60s"},

    {"log.format", value_read_word, AT(log.format), .words = formats, .fallback = "text"},
    {"log.level", value_read_word, AT(log.level), .words = levels, .fallback = "info"},
    {"log.values", value_read_bool, AT(log.values), .fallback = "false"},
};

/* ---- errors ---- */

bool config_error_at(const struct config *config, struct config_place place, struct error *err,
                     const char *format, ...)
{
    char message[sizeof(err->message)];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    error_set(err, ERROR_CONFIG, "%s", message);
    if (place.line == 0)
        return error_wrap(err, "%s", config->file);
    return error_wrap(err, "%s:%d:%d", config->file, place.line, place.column);
}

/* ---- the table, by name ---- */

/* What follows prefix in a path, NULL where the path begins otherwise. */
static const char *path_after(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(path, prefix, len) == 0 ? path + len : NULL;
}

static bool is_name(const char *text)
{
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyz_")] == '\0';
}

/* The key prefix.name, NULL where there is none; *ret_is_section where paths go on behind it. */
static const struct value_key *find_key(const char *prefix, const char *name, bool *ret_is_section)
{
    size_t len = strlen(name);

    *ret_is_section = false;
    for (int i = 0; i < COUNT(keys) && is_name(name); i++) {
        const char *rest = path_after(keys[i].path, prefix);

        if (rest == NULL || strncmp(rest, name, len) != 0)
            continue;
        if (rest[len] == '\0')
            return &keys[i];
        *ret_is_section |= rest[len] == '.';
    }
    return NULL;
}

/* The names that may stand below prefix, each once. */
static int names_below(const char *prefix, struct arena *arena, const char *names[COUNT(keys)])
{
    int count = 0;

    for (int i = 0; i < COUNT(keys); i++) {
        const char *rest = path_after(keys[i].path, prefix);
        size_t len = rest ? strcspn(rest, ".[{") : 0;

        if (rest == NULL || (count > 0 && strlen(names[count - 1]) == len &&
                             strncmp(names[count - 1], rest, len) == 0))
            continue;
        names[count++] = arena_strndup(arena, rest, len);
    }
    return count;
}

/* A key of that name that stands elsewhere. */
static const char *path_of(const char *name)
{
    for (int i = 0; i < COUNT(keys); i++) {
        const char *dot = strrchr(keys[i].path, '.');

        if (dot != NULL && strcmp(dot + 1, name) == 0)
            return keys[i].path;
    }
    return NULL;
}

static bool unknown_key(struct value_reader *reader, const char *prefix, const struct tree *node,
                        struct error *err)
{
    _cleanup_buf_ struct buf list = {0};
    const char *names[COUNT(keys)], *near, *where = "at the top";
    int count = names_below(prefix, reader->arena, names);

    if (strcmp(prefix, TABLES) == 0)
        where = "in an entry of tables";
    else if (strcmp(prefix, FACTS) == 0)
        where = "in a fact";
    else if (strcmp(prefix, DIMENSIONS) == 0)
        where = "in a dimension";
    else if (strcmp(prefix, FEEDS) == 0)
        where = "in a feed";
    else if (strcmp(prefix, DESTINATION) == 0)
        where = "in a feed's destination";
    else if (strcmp(prefix, REFRESH) == 0)
        where = "in a fact's refresh";
    else if (prefix[0] != '\0')
        where = arena_printf(reader->arena, "in %.*s", (int) strlen(prefix) - 1, prefix);
    for (int i = 0; i < count; i++)
        buf_printf(&list, "%s%s", i ? ", " : "", names[i]);
    near = path_of(node->name);
    if (near == NULL)
        near = config_nearest(node->name, names, count);
    if (node->kind == TREE_SCALAR && node->text[0] == '\0')
        /* {conninfo: password=a,b}: what looks like a key is a piece of a value. */
        config_error_at(reader->config, node->name_place, err,
                        "an unknown key without a value %s; a text with a comma in it needs quotes",
                        where);
    else if (near != NULL)
        config_error_at(reader->config, node->name_place, err,
                        "unknown key %s %s; did you mean \"%s\"?",
                        value_quote(reader->arena, node->name), where, near);
    else
        config_error_at(reader->config, node->name_place, err, "unknown key %s %s",
                        value_quote(reader->arena, node->name), where);
    return error_hint(err, "the keys %s are %s", where, buf_text(&list));
}

/* ---- the walk ---- */

static bool check_duplicate(struct value_reader *reader, const struct tree *parent,
                            const struct tree *node, struct error *err)
{
    const struct tree *earlier = parent->first;

    while (earlier != node && strcmp(earlier->name, node->name) != 0)
        earlier = earlier->next;
    if (earlier == node)
        return true;
    return config_error_at(reader->config, node->name_place, err,
                           "the key \"%s\" is there twice; the first is at line %d", node->name,
                           earlier->name_place.line);
}

/* The mapping below prefix ("", "source.", "tables[]."), into base.  At most three levels deep. */
static bool read_mapping(struct value_reader *reader, const char *prefix, const struct tree *node,
                         void *base, struct error *err)
{
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        bool is_section;
        const struct value_key *key = find_key(prefix, child->name, &is_section);

        if (key == NULL && !is_section)
            return unknown_key(reader, prefix, child, err);
        if (!check_duplicate(reader, node, child, err))
            return false;
        if (key != NULL) {
            if (!key->read(reader, key, child, base, err))
                return false;
            if (key->has != 0)
                *(bool *) ((char *) base + key->has) = true;
            if (key->place != 0)
                *(struct config_place *) ((char *) base + key->place) = child->place;
            continue;
        }
        if (child->kind != TREE_MAPPING)
            return config_error_at(reader->config, child->name_place, err,
                                   "%s%s: keys are expected below it, not %s", prefix, child->name,
                                   child->kind == TREE_LIST ? "a list"
                                   : child->text[0] == '\0' ? "nothing"
                                                            : "a value");
        if (!read_mapping(reader, arena_printf(reader->arena, "%s%s.", prefix, child->name), child,
                          base, err))
            return false;
    }
    return true;
}

/* The node at path ("wal_guard.warn") below a mapping, or NULL; *ret_place is where it would go. */
static const struct tree *find_node(const struct tree *node, const char *path,
                                    struct config_place *ret_place)
{
    size_t len = strcspn(path, ".");

    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        if (strlen(child->name) != len || strncmp(child->name, path, len) != 0)
            continue;
        *ret_place = child->name_place;
        return path[len] == '\0' ? child : find_node(child, path + len + 1, ret_place);
    }
    return NULL;
}

/* Every required key below prefix is there. */
static bool check_required(struct value_reader *reader, const char *prefix, const struct tree *node,
                           struct error *err)
{
    for (int i = 0; i < COUNT(keys); i++) {
        struct config_place place = node->place;
        const char *path = path_after(keys[i].path, prefix);

        if (reader->is_mirror_alone && prefix[0] == '\0' &&
            strncmp(keys[i].path, "mirror.", 7) != 0)
            continue;
        if (keys[i].example == NULL || path == NULL || strpbrk(path, "[{") != NULL ||
            find_node(node, path, &place) != NULL)
            continue;
        config_error_at(reader->config, place, err, "%s is missing", keys[i].path);
        return error_hint(err, "write %s", keys[i].example);
    }
    return true;
}

/* ---- tables ---- */

/* Is any of the entry's masked columns also among these? */
static const char *masked_among(const struct config_table *entry, const char **columns, int count)
{
    for (int i = 0; i < entry->nmask; i++)
        for (int j = 0; j < count; j++)
            if (strcmp(entry->mask[i].column, columns[j]) == 0)
                return columns[j];
    return NULL;
}

/* What an entry says of a column must not contradict itself. */
static bool check_columns(struct value_reader *reader, const struct config_table *entry,
                          struct error *err)
{
    const char *column;

    for (int i = 0; i < entry->nkey; i++)
        for (int j = 0; j < entry->nexclude; j++)
            if (strcmp(entry->key[i], entry->exclude[j]) == 0)
                return config_error_at(reader->config, entry->place, err,
                                       "tables: %s is excluded, but part of the key",
                                       value_quote(reader->arena, entry->key[i]));
    column = masked_among(entry, entry->key, entry->nkey);
    if (column != NULL)
        return config_error_at(reader->config, entry->place, err,
                               "tables: %s is masked, but part of the key",
                               value_quote(reader->arena, column));
    column = masked_among(entry, entry->exclude, entry->nexclude);
    if (column != NULL)
        return config_error_at(reader->config, entry->place, err,
                               "tables: %s is both excluded and masked",
                               value_quote(reader->arena, column));
    return true;
}

static bool read_entry(struct value_reader *reader, const struct tree *node,
                       struct config_table *entry, struct error *err)
{
    bool is_section;

    entry->place = node->place;
    if (node->kind == TREE_SCALAR) {
        const struct value_key *key = find_key(TABLES, "name", &is_section);

        return key->read(reader, key, node, entry, err);
    }
    if (node->kind == TREE_LIST) {
        config_error_at(reader->config, node->place, err,
                        "tables: an entry is a name or a mapping, not a list");
        return error_hint(err, "write public.* or {name: public.orders, deletes: ignore}");
    }
    if (!read_mapping(reader, TABLES, node, entry, err) ||
        !check_required(reader, TABLES, node, err))
        return false;
    if (entry->is_excluded) {
        config_error_at(reader->config, node->place, err,
                        "tables: an entry that takes tables away has no other keys");
        return error_hint(err, "write it alone, in quotes: \"!public.audit_*\"");
    }
    return check_columns(reader, entry, err);
}

static VALUE_READER(tables)
{
    struct config *config = base;
    struct config_table *entries;
    int count = 0, taking = 0;

    if (node->kind != TREE_LIST) {
        value_fail(reader, key, node, err, "a list is expected here");
        return error_hint(err, "write %s", key->example);
    }
    entries = arena_new(reader->arena, struct config_table, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        if (!read_entry(reader, child, &entries[count], err))
            return false;
        taking += !entries[count++].is_excluded;
    }
    if (taking == 0) {
        value_fail(reader, key, node, err, "no entry takes any table");
        return error_hint(err, "write %s", key->example);
    }
    config->ntables = count;
    config->tables = entries;
    return true;
}

/* ---- facts ---- */

static VALUE_READER(dimensions)
{
    struct config_fact *fact = base;

    if (node->kind != TREE_LIST) {
        value_fail(reader, key, node, err, "a list is expected here");
        return error_hint(err, "write - {table: public.customers, join: customers.id = "
                               "orders.customer_id}");
    }
    fact->dimensions = arena_new(reader->arena, struct config_dimension, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        struct config_dimension *dimension = &fact->dimensions[fact->ndimensions];

        dimension->place = child->place;
        if (child->kind != TREE_MAPPING)
            return value_fail(reader, key, child, err, "a dimension has a table and a join");
        if (!read_mapping(reader, DIMENSIONS, child, dimension, err) ||
            !check_required(reader, DIMENSIONS, child, err))
            return false;
        if (dimension->as == NULL)
            dimension->as = dimension->table.name;
        fact->ndimensions++;
    }
    return true;
}

/* A derived table has a name and a query; its columns are known to the mirror's server alone. */
static bool check_refresh(struct value_reader *reader, const struct tree *node,
                          const struct config_fact *fact, struct error *err)
{
    const struct config_refresh *refresh = &fact->refresh;
    struct config_place place = fact->place;

    if (find_node(node, "refresh", &place) == NULL)
        return true;
    if (!refresh->is_declared || refresh->query == NULL) {
        config_error_at(reader->config, place, err, "facts{}.refresh.%s is missing",
                        refresh->is_declared ? "query" : "into");
        return error_hint(err, "write refresh: {into: report.%s, query: \"select …\"}", fact->name);
    }
    for (int i = 0; i < refresh->nkeys; i++)
        for (int j = 0; j <= fact->nkeys; j++)
            if (j == fact->nkeys)
                return config_error_at(reader->config, refresh->keys[i].place, err,
                                       "facts{}.refresh.key: %s is not part of the fact's key",
                                       value_quote(reader->arena, refresh->keys[i].name));
            else if (strcmp(fact->keys[j].name, refresh->keys[i].name) == 0)
                break;
    for (int i = 0; i < reader->config->nfacts; i++) {
        const struct config_refresh *other = &reader->config->facts[i].refresh;

        if (other->is_declared && strcmp(other->into.schema, refresh->into.schema) == 0 &&
            strcmp(other->into.name, refresh->into.name) == 0)
            return config_error_at(reader->config, refresh->place, err,
                                   "facts{}.refresh.into: fact %s is refreshed into the same table",
                                   reader->config->facts[i].name);
    }
    return true;
}

static VALUE_READER(facts)
{
    struct config *config = base;

    if (node->kind != TREE_MAPPING) {
        value_fail(reader, key, node, err, "facts by their names are expected here");
        return error_hint(err, "write facts: {order: {table: public.orders, key: [id]}}");
    }
    config->facts = arena_new(reader->arena, struct config_fact, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        struct config_fact *fact = &config->facts[config->nfacts];

        *fact = (struct config_fact){.name = child->name, .place = child->name_place};
        if (!value_check_plain(reader, child->name, VALUE_MAX_FACT, child->name_place, "a fact",
                               err) ||
            !check_duplicate(reader, node, child, err))
            return false;
        if (child->kind != TREE_MAPPING)
            return value_fail(reader, key, child, err, "a fact has a table and a key");
        if (!read_mapping(reader, FACTS, child, fact, err) ||
            !check_required(reader, FACTS, child, err) || !check_refresh(reader, child, fact, err))
            return false;
        config->nfacts++;
    }
    return true;
}

/* ---- changes of the source's tables ---- */

static const struct {
    const char *name; /* as a key */
    bool can_keep;
} changes[CHANGE_COUNT] = {[CHANGE_ADD_COLUMN] = {"add_column", true},
                           [CHANGE_DROP_COLUMN] = {"drop_column", true},
                           [CHANGE_RENAME_COLUMN] = {"rename_column", false},
                           [CHANGE_WIDEN_TYPE] = {"widen_type", false},
                           [CHANGE_TYPE] = {"change_type", false},
                           [CHANGE_KEY] = {"change_key", false},
                           [CHANGE_RECREATE_TABLE] = {"recreate_table", false},
                           [CHANGE_PARTITIONS] = {"partitions", false},
                           [CHANGE_NEW_TABLE] = {"new_table", true},
                           [CHANGE_DROP_TABLE] = {"drop_table", false}};

/* One word for all kinds, or a mapping with "default" for those that it does not name. */
static VALUE_READER(schema_changes)
{
    struct config *config = base;
    struct config_place place;
    const struct tree *all = node->kind == TREE_MAPPING ? find_node(node, "default", &place) : node;

    if (all != NULL && !value_read_word(reader, key, all, base, err))
        return false;
    for (int i = 0; i < CHANGE_COUNT; i++)
        config->schema_changes[i] = config->schema_default == SCHEMA_CHANGES_KEEP &&
                                            !changes[i].can_keep
                                        ? SCHEMA_CHANGES_STOP
                                        : config->schema_default;
    return node->kind != TREE_MAPPING || read_mapping(reader, CHANGES, node, base, err);
}

const char *config_change_name(enum config_change change)
{
    return changes[change].name;
}

bool config_is_followed(const struct config *config)
{
    for (int i = 0; i < CHANGE_COUNT; i++)
        if (config->schema_changes[i] != SCHEMA_CHANGES_STOP)
            return true;
    return false;
}

const struct config_known *config_find_known(const struct config *config, const char *schema,
                                             const char *name)
{
    for (int i = 0; i < config->nknown; i++)
        if (strcmp(config->known[i].name, name) == 0 &&
            strcmp(config->known[i].schema, schema) == 0)
            return &config->known[i];
    return NULL;
}

/* ---- feeds ---- */

/* Written the way round that people think of it. */
static VALUE_READER(verify)
{
    if (!value_read_bool(reader, key, node, base, err))
        return false;
    *(bool *) ((char *) base + key->offset) ^= true;
    return true;
}

/* What only a destination of one kind may have: the first that is there without it. */
static const char *stray_of_url(const struct config_destination *to)
{
    const struct {
        bool is_there;
        const char *name;
    } strays[] = {{to->method != NULL, "method"},
                  {to->headers != NULL, "headers"},
                  {to->body != BODY_ARRAY, "body"},
                  {to->envelope != NULL, "envelope"},
                  {to->is_gzip, "gzip"},
                  {to->is_unverified, "verify"},
                  {to->ca_file != NULL, "ca_file"},
                  {to->bearer != NULL, "bearer"},
                  {to->bearer_file != NULL, "bearer_file"},
                  {to->basic != NULL, "basic"},
                  {to->hmac_secret != NULL || to->hmac_header != NULL, "hmac"},
                  {to->connect_timeout_us != 0, "connect_timeout"}};

    for (int i = 0; i < COUNT(strays); i++)
        if (strays[i].is_there)
            return strays[i].name;
    return NULL;
}

static bool check_destination(struct value_reader *reader, const struct config_feed *feed,
                              struct config_place place, struct error *err)
{
    const struct config_destination *to = &feed->destination;
    const int nkinds = (to->url != NULL) + (to->command != NULL) + (to->table.name != NULL) +
                       to->is_stdout;
    const int ncredentials = (to->bearer != NULL) + (to->bearer_file != NULL) + (to->basic != NULL);

    if (nkinds != 1) {
        config_error_at(reader->config, place, err,
                        "feeds{}.destination: %s of url, command, table and stdout",
                        nkinds == 0 ? "there has to be one" : "only one may be there");
        return error_hint(err, "write destination: {url: \"https://crm.example/api/customers\"}");
    }
    if (to->url == NULL && stray_of_url(to) != NULL)
        return config_error_at(reader->config, place, err,
                               "feeds{}.destination.%s goes with url alone", stray_of_url(to));
    if (ncredentials > 1)
        return config_error_at(reader->config, place, err,
                               "feeds{}.destination: only one of bearer, bearer_file and basic");
    if (to->basic != NULL && strchr(to->basic, ':') == NULL) {
        config_error_at(reader->config, place, err, "feeds{}.destination.basic has no colon");
        return error_hint(err, "write basic: \"USER:${PASSWORD}\"");
    }
    if (to->hmac_header != NULL && to->hmac_secret == NULL)
        return config_error_at(reader->config, place, err,
                               "feeds{}.destination.hmac.secret is missing");
    if (to->envelope != NULL && strstr(to->envelope, "{documents}") == NULL &&
        strstr(to->envelope, "{records}") == NULL && strstr(to->envelope, "{document}") == NULL) {
        config_error_at(reader->config, place, err,
                        "feeds{}.destination.envelope has no place for the documents");
        return error_hint(err, "write envelope: '{\"inputs\": {documents}}'");
    }
    return true;
}

static void feed_defaults(struct config_feed *feed)
{
    struct config_destination *to = &feed->destination;

    feed->max_dead = 1000;
    feed->max_staleness_us = 300 * SECOND;
    feed->retry.attempts = 5;
    feed->retry.first_us = 5 * SECOND;
    feed->retry.longest_us = 3600 * SECOND;
    to->timeout_us = 30 * SECOND;
}

/* The defaults that need to be known not to have been said. */
static void feed_complete(struct config_feed *feed)
{
    struct config_destination *to = &feed->destination;

    if (feed->batch_size == 0)
        feed->batch_size = 500;
    if (to->url == NULL)
        return;
    if (to->method == NULL)
        to->method = "POST";
    if (to->connect_timeout_us == 0)
        to->connect_timeout_us = 5 * SECOND;
    if (to->hmac_secret != NULL && to->hmac_header == NULL)
        to->hmac_header = "X-Tailwater-Signature";
}

static bool read_feed(struct value_reader *reader, const struct tree *node,
                      struct config_feed *feed, struct error *err)
{
    struct config_place place = feed->place;

    feed_defaults(feed);
    if (!read_mapping(reader, FEEDS, node, feed, err) || !check_required(reader, FEEDS, node, err))
        return false;
    find_node(node, "destination", &place);
    if (!check_destination(reader, feed, place, err))
        return false;
    if (feed->retry.first_us > feed->retry.longest_us)
        return config_error_at(reader->config, feed->place, err,
                               "feeds{}.retry: first is above longest");
    feed_complete(feed);
    return true;
}

static VALUE_READER(feeds)
{
    struct config *config = base;

    if (node->kind != TREE_MAPPING) {
        value_fail(reader, key, node, err, "feeds by their names are expected here");
        return error_hint(err,
                          "write feeds: {crm: {fact: customer, query: …, destination: {url: …}}}");
    }
    config->feeds = arena_new(reader->arena, struct config_feed, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        struct config_feed *feed = &config->feeds[config->nfeeds];

        *feed = (struct config_feed){.name = child->name, .place = child->name_place};
        if (!value_check_plain(reader, child->name, VALUE_MAX_FACT, child->name_place, "a feed",
                               err) ||
            !check_duplicate(reader, node, child, err))
            return false;
        if (child->kind != TREE_MAPPING)
            return value_fail(reader, key, child, err,
                              "a feed has a fact, a query and a destination");
        if (!read_feed(reader, child, feed, err))
            return false;
        config->nfeeds++;
    }
    return true;
}

/* Where facts are declared too, a feed's is one of them, and the key columns that it names are its. */
static bool check_feeds(const struct config *config, struct error *err)
{
    for (int i = 0; i < config->nfeeds && config->nfacts > 0; i++) {
        const struct config_feed *feed = &config->feeds[i];
        const struct config_fact *fact = NULL;

        for (int j = 0; j < config->nfacts; j++)
            if (strcmp(config->facts[j].name, feed->fact) == 0)
                fact = &config->facts[j];
        if (fact == NULL)
            return config_error_at(config, feed->fact_place, err,
                                   "feeds{}.fact: there is no fact \"%s\"", feed->fact);
        for (int j = 0; j < feed->nkeys; j++) {
            int k = 0;

            while (k < fact->nkeys && strcmp(fact->keys[k].name, feed->keys[j].name) != 0)
                k++;
            if (k == fact->nkeys)
                return config_error_at(config, feed->keys[j].place, err,
                                       "feeds{}.key: \"%s\" is not part of the fact's key",
                                       feed->keys[j].name);
        }
    }
    return true;
}

/* ---- the whole ---- */

static void read_defaults(struct value_reader *reader)
{
    for (int i = 0; i < COUNT(keys); i++) {
        struct tree node = {.kind = TREE_SCALAR, .text = keys[i].fallback};
        struct error err = {0};
        bool ok = keys[i].fallback == NULL ||
                  keys[i].read(reader, &keys[i], &node, reader->config, &err);

        assert(ok && "a default in the table of keys is not valid");
        (void) ok;
    }
    reader->config->source.heartbeat_interval_us = 10 * SECOND;
}

/* What is only wrong together. */
static bool check_whole(struct value_reader *reader, const struct tree *root, struct error *err)
{
    const struct config *config = reader->config;
    struct config_place place = {0};

    if (config->source.wal_guard.warn_bytes > config->source.wal_guard.critical_bytes) {
        char warn[UNITS_TEXT_SIZE], critical[UNITS_TEXT_SIZE];

        find_node(root, "source.wal_guard", &place);
        return config_error_at(config, place, err,
                               "source.wal_guard: warn (%s) is above critical (%s)",
                               units_size_text(config->source.wal_guard.warn_bytes, warn),
                               units_size_text(config->source.wal_guard.critical_bytes, critical));
    }
    if (strcmp(config->mirror.table_schema, config->mirror.view_schema) == 0) {
        find_node(root, "mirror", &place);
        return config_error_at(config, place, err,
                               "mirror: table_schema and view_schema are the same: a mirror table "
                               "and its live view would have one name");
    }
    if (find_node(root, "source.publication", &place) != NULL &&
        strcmp(config->source.plugin, "pgoutput") != 0) {
        config_error_at(config, place, err, "source.publication: %s has no publications",
                        config->source.plugin);
        return error_hint(err, "remove it, or set plugin: pgoutput");
    }
    return check_feeds(config, err);
}

static bool parse(const char *file, const char *text, size_t len, bool is_mirror_alone,
                  struct arena *arena, struct config *ret_config, struct error *err)
{
    struct config config = {.file = arena_strdup(arena, file)};
    struct value_reader reader = {
        .config = &config, .arena = arena, .is_mirror_alone = is_mirror_alone};
    struct tree *root;

    if (!tree_parse(&config, text, len, arena, &root, err))
        return false;
    if (root->kind == TREE_SCALAR && root->text[0] == '\0')
        return config_error_at(&config, root->place, err, "the file is empty");
    if (root->kind != TREE_MAPPING) {
        config_error_at(&config, root->place, err, "not a configuration: keys are expected");
        return error_hint(err, "the smallest one has source, mirror and tables");
    }
    read_defaults(&reader);
    if (!read_mapping(&reader, "", root, &config, err) || !check_required(&reader, "", root, err) ||
        !check_whole(&reader, root, err))
        return false;
    if (config.source.slot == NULL)
        config.source.slot = arena_printf(arena, "tailwater_%s", config.pipeline);
    if (config.source.publication == NULL)
        config.source.publication = arena_printf(arena, "tailwater_%s", config.pipeline);
    *ret_config = config;
    return true;
}

bool config_parse(const char *file, const char *text, size_t len, struct arena *arena,
                  struct config *ret_config, struct error *err)
{
    return parse(file, text, len, false, arena, ret_config, err);
}

static bool load(const char *file, bool is_mirror_alone, struct arena *arena,
                 struct config *ret_config, struct error *err)
{
    _cleanup_fclose_ FILE *stream = fopen(file, "re");
    char *text;
    size_t len;

    if (stream == NULL)
        return error_set(err, ERROR_CONFIG, "cannot open %s: %s", file, strerror(errno));
    text = arena_alloc(arena, MAX_FILE_BYTES + 1);
    len = fread(text, 1, MAX_FILE_BYTES + 1, stream);
    if (ferror(stream))
        return error_set(err, ERROR_CONFIG, "cannot read %s: %s", file, strerror(errno));
    if (len > MAX_FILE_BYTES)
        return error_set(err, ERROR_CONFIG, "%s is not a configuration: larger than 1MiB", file);
    return parse(file, text, len, is_mirror_alone, arena, ret_config, err);
}

bool config_load(const char *file, struct arena *arena, struct config *ret_config,
                 struct error *err)
{
    return load(file, false, arena, ret_config, err);
}

bool config_load_mirror(const char *file, struct arena *arena, struct config *ret_config,
                        struct error *err)
{
    return load(file, true, arena, ret_config, err);
}

bool config_check_value(const char *path, const char *text, struct error *err)
{
    struct config config = {0};
    struct config_table entry = {0};
    struct arena arena = {0};
    struct value_reader reader = {.config = &config, .arena = &arena};
    struct tree node = {.kind = TREE_SCALAR, .text = text};
    void *base = path_after(path, TABLES) ? (void *) &entry : (void *) &config;
    int i = 0;
    bool ok;

    while (i < COUNT(keys) && strcmp(keys[i].path, path) != 0)
        i++;
    if (i == COUNT(keys))
        return error_set(err, ERROR_BUG, "there is no key %s", path);
    ok = keys[i].read(&reader, &keys[i], &node, base, err);
    arena_release(&arena);
    return ok;
}

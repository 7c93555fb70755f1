/*
 * The configuration under hostile files: whatever is in one, it is read or refused with a place; and
 * what was read, written out again with every key, reads as the same.
 */
#include "config/config.h"

#include "driver.h"

#include <string.h>

/* ---- writing a configuration ---- */

/* The character at *p, past it; -1 where it is no UTF-8. */
static int32_t next_character(const char **p)
{
    const unsigned char *u = (const unsigned char *) *p;
    int more = *u < 0x80 ? 0 : *u < 0xe0 ? 1 : *u < 0xf0 ? 2 : 3;
    int32_t c = more == 0 ? *u : *u & (0x3f >> more);

    for (int i = 1; i <= more; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return -1;
        c = c << 6 | (u[i] & 0x3f);
    }
    *p += more + 1;
    return c;
}

/* A double-quoted scalar; is_expanded: ${ begins a variable there. */
static void add_scalar(struct buf *out, const char *text, bool is_expanded)
{
    buf_add_char(out, '"');
    while (*text != '\0') {
        int32_t c;

        if (is_expanded && text[0] == '$' && text[1] == '{')
            buf_add_char(out, '$');
        c = next_character(&text);
        promise(c >= 0);
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", (char) c);
        else if (c >= ' ' && c < 0x7f)
            buf_add_char(out, (char) c);
        else
            buf_printf(out, "\\U%08X", (unsigned) c);
    }
    buf_add_char(out, '"');
}

static void add_text(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, "%s: ", key);
    add_scalar(out, text, true);
    buf_add(out, ", ");
}

static void add_number(struct buf *out, const char *key, int64_t number, const char *unit)
{
    buf_printf(out, "%s: %lld%s, ", key, (long long) number, unit);
}

static void add_names(struct buf *out, const char *key, const char *const *names, int count)
{
    if (count == 0)
        return;
    buf_printf(out, "%s: [", key);
    for (int i = 0; i < count; i++) {
        add_scalar(out, names[i], true);
        buf_add(out, ", ");
    }
    buf_add(out, "], ");
}

static void add_indexes(struct buf *out, const struct config_index_choice *choice)
{
    if (choice->kind == INDEXES_COPY || choice->kind == INDEXES_NONE)
        buf_printf(out, "indexes: %s, ", choice->kind == INDEXES_COPY ? "copy" : "none");
    else if (choice->kind == INDEXES_LIST)
        add_names(out, "indexes", choice->names, choice->count);
}

static void add_retention(struct buf *out, const char *key, int64_t us)
{
    if (us < 0)
        buf_printf(out, "%s: never, ", key);
    else
        add_number(out, key, us, "us");
}

static void add_table(struct buf *out, const struct config_table *table)
{
    static const char *const truncates[] = {"apply", "ignore", "stop"};

    buf_add(out, "  - ");
    if (table->is_excluded) {
        add_scalar(out, table->pattern, true);
        buf_add(out, "\n");
        return;
    }
    buf_add(out, "{");
    add_text(out, "name", table->pattern);
    add_names(out, "exclude", table->exclude, table->nexclude);
    add_names(out, "key", table->key, table->nkey);
    add_indexes(out, &table->indexes);
    if (table->has_deletes)
        add_text(out, "deletes", table->deletes == DELETES_SOFT ? "soft" : "ignore");
    if (table->has_truncate)
        add_text(out, "truncate", truncates[table->truncate]);
    if (table->has_purge_after)
        add_retention(out, "purge_after", table->purge_after_us);
    if (table->nmask > 0) {
        buf_add(out, "mask: {");
        for (int i = 0; i < table->nmask; i++) {
            add_scalar(out, table->mask[i].column, false);
            buf_printf(out, ": %s, ", table->mask[i].mask == MASK_NULL ? "null" : "hash");
        }
        buf_add(out, "}");
    }
    buf_add(out, "}\n");
}

static void add_config(struct buf *out, const struct config *config)
{
    static const char *const levels[] = {"debug", "info", "warning", "error"};

    buf_printf(out, "pipeline: %s\nsource: {", config->pipeline);
    add_text(out, "conninfo", config->source.conninfo);
    add_text(out, "plugin", config->source.plugin);
    add_text(out, "slot", config->source.slot);
    if (strcmp(config->source.plugin, "pgoutput") == 0)
        add_text(out, "publication", config->source.publication);
    if (config->source.heartbeat == HEARTBEAT_ON)
        add_number(out, "heartbeat", config->source.heartbeat_interval_us, "us");
    else
        add_text(out, "heartbeat", config->source.heartbeat == HEARTBEAT_OFF ? "off" : "auto");
    add_number(out, "wal_guard: {warn", config->source.wal_guard.warn_bytes, "B");
    add_number(out, "critical", config->source.wal_guard.critical_bytes, "B}");
    add_number(out, "max_read_rate", config->source.max_read_rate_bytes, "B/s");
    add_text(out, "failover", config->source.failover ? "true" : "false");
    add_number(out, "start_timeout", config->source.start_timeout_us, "us");
    add_number(out, "decode_memory", config->source.decode_memory_bytes, "B");
    buf_add(out, "}\nmirror: {");
    add_text(out, "conninfo", config->mirror.conninfo);
    add_text(out, "table_schema", config->mirror.table_schema);
    add_text(out, "view_schema", config->mirror.view_schema);
    add_indexes(out, &config->mirror.indexes);
    add_names(out, "readers", config->mirror.readers, config->mirror.nreaders);
    if (config->mirror.fillfactor != 0)
        add_number(out, "fillfactor", config->mirror.fillfactor, "");
    buf_add(out, "}\npurge: {");
    add_retention(out, "after", config->purge.after_us);
    buf_add(out, "}\napply: {");
    add_number(out, "max_rows", config->apply.max_rows, "");
    add_number(out, "max_bytes", config->apply.max_bytes, "B");
    buf_add(out, "}\n");
    buf_printf(out, "copy: {workers: %d}\n", config->copy.workers);
    buf_printf(out, "log: {format: %s, level: %s, values: %s}\n",
               config->log.format == LOG_JSON ? "json" : "text", levels[config->log.level],
               config->log.values ? "true" : "false");
    buf_add(out, "tables:\n");
    for (int i = 0; i < config->ntables; i++)
        add_table(out, &config->tables[i]);
}

/* ---- the target ---- */

static void ask_patterns(const struct config *config)
{
    static const char *const names[] = {"public", "orders", "Order Lines", "a*b", "\xc3\xa9", ""};
    size_t n = sizeof(names) / sizeof(names[0]);

    for (int i = 0; i < config->ntables; i++)
        for (size_t j = 0; j < n * n; j++)
            (void) config_table_matches(&config->tables[i], names[j / n], names[j % n]);
}

static void check_reads_again(const struct config *config)
{
    _cleanup_buf_ struct buf text = {0}, again_text = {0};
    struct arena arena = {0};
    struct config again;
    struct error err = {0};

    add_config(&text, config);
    if (!config_parse("again.yaml", text.data, text.len, &arena, &again, &err)) {
        fprintf(stderr, "%s\n%s\n", buf_text(&text), err.message);
        promise(!"what was read is not read again");
    }
    add_config(&again_text, &again);
    promise(strcmp(buf_text(&text), buf_text(&again_text)) == 0);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct config config;
    struct error err = {0};

    if (config_parse("fuzz.yaml", (const char *) data, size, &arena, &config, &err)) {
        promise(err.kind == ERROR_NONE);
        ask_patterns(&config);
        check_reads_again(&config);
    } else {
        promise(err.kind == ERROR_CONFIG && strncmp(err.message, "fuzz.yaml:", 10) == 0);
    }
    arena_release(&arena);
    return 0;
}

static const char *const seeds[] = {
    "source: {conninfo: \"host=prod dbname=shop\"}\n"
    "mirror: {conninfo: \"host=dwh dbname=reports\"}\n"
    "tables: [public.*]\n",

    "pipeline: shop_2\n"
    "source:\n"
    "  conninfo: host=s password='${HOME}' user=${HOME} options=$${x}\n"
    "  plugin: pgoutput\n"
    "  slot: other\n"
    "  publication: Some Publication\n"
    "  heartbeat: 500ms\n"
    "  wal_guard: {warn: 100MB, critical: 100 MiB}\n"
    "  max_read_rate: 20MB/s\n"
    "  nan_check: off\n"
    "  failover: true\n"
    "  start_timeout: 2min\n"
    "  decode_memory: 64kB\n"
    "mirror:\n"
    "  conninfo: 'postgresql://u:p@h/d'\n"
    "  table_schema: \"m_{schema}\"\n"
    "  indexes: [a_idx, \"B idx\"]\n"
    "  readers: [report, \"Big Boss\"]\n"
    "  fillfactor: 70\n"
    "tables: # a comment\n"
    "  - public.*\n"
    "  - '!public.\"Audit*\"'\n"
    "  - name: \"s?les.\\\"Order\\x20Lines\\\"\"\n"
    "    exclude: [note, Blob]\n"
    "    mask: {email: hash, phone: null}\n"
    "    deletes: ignore\n"
    "    truncate: stop\n"
    "    purge_after: never\n"
    "    key: [tenant, id]\n"
    "    indexes: none\n"
    "purge: {after: 7d}\n"
    "apply: {max_rows: 1, max_bytes: 3MB}\n"
    "copy: {workers: 32}\n"
    "log: {format: json, level: debug, values: true}\n",

    "a: &x [*x, !!str y]\n---\n? {b: c}\n: |\n  d\n...\n%YAML 1.1\n--- >-\n e\n",
};

static bool seed(size_t i, struct buf *out)
{
    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {"{",
                                    "}",
                                    "[",
                                    "]",
                                    ": ",
                                    ", ",
                                    "- ",
                                    "\n",
                                    "\n  ",
                                    "\"",
                                    "'",
                                    "\\",
                                    "#",
                                    "*",
                                    "&",
                                    "!",
                                    "?",
                                    "|",
                                    ">",
                                    "%",
                                    "@",
                                    "`",
                                    "~",
                                    "${",
                                    "$${",
                                    "${HOME}",
                                    "\t",
                                    "\r",
                                    "\x7f",
                                    "\xff",
                                    "\xef\xbb\xbf",
                                    "\xc3\xa9",
                                    "\xc3",
                                    "0",
                                    "-1",
                                    "99999999999999999999",
                                    "1d",
                                    "1us",
                                    "GB",
                                    ".",
                                    "null",
                                    "---\n",
                                    "...\n",
                                    "<<: ",
                                    "\"\\0\"",
                                    "=",
                                    "://",
                                    "pipeline: ",
                                    "source: ",
                                    "mirror: ",
                                    "tables: ",
                                    "name: ",
                                    "conninfo: ",
                                    "plugin: ",
                                    "slot: ",
                                    "publication: ",
                                    "heartbeat: ",
                                    "wal_guard: ",
                                    "warn: ",
                                    "critical: ",
                                    "max_read_rate: ",
                                    "failover: ",
                                    "start_timeout: ",
                                    "decode_memory: ",
                                    "table_schema: ",
                                    "view_schema: ",
                                    "indexes: ",
                                    "readers: ",
                                    "fillfactor: ",
                                    "exclude: ",
                                    "mask: ",
                                    "deletes: ",
                                    "truncate: ",
                                    "purge_after: ",
                                    "key: ",
                                    "purge: ",
                                    "after: ",
                                    "apply: ",
                                    "max_rows: ",
                                    "max_bytes: ",
                                    "copy: ",
                                    "workers: ",
                                    "log: ",
                                    "format: ",
                                    "level: ",
                                    "values: ",
                                    "never",
                                    "auto",
                                    "off",
                                    "hash",
                                    "{schema}",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};

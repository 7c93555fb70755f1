/*
 * Patterns of tables: one that is read matches exactly what a plain recursive matcher says, and,
 * quoted part by part, reads as the same.
 *
 * An input's first line is the pattern, the second and third are a schema and a table's name.
 */
#include "config/pattern.h"

#include "driver.h"

#include <string.h>

static size_t character_length(const char *p)
{
    size_t len = 1;

    while ((p[len] & 0xc0) == 0x80)
        len++;
    return len;
}

/* Steps are counted: it is exponential where the real one must not be. */
static int plain_match(const char *glob, const char *text, int *steps)
{
    if (++*steps > 100000)
        return -1;
    if (*glob == '\0')
        return *text == '\0';
    if (*glob == '*') {
        for (const char *p = text;; p += character_length(p)) {
            int matches = plain_match(glob + 1, p, steps);

            if (matches != 0 || *p == '\0')
                return matches;
        }
    }
    if (*glob == '?')
        return *text == '\0' ? 0 : plain_match(glob + 1, text + character_length(text), steps);
    return *glob == *text ? plain_match(glob + 1, text + 1, steps) : 0;
}

static int part_matches(const char *part, bool is_glob, const char *text)
{
    int steps = 0;

    return is_glob ? plain_match(part, text, &steps) : strcmp(part, text) == 0;
}

static void check_matches(const struct config_table *entry, const char *schema, const char *name)
{
    const int schema_matches = part_matches(entry->schema, entry->is_schema_glob, schema);
    const int name_matches = part_matches(entry->name, entry->is_name_glob, name);

    if (schema_matches >= 0 && name_matches >= 0)
        promise(config_table_matches(entry, schema, name) == (schema_matches && name_matches));
}

static void add_part(struct buf *out, const char *part, bool is_glob)
{
    if (is_glob) {
        buf_add(out, part);
        return;
    }
    buf_add_char(out, '"');
    for (; *part != '\0'; part++)
        buf_printf(out, *part == '"' ? "\"\"" : "%c", *part);
    buf_add_char(out, '"');
}

static void check_reads_again(const struct config_table *entry, struct arena *arena)
{
    _cleanup_buf_ struct buf text = {0};
    struct config_table again = {0};
    struct error err = {0};

    buf_add(&text, entry->is_excluded ? "!" : "");
    add_part(&text, entry->schema, entry->is_schema_glob);
    buf_add_char(&text, '.');
    add_part(&text, entry->name, entry->is_name_glob);
    promise(pattern_parse(buf_text(&text), arena, &again, &err));
    promise(strcmp(entry->schema, again.schema) == 0 && strcmp(entry->name, again.name) == 0);
    promise(entry->is_schema_glob == again.is_schema_glob);
    promise(entry->is_name_glob == again.is_name_glob);
    promise(entry->is_excluded == again.is_excluded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *input = driver_text(data, size), *rest = input;
    const char *pattern = driver_line(&rest), *schema = driver_line(&rest);
    const char *name = driver_line(&rest);
    struct config_table entry = {0}, untouched = {0};
    struct arena arena = {0};
    struct error err = {0};

    schema = schema ? schema : "";
    name = name ? name : "";
    if (pattern_parse(pattern, &arena, &entry, &err)) {
        promise(entry.schema[0] != '\0' && entry.name[0] != '\0');
        promise(entry.is_schema_glob || strlen(entry.schema) <= 63);
        promise(entry.is_name_glob || strlen(entry.name) <= 63);
        check_matches(&entry, schema, name);
        check_matches(&entry, entry.schema, entry.name);
        check_reads_again(&entry, &arena);
    } else {
        promise(err.kind == ERROR_CONFIG && err.message[0] != '\0');
        promise(memcmp(&entry, &untouched, sizeof(entry)) == 0);
    }
    promise(config_expand_schema(pattern, schema, &arena) != NULL);
    arena_release(&arena);
    free(input);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    static const char *const seeds[] = {
        "public.orders\npublic\norders",
        "!public.audit_*\npublic\naudit_2024",
        "sales.\"Order Lines\"\nsales\nOrder Lines",
        "\"a\"\"b\".\"*\"\na\"b\n*",
        "*.?r?er*s\ns\norders",
        "s?les.caf?\nsales\ncaf\xc3\xa9",
        "*a*b*c*.*d*e*f*\nxaxbxc\ndef",
        "m_{schema}.x\npublic\nx",
    };

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {"*",        "?",        "\"",   "\"\"", ".",  "!",      "\n",
                                    "{schema}", "\xc3\xa9", "\x80", "**",   "*?", "public", NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};

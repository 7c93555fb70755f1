/*
 * Text is cut out of the file, and put into it, at places that the parser reported: entries of tables.
 * Whether that came out right is not argued but tried: the new text is read as a configuration, and has
 * to take the table, or not to.  Two ways of writing a list are understood,
 *
 *     tables:                      tables: [public.a, {name: public.b, deletes: ignore}]
 *       - public.a
 *       - name: public.b
 *         deletes: ignore
 *
 * Not here: any other key, and any formatting.
 */
#include "config/edit.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BYTES (1024 * 1024)

/* An entry of the list, as offsets into the text. */
struct span {
    size_t begin, end;
};

struct editing {
    const struct config *config;
    const char *schema, *name;
    struct arena *arena;
    char *text;
    size_t len;
    bool is_flow; /* [a, b] */
    int nspans;   /* one for each of config->tables */
    struct span *spans;
    size_t dash; /* of the list's lines: the column of the dash, from 0 */
};

/* Of this table, and of no other. */
static bool is_named(const struct config_table *entry, const char *schema, const char *name)
{
    return !entry->is_schema_glob && !entry->is_name_glob &&
           config_table_matches(entry, schema, name);
}

bool edit_is_taken(const struct config *config, const char *schema, const char *name,
                   bool *ret_is_named)
{
    bool is = false;

    *ret_is_named = false;
    for (int i = 0; i < config->ntables; i++) {
        const struct config_table *entry = &config->tables[i];

        if (!config_table_matches(entry, schema, name))
            continue;
        is = !entry->is_excluded;
        *ret_is_named = is && (*ret_is_named || is_named(entry, schema, name));
    }
    return is;
}

/* ---- where the entries are ---- */

static bool fail_by_hand(const struct editing *e, struct error *err)
{
    bool is_by_name;

    error_set(err, ERROR_CONFIG,
              "%s: its list of tables is written in a way that is not changed here",
              e->config->file);
    return error_hint(err, "write it there by hand: %s%s.%s",
                      edit_is_taken(e->config, e->schema, e->name, &is_by_name) ? "!" : "",
                      e->schema, e->name);
}

static size_t line_begin(const struct editing *e, size_t at)
{
    while (at > 0 && e->text[at - 1] != '\n')
        at--;
    return at;
}

/* The first byte of the next line, or the end. */
static size_t line_end(const struct editing *e, size_t at)
{
    while (at < e->len && e->text[at] != '\n')
        at++;
    return at < e->len ? at + 1 : at;
}

/* A place's column counts characters. */
static size_t offset_of(const struct editing *e, struct config_place place)
{
    size_t at = 0;

    for (int line = 1; line < place.line && at < e->len; line++)
        at = line_end(e, at);
    for (int column = 1; column < place.column && at < e->len; column++) {
        at++;
        while (at < e->len && ((unsigned char) e->text[at] & 0xC0) == 0x80)
            at++;
    }
    return at;
}

static size_t indent_of(const struct editing *e, size_t line)
{
    size_t n = 0;

    while (line + n < e->len && e->text[line + n] == ' ')
        n++;
    return n;
}

static bool is_blank(const struct editing *e, size_t line)
{
    const size_t at = line + indent_of(e, line);

    return at >= e->len || e->text[at] == '\n' || e->text[at] == '\r' || e->text[at] == '#';
}

/* Lines of an entry are indented deeper than its dash. */
static bool find_lines(struct editing *e, struct span *span, size_t at)
{
    size_t line, end;

    span->begin = line_begin(e, at);
    if (indent_of(e, span->begin) != e->dash || e->text[span->begin + e->dash] != '-')
        return false;
    end = line_end(e, at);
    for (line = end; line < e->len; line = line_end(e, line)) {
        if (is_blank(e, line))
            continue;
        if (indent_of(e, line) <= e->dash)
            break;
        end = line_end(e, line);
    }
    span->end = end;
    return true;
}

/* Up to the comma or bracket behind it. */
static bool find_item(struct editing *e, struct span *span, size_t at)
{
    int depth = 0;
    char quote = 0;

    span->begin = at;
    for (; at < e->len; at++) {
        const char c = e->text[at];

        if (quote != 0) {
            if (c == '\\' && quote == '"')
                at++;
            else if (c == quote)
                quote = 0;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (c == '[' || c == '{') {
            depth++;
        } else if (depth > 0 && (c == ']' || c == '}')) {
            depth--;
        } else if (depth == 0 && (c == ']' || c == ',')) {
            span->end = at;
            return true;
        }
    }
    return false;
}

static bool find_entries(struct editing *e, struct error *err)
{
    const struct config *config = e->config;
    size_t before = offset_of(e, config->tables[0].place);

    while (before > 0 && isspace((unsigned char) e->text[before - 1]))
        before--;
    if (before == 0)
        return fail_by_hand(e, err);
    e->is_flow = e->text[before - 1] == '[';
    e->dash = before - 1 - line_begin(e, before - 1);
    e->nspans = config->ntables;
    e->spans = arena_new(e->arena, struct span, e->nspans);
    for (int i = 0; i < e->nspans; i++)
        if (!(e->is_flow ? find_item : find_lines)(e, &e->spans[i],
                                                   offset_of(e, config->tables[i].place)))
            return fail_by_hand(e, err);
    return true;
}

/* ---- how a name is written ---- */

static void add_part(struct buf *out, const char *part)
{
    if (part[0] != '\0' && strpbrk(part, "*?.\"! ") == NULL) {
        buf_add(out, part);
        return;
    }
    buf_add_char(out, '"');
    for (; *part != '\0'; part++) {
        if (*part == '"')
            buf_add_char(out, '"');
        buf_add_char(out, *part);
    }
    buf_add_char(out, '"');
}

/* In the quotes of YAML where it has to be; ${ would be taken for a variable. */
static void add_entry(struct buf *out, const char *before, const char *schema, const char *name)
{
    _cleanup_buf_ struct buf pattern = {0};
    bool is_plain = before[0] == '\0';

    add_part(&pattern, schema);
    buf_add_char(&pattern, '.');
    add_part(&pattern, name);
    for (const char *p = buf_text(&pattern); *p != '\0'; p++)
        is_plain &= isalnum((unsigned char) *p) || *p == '_' || *p == '.';
    if (is_plain) {
        buf_add(out, buf_text(&pattern));
        return;
    }
    buf_add_char(out, '\'');
    buf_add(out, before);
    for (const char *p = buf_text(&pattern); *p != '\0'; p++) {
        if (*p == '\'' || (p[0] == '$' && p[1] == '{'))
            buf_add_char(out, *p);
        buf_add_char(out, *p);
    }
    buf_add_char(out, '\'');
}

/* ---- the new text ---- */

/* Behind the last entry; first: there is none left before it. */
static void add_last(const struct editing *e, const char *before, bool is_first, struct buf *out)
{
    if (e->is_flow) {
        while (out->len > 0 && isspace((unsigned char) out->data[out->len - 1]))
            out->data[--out->len] = '\0';
        buf_add(out, is_first ? "" : ", ");
    } else {
        if (out->len > 0 && out->data[out->len - 1] != '\n')
            buf_add_char(out, '\n');
        buf_printf(out, "%*s- ", (int) e->dash, "");
    }
    add_entry(out, before, e->schema, e->name);
    buf_add(out, e->is_flow ? "" : "\n");
}

static void add_text(const struct editing *e, size_t begin, size_t end, struct buf *out)
{
    buf_add_bytes(out, e->text + begin, end - begin);
}

/* The text without the entries that go, and with one more where before is not NULL. */
static void rewrite(const struct editing *e, const bool *goes, const char *before, struct buf *out)
{
    size_t at = 0;
    int nleft = 0;

    for (int i = 0; i < e->nspans; i++) {
        const struct span *span = &e->spans[i];

        if (!goes[i]) {
            add_text(e, at, span->end, out);
            at = span->end;
            nleft++;
            continue;
        }
        /* With the comma before it, or behind it where it is the first that is left. */
        if (e->is_flow && nleft > 0) {
            at = span->end;
            continue;
        }
        add_text(e, at, span->begin, out);
        at = span->end;
        if (e->is_flow && e->text[at] == ',')
            for (at++; at < e->len && e->text[at] == ' ';)
                at++;
    }
    if (before != NULL)
        add_last(e, before, nleft == 0, out);
    add_text(e, at, e->len, out);
}

/* ---- files ---- */

static bool read_file(struct editing *e, const char *file, struct error *err)
{
    _cleanup_fclose_ FILE *stream = fopen(file, "re");

    if (stream == NULL)
        return error_set(err, ERROR_CONFIG, "cannot open %s: %s", file, strerror(errno));
    e->text = arena_alloc(e->arena, MAX_BYTES + 1);
    e->len = fread(e->text, 1, MAX_BYTES, stream);
    e->text[e->len] = '\0';
    return !ferror(stream) ||
           error_set(err, ERROR_CONFIG, "cannot read %s: %s", file, strerror(errno));
}

static bool write_new(struct edit *edit, const struct buf *text, struct error *err)
{
    struct stat before;
    int fd;
    bool is_ok;

    if (stat(edit->file, &before) != 0)
        return error_set(err, ERROR_CONFIG, "%s: %s", edit->file, strerror(errno));
    fd = open(edit->new_file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, before.st_mode & 0777);
    if (fd < 0)
        return error_set(err, ERROR_CONFIG, "cannot write %s: %s", edit->new_file, strerror(errno));
    /* Whose it was, where we may; then nobody reads it who might not. */
    is_ok = (fchown(fd, before.st_uid, before.st_gid) == 0 || errno == EPERM) &&
            fchmod(fd, before.st_mode & 0777) == 0 &&
            write(fd, text->data, text->len) == (ssize_t) text->len && fsync(fd) == 0;
    if (!is_ok)
        error_set(err, ERROR_CONFIG, "cannot write %s: %s", edit->new_file, strerror(errno));
    close(fd);
    return is_ok;
}

/* The new text is a configuration, and the table is taken, or not. */
static bool try_new(const struct editing *e, const struct edit *edit, int nentries, bool is_wanted,
                    struct error *err)
{
    struct config config;
    bool is_by_name;

    if (!config_load(edit->new_file, e->arena, &config, err))
        return error_wrap(err, "%s.%s cannot be %s", e->schema, e->name,
                          is_wanted ? "added" : "taken out");
    return (config.ntables == nentries &&
            edit_is_taken(&config, e->schema, e->name, &is_by_name) == is_wanted) ||
           fail_by_hand(e, err);
}

static bool begin(struct editing *e, struct edit *edit, struct error *err)
{
    *edit = (struct edit){.file = realpath(e->config->file, NULL)};
    if (edit->file == NULL)
        return error_set(err, ERROR_CONFIG, "%s: %s", e->config->file, strerror(errno));
    if (asprintf(&edit->new_file, "%s.new.%d", edit->file, (int) getpid()) < 0)
        abort();
    return read_file(e, edit->file, err) && find_entries(e, err);
}

static bool change(struct editing *e, const bool *goes, const char *before, bool is_wanted,
                   struct edit *edit, struct error *err)
{
    _cleanup_buf_ struct buf text = {0};
    int nentries = e->nspans + (before != NULL);

    for (int i = 0; i < e->nspans; i++)
        nentries -= goes[i];
    rewrite(e, goes, before, &text);
    return write_new(edit, &text, err) && try_new(e, edit, nentries, is_wanted, err);
}

bool edit_add_table(const struct config *config, const char *schema, const char *name,
                    struct arena *arena, struct edit *ret_edit, struct error *err)
{
    struct editing e = {.config = config, .schema = schema, .name = name, .arena = arena};
    _cleanup_edit_ struct edit edit = {0};

    bool *goes;

    if (!begin(&e, &edit, err))
        return false;
    goes = arena_new(arena, bool, e.nspans);
    for (int i = 0; i < config->ntables; i++)
        goes[i] = config->tables[i].is_excluded && is_named(&config->tables[i], schema, name);
    if (!change(&e, goes, "", true, &edit, err))
        return false;
    *ret_edit = edit;
    edit = (struct edit){0};
    return true;
}

bool edit_remove_table(const struct config *config, const char *schema, const char *name,
                       struct arena *arena, struct edit *ret_edit, struct error *err)
{
    struct editing e = {.config = config, .schema = schema, .name = name, .arena = arena};
    _cleanup_edit_ struct edit edit = {0};
    struct config rest = *config;
    bool is_named_too, *goes;

    if (!begin(&e, &edit, err))
        return false;
    goes = arena_new(arena, bool, e.nspans);
    rest.ntables = 0;
    rest.tables = arena_new(arena, struct config_table, config->ntables);
    for (int i = 0; i < config->ntables; i++) {
        const struct config_table *entry = &config->tables[i];

        goes[i] = is_named(entry, schema, name);
        if (!goes[i])
            rest.tables[rest.ntables++] = *entry;
    }
    if (!change(&e, goes, edit_is_taken(&rest, schema, name, &is_named_too) ? "!" : NULL, false,
                &edit, err))
        return false;
    *ret_edit = edit;
    edit = (struct edit){0};
    return true;
}

bool edit_commit(const struct edit *edit, struct error *err)
{
    return rename(edit->new_file, edit->file) == 0 ||
           error_set(err, ERROR_CONFIG, "cannot replace %s: %s", edit->file, strerror(errno));
}

void edit_release(struct edit *edit)
{
    if (edit->new_file != NULL)
        unlink(edit->new_file);
    free(edit->file);
    free(edit->new_file);
    *edit = (struct edit){0};
}

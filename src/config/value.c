/*
 * Every reader begins with scalar_text(): a scalar, not empty, ${ENV} expanded.  Messages show the
 * text as it stands in the file, never what a variable held.
 */
#include "config/value.h"

#include "base/buf.h"
#include "config/expand.h"
#include "config/pattern.h"
#include "config/units.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_LIST       1600 /* PostgreSQL's MaxHeapAttributeNumber */
#define MAX_IDENTIFIER 63   /* its NAMEDATALEN - 1 */
#define MAX_QUOTED     60

bool value_fail(const struct value_reader *reader, const struct value_key *key,
                const struct tree *node, struct error *err, const char *format, ...)
{
    char message[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    if (reader->config->file == NULL)
        return error_set(err, ERROR_CONFIG, "%s", message);
    return config_error_at(reader->config, node->place, err, "%s: %s", key->path, message);
}

/* The same for an error that a parser without a place has set. */
static bool fail_with(const struct value_reader *reader, const struct value_key *key,
                      const struct tree *node, struct error *err)
{
    struct error inner = *err;

    value_fail(reader, key, node, err, "%s", inner.message);
    return error_hint(err, "%s", inner.hint);
}

const char *value_quote(struct arena *arena, const char *text)
{
    size_t len = strlen(text), shown = len;

    if (strchr(text, '=') != NULL || strstr(text, "://") != NULL)
        return "this text (it may hold a password)";
    if (len > MAX_QUOTED)
        for (shown = MAX_QUOTED; shown > 0 && (text[shown] & 0xC0) == 0x80;)
            shown--;
    return arena_printf(arena, "\"%.*s%s\"", (int) shown, text, shown < len ? "…" : "");
}

/* What could be written here, unless the error knows better. */
static bool hint_at(struct error *err, const char *hint)
{
    return err->hint[0] != '\0' ? false : error_hint(err, "%s", hint);
}

static void *field_of(const struct value_key *key, void *base)
{
    return (char *) base + key->offset;
}

static bool scalar_node(const struct value_reader *reader, const struct value_key *key,
                        const struct tree *node, struct error *err)
{
    if (node->kind != TREE_SCALAR)
        return value_fail(reader, key, node, err, "one value is expected here, not a %s",
                          node->kind == TREE_LIST ? "list" : "mapping");
    if (node->text[0] == '\0')
        return value_fail(reader, key, node, err, "has no value");
    return true;
}

/* The text of a value, or NULL and an error. */
static const char *scalar_text(const struct value_reader *reader, const struct value_key *key,
                               const struct tree *node, struct error *err)
{
    const char *text = NULL;

    if (!scalar_node(reader, key, node, err))
        return NULL;
    if (!expand_text(node->text, reader->arena, &text, err))
        fail_with(reader, key, node, err);
    else if (text[0] != '\0')
        return text;
    else
        value_fail(reader, key, node, err, "has no value: the variable is set, but empty");
    return NULL;
}

/* ---- names ---- */

/* A text made of these characters only, key->max bytes at most. */
static bool read_plain(const struct value_reader *reader, const struct value_key *key,
                       const struct tree *node, void *base, const char *what, struct error *err)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(text))
        return value_fail(reader, key, node, err, "%s is not %s: only a-z, 0-9 and _",
                          value_quote(reader->arena, node->text), what);
    if (strlen(text) > (size_t) key->max)
        return value_fail(reader, key, node, err, "%s is longer than %lld characters",
                          value_quote(reader->arena, node->text), (long long) key->max);
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(slot)
{
    return read_plain(reader, key, node, base, "a slot name", err);
}

VALUE_READER(pipeline)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (isdigit((unsigned char) text[0]))
        return value_fail(reader, key, node, err, "%s is not a plain name: it begins with a digit",
                          value_quote(reader->arena, node->text));
    return read_plain(reader, key, node, base, "a plain name", err);
}

/* A name that PostgreSQL can have, or NULL and an error. */
static const char *identifier(const struct value_reader *reader, const struct value_key *key,
                              const struct tree *node, struct error *err)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL || strlen(text) <= MAX_IDENTIFIER)
        return text;
    value_fail(reader, key, node, err, "%s is longer than PostgreSQL's %d bytes",
               value_quote(reader->arena, node->text), MAX_IDENTIFIER);
    return NULL;
}

VALUE_READER(name)
{
    const char *text = identifier(reader, key, node, err);

    if (text == NULL)
        return false;
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(conninfo)
{
    const char *text = NULL;

    if (!scalar_node(reader, key, node, err))
        return false;
    if (!expand_conninfo(node->text, reader->arena, &text, err))
        return fail_with(reader, key, node, err);
    if (text[strspn(text, " \t\r\n")] == '\0')
        return value_fail(reader, key, node, err, "has no value");
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(schema)
{
    const char *text = scalar_text(reader, key, node, err), *rest;

    if (text == NULL)
        return false;
    rest = config_expand_schema(text, "", reader->arena);
    if (strpbrk(rest, "{}") != NULL) {
        value_fail(reader, key, node, err, "%s has braces around something else than schema",
                   value_quote(reader->arena, node->text));
        return error_hint(err, "{schema} stands for the source's schema, as in mirror_{schema}");
    }
    if (strlen(rest) > MAX_IDENTIFIER)
        return value_fail(reader, key, node, err, "%s is longer than PostgreSQL's %d bytes",
                          value_quote(reader->arena, node->text), MAX_IDENTIFIER);
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(pattern)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (!pattern_parse(text, reader->arena, base, err))
        return fail_with(reader, key, node, err);
    return true;
}

VALUE_READER(table_name)
{
    const char *text = scalar_text(reader, key, node, err);
    struct config_table parsed = {0};
    struct config_table_name *name = field_of(key, base);

    if (text == NULL)
        return false;
    if (!pattern_parse(text, reader->arena, &parsed, err))
        return fail_with(reader, key, node, err);
    if (parsed.is_excluded || parsed.is_schema_glob || parsed.is_name_glob)
        return value_fail(reader, key, node, err, "%s is a pattern, not one table",
                          value_quote(reader->arena, node->text));
    *name = (struct config_table_name){node->place, parsed.schema, parsed.name};
    return true;
}

const char *value_text(const struct value_reader *reader, const struct value_key *key,
                       const struct tree *node, struct error *err)
{
    return scalar_text(reader, key, node, err);
}

bool value_check_plain(const struct value_reader *reader, const char *text, int max,
                       struct config_place place, const char *what, struct error *err)
{
    if (strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(text) || text[0] == '\0' ||
        isdigit((unsigned char) text[0]))
        return config_error_at(reader->config, place, err,
                               "%s is no name for %s: only a-z, 0-9 and _, no digit first",
                               value_quote(reader->arena, text), what);
    if (strlen(text) > (size_t) max)
        return config_error_at(reader->config, place, err,
                               "%s is too long for %s: %d characters at most",
                               value_quote(reader->arena, text), what, max);
    return true;
}

/* ---- choices ---- */

static void bad_word(const struct value_reader *reader, const struct value_key *key,
                     const struct tree *node, const char *const *words, struct error *err)
{
    _cleanup_buf_ struct buf list = {0};
    const char *near, *quoted = value_quote(reader->arena, node->text);
    int count = 0;

    for (; words[count] != NULL; count++)
        buf_printf(&list, "%s%s", count ? ", " : "", words[count]);
    near = config_nearest(node->text, words, count);
    if (near != NULL)
        value_fail(reader, key, node, err, "%s is none of %s; did you mean \"%s\"?", quoted,
                   buf_text(&list), near);
    else
        value_fail(reader, key, node, err, "%s is none of %s", quoted, buf_text(&list));
}

/* Which of the words the value is, or -1 and an error. */
static int word_index(const struct value_reader *reader, const struct value_key *key,
                      const struct tree *node, const char *const *words, struct error *err)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return -1;
    for (int i = 0; words[i] != NULL; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    bad_word(reader, key, node, words, err);
    return -1;
}

VALUE_READER(word)
{
    int index = word_index(reader, key, node, key->words, err);

    if (index < 0)
        return false;
    *(unsigned *) field_of(key, base) = (unsigned) index;
    return true;
}

VALUE_READER(choice)
{
    int index = word_index(reader, key, node, key->words, err);

    if (index < 0)
        return false;
    *(const char **) field_of(key, base) = key->words[index];
    return true;
}

VALUE_READER(bool)
{
    static const char *const words[] = {"false", "true", NULL};
    int index = word_index(reader, key, node, words, err);

    if (index < 0)
        return false;
    *(bool *) field_of(key, base) = index == 1;
    return true;
}

/* ---- quantities ---- */

static const char *number_text(int64_t number, char text[static UNITS_TEXT_SIZE])
{
    snprintf(text, UNITS_TEXT_SIZE, "%lld", (long long) number);
    return text;
}

static bool parse_number(const char *text, int64_t *ret_number, struct error *err)
{
    int64_t number = 0;
    const char *p = text;

    for (; isdigit((unsigned char) *p); p++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, *p - '0', &number))
            return error_set(err, ERROR_CONFIG, "too large");
    if (p == text || *p != '\0')
        return error_set(err, ERROR_CONFIG, "not a whole number");
    *ret_number = number;
    return true;
}

/* A quantity is parsed, checked against its key's range and shown in a message by these two. */
struct quantity {
    bool (*parse)(const char *text, int64_t *ret_value, struct error *err);
    const char *(*text)(int64_t value, char text[static UNITS_TEXT_SIZE]);
};

static const struct quantity a_number = {parse_number, number_text};
static const struct quantity a_duration = {config_parse_duration, units_duration_text};
static const struct quantity a_size = {config_parse_size, units_size_text};

static bool read_quantity(const struct value_reader *reader, const struct value_key *key,
                          const struct tree *node, const struct quantity *quantity,
                          const char *text, int64_t *ret_value, struct error *err)
{
    char low[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE];
    int64_t value = 0;

    if (!quantity->parse(text, &value, err))
        return fail_with(reader, key, node, err);
    if (value < key->min || value > key->max)
        return value_fail(reader, key, node, err, "%s is out of range: %s to %s",
                          value_quote(reader->arena, node->text), quantity->text(key->min, low),
                          quantity->text(key->max, high));
    *ret_value = value;
    return true;
}

static bool scalar_quantity(const struct value_reader *reader, const struct value_key *key,
                            const struct tree *node, const struct quantity *quantity,
                            int64_t *ret_value, struct error *err)
{
    const char *text = scalar_text(reader, key, node, err);

    return text != NULL && read_quantity(reader, key, node, quantity, text, ret_value, err);
}

VALUE_READER(long)
{
    return scalar_quantity(reader, key, node, &a_number, field_of(key, base), err);
}

VALUE_READER(int)
{
    int64_t value = 0;

    if (!scalar_quantity(reader, key, node, &a_number, &value, err))
        return false;
    *(int *) field_of(key, base) = (int) value;
    return true;
}

/* Digits and one point: no exponent, no sign, no locale. */
VALUE_READER(fraction)
{
    const char *text = scalar_text(reader, key, node, err);
    double value = 0, unit = 1;
    bool has_point = false, has_digit = false;

    if (text == NULL)
        return false;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '.' && !has_point) {
            has_point = true;
            continue;
        }
        if (*p < '0' || *p > '9' || p - text > 12)
            return value_fail(reader, key, node, err, "not a fraction (0.5)");
        has_digit = true;
        if (has_point)
            unit /= 10;
        value = has_point ? value + (*p - '0') * unit : value * 10 + (*p - '0');
    }
    if (!has_digit)
        return value_fail(reader, key, node, err, "not a fraction (0.5)");
    if (value > 1)
        return value_fail(reader, key, node, err, "%s is out of range: 0 to 1",
                          value_quote(reader->arena, text));
    *(double *) field_of(key, base) = value;
    return true;
}

VALUE_READER(size)
{
    return scalar_quantity(reader, key, node, &a_size, field_of(key, base), err);
}

/* 20MB and 20MB/s say the same. */
VALUE_READER(rate)
{
    const char *text = scalar_text(reader, key, node, err);
    size_t len;

    if (text == NULL)
        return false;
    len = strlen(text);
    if (len > 2 && strcmp(text + len - 2, "/s") == 0)
        text = arena_strndup(reader->arena, text, len - 2);
    return read_quantity(reader, key, node, &a_size, text, field_of(key, base), err);
}

VALUE_READER(duration)
{
    return scalar_quantity(reader, key, node, &a_duration, field_of(key, base), err);
}

VALUE_READER(retention)
{
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (strcmp(text, "never") == 0) {
        *(int64_t *) field_of(key, base) = -1;
        return true;
    }
    if (!read_quantity(reader, key, node, &a_duration, text, field_of(key, base), err))
        return hint_at(err, "a duration such as 7d, 0, or never");
    return true;
}

VALUE_READER(heartbeat)
{
    struct config *config = base;
    const char *text = scalar_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (strcmp(text, "auto") == 0 || strcmp(text, "off") == 0) {
        config->source.heartbeat = text[0] == 'a' ? HEARTBEAT_AUTO : HEARTBEAT_OFF;
        return true;
    }
    if (!read_quantity(reader, key, node, &a_duration, text, &config->source.heartbeat_interval_us,
                       err))
        return hint_at(err, "auto, off, or a duration such as 10s");
    config->source.heartbeat = HEARTBEAT_ON;
    return true;
}

/* The address alone, without its port: "127.0.0.1", "[::1]", "localhost"; NULL where it is none. */
static const char *read_address(struct arena *arena, const char *text, size_t len)
{
    const bool is_v6 = len > 2 && text[0] == '[' && text[len - 1] == ']';
    const char *address = is_v6 ? arena_strndup(arena, text + 1, len - 2)
                                : arena_strndup(arena, text, len);
    unsigned char bytes[sizeof(struct in6_addr)];

    if (strcmp(address, "localhost") == 0)
        return "127.0.0.1";
    return inet_pton(is_v6 ? AF_INET6 : AF_INET, address, bytes) == 1 ? address : NULL;
}

bool config_parse_listen(const char *text, struct arena *arena, const char **ret_host,
                         int *ret_port, struct error *err)
{
    const char *colon = strrchr(text, ':'), *digits = colon ? colon + 1 : text;
    char *end;
    const long port = strtol(digits, &end, 10);
    const char *host = colon ? read_address(arena, text, (size_t) (colon - text)) : "127.0.0.1";

    if (host == NULL || digits[0] < '0' || digits[0] > '9' || *end != '\0' || port < 1 ||
        port > UINT16_MAX) {
        error_set(err, ERROR_CONFIG, "%s is not an address and a port", value_quote(arena, text));
        return error_hint(err, "write 127.0.0.1:8432, [::1]:8432, or 0.0.0.0:8432 for everybody");
    }
    *ret_host = host;
    *ret_port = (int) port;
    return true;
}

/* A name could be of several addresses, or of another one tomorrow: who opens a port says which. */
VALUE_READER(listen)
{
    struct config *config = base;
    const char *text = scalar_text(reader, key, node, err);

    return text != NULL &&
           (config_parse_listen(text, reader->arena, &config->http.host, &config->http.port, err) ||
            fail_with(reader, key, node, err));
}

/* ---- lists ---- */

static bool list_node(const struct value_reader *reader, const struct value_key *key,
                      const struct tree *node, struct error *err)
{
    if (node->kind != TREE_LIST) {
        value_fail(reader, key, node, err, "a list is expected here");
        return error_hint(err, "write [one, another], or one per line behind dashes");
    }
    if (node->count == 0)
        return value_fail(reader, key, node, err, "the list is empty");
    if (node->count > MAX_LIST)
        return value_fail(reader, key, node, err, "more than %d entries", MAX_LIST);
    return true;
}

static bool read_names(const struct value_reader *reader, const struct value_key *key,
                       const struct tree *node, int *ret_count, const char ***ret_names,
                       struct error *err)
{
    const char **names;
    int count = 0;

    if (!list_node(reader, key, node, err))
        return false;
    names = arena_new(reader->arena, const char *, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        names[count] = identifier(reader, key, child, err);
        if (names[count] == NULL)
            return false;
        for (int i = 0; i < count; i++)
            if (strcmp(names[i], names[count]) == 0)
                return value_fail(reader, key, child, err, "%s is there twice",
                                  value_quote(reader->arena, child->text));
        count++;
    }
    *ret_count = count;
    *ret_names = names;
    return true;
}

VALUE_READER(names)
{
    return read_names(reader, key, node, (int *) ((char *) base + key->count), field_of(key, base),
                      err);
}

VALUE_READER(index_choice)
{
    static const char *const words[] = {"copy", "none", NULL};
    struct config_index_choice *choice = field_of(key, base);
    int index;

    if (node->kind == TREE_LIST) {
        if (!read_names(reader, key, node, &choice->count, &choice->names, err))
            return false;
        choice->kind = INDEXES_LIST;
        return true;
    }
    index = word_index(reader, key, node, words, err);
    if (index < 0)
        return hint_at(err, "copy, none, or a list of the source's indexes: [orders_day_idx]");
    choice->kind = index == 0 ? INDEXES_COPY : INDEXES_NONE;
    return true;
}

VALUE_READER(masks)
{
    static const char *const words[] = {"null", "hash", NULL};
    struct config_mask *masks;
    int count = 0, index;

    if (node->kind != TREE_MAPPING || node->count == 0) {
        value_fail(reader, key, node, err, "columns with null or hash are expected here");
        return error_hint(err, "write {email: hash, phone: null}");
    }
    if (node->count > MAX_LIST)
        return value_fail(reader, key, node, err, "more than %d columns", MAX_LIST);
    masks = arena_new(reader->arena, struct config_mask, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        if (strlen(child->name) > MAX_IDENTIFIER)
            return config_error_at(reader->config, child->name_place, err,
                                   "%s: %s is longer than PostgreSQL's %d bytes", key->path,
                                   value_quote(reader->arena, child->name), MAX_IDENTIFIER);
        index = word_index(reader, key, child, words, err);
        if (index < 0)
            return false;
        for (int i = 0; i < count; i++)
            if (strcmp(masks[i].column, child->name) == 0)
                return config_error_at(reader->config, child->name_place, err,
                                       "%s: the column %s is there twice", key->path,
                                       value_quote(reader->arena, child->name));
        masks[count].column = child->name;
        masks[count++].mask = index == 0 ? MASK_NULL : MASK_HASH;
    }
    *(int *) ((char *) base + key->count) = count;
    *(struct config_mask **) field_of(key, base) = masks;
    return true;
}

/*
 * What a fact's declaration has that other values do not: the key, a list of columns or names with
 * expressions, joins, "a.x = b.y", and the query of its derived table.  Whether tables and columns exist, and whether the joins
 * form a tree, is not known here (src/ledger/fact.h).
 */
#include "config/value.h"

#include "base/buf.h"

#include <ctype.h>
#include <string.h>

#define MAX_KEYS       16
#define MAX_JOINS      16
#define MAX_KEY_NAME   63
#define MAX_EXPRESSION 2000

static void *field_of(const struct value_key *key, void *base)
{
    return (char *) base + key->offset;
}

/* ---- the key ---- */

/* The ledger has columns of its own, among them keys$1 and so on (migrations/0025_key_arrays.sql), and
 * those of every table. */
static bool is_taken(const char *name)
{
    static const char *const taken[] = {"batch_id", "lane", "node", "tableoid", "xmin",
                                        "cmin",     "xmax", "cmax", "ctid"};

    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
        if (strcmp(name, taken[i]) == 0)
            return true;
    return strncmp(name, "keys$", strlen("keys$")) == 0;
}

/* text: the expression, or the column of that name. */
static bool check_key_name(const struct value_reader *reader, const char *name, const char *text,
                           struct config_place place, struct error *err)
{
    if (is_taken(name)) {
        config_error_at(reader->config, place, err,
                        "a key column cannot be named %s: the ledger has a column of that name",
                        name);
        return error_hint(err, "give it another name: key: {order_%s: %s}", name, text);
    }
    if (strlen(name) > MAX_KEY_NAME)
        return config_error_at(reader->config, place, err,
                               "%s is longer than PostgreSQL's %d bytes",
                               value_quote(reader->arena, name), MAX_KEY_NAME);
    return true;
}

static bool key_error(const struct value_reader *reader, const struct value_key *key,
                      const struct tree *node, struct error *err, const char *what)
{
    value_fail(reader, key, node, err, "%s", what);
    return error_hint(err, "write [id], or {day: \"(created_at at time zone 'UTC')::date\"}");
}

VALUE_READER(fact_key)
{
    struct config_fact_key *keys;
    int count = 0;

    if (node->kind == TREE_SCALAR)
        return key_error(reader, key, node, err, "a list of columns or a mapping is expected here");
    if (node->count == 0)
        return key_error(reader, key, node, err, "the key is empty");
    if (node->count > MAX_KEYS)
        return value_fail(reader, key, node, err, "more than %d columns", MAX_KEYS);
    keys = arena_new(reader->arena, struct config_fact_key, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        const bool is_named = node->kind == TREE_MAPPING;
        const char *text = value_text(reader, key, child, err);

        if (text == NULL)
            return false;
        keys[count] = (struct config_fact_key){
            .place = child->place,
            .name = is_named ? child->name : text,
            .expression = is_named ? text : NULL,
        };
        if (strlen(text) > MAX_EXPRESSION)
            return value_fail(reader, key, child, err, "longer than %d bytes", MAX_EXPRESSION);
        if (!check_key_name(reader, keys[count].name, text,
                            is_named ? child->name_place : child->place, err))
            return false;
        for (int i = 0; i < count; i++)
            if (strcmp(keys[i].name, keys[count].name) == 0)
                return value_fail(reader, key, child, err, "%s is there twice",
                                  value_quote(reader->arena, keys[count].name));
        count++;
    }
    *(int *) ((char *) base + key->count) = count;
    *(struct config_fact_key **) field_of(key, base) = keys;
    return true;
}

/* ---- joins ---- */

static const char *skip_space(const char *p)
{
    while (isspace((unsigned char) *p))
        p++;
    return p;
}

/* A name, quoted as in SQL or bare; taken as it is written, as table patterns are. */
static bool read_name(const char **text, struct arena *arena, const char **ret_name)
{
    _cleanup_buf_ struct buf name = {0};
    const char *p = *text;

    if (*p == '"') {
        for (p++; *p != '\0'; p++) {
            if (*p == '"' && p[1] != '"')
                break;
            p += *p == '"';
            buf_add_char(&name, *p);
        }
        if (*p++ != '"')
            return false;
    } else {
        const size_t len = strcspn(p, " \t\r\n.=\",;'()");

        buf_add_bytes(&name, p, len);
        p += len;
    }
    if (name.len == 0)
        return false;
    *ret_name = arena_strdup(arena, buf_text(&name));
    *text = p;
    return true;
}

static bool read_side(const char **text, struct arena *arena, struct config_join *join, int side)
{
    *text = skip_space(*text);
    if (!read_name(text, arena, &join->side[side].node) || **text != '.')
        return false;
    (*text)++;
    return read_name(text, arena, &join->side[side].column);
}

static bool read_join(const struct value_reader *reader, const struct value_key *key,
                      const struct tree *node, struct config_join *ret_join, struct error *err)
{
    const char *text = value_text(reader, key, node, err), *p = text;
    struct config_join join = {.place = node->place};

    if (text == NULL)
        return false;
    if (read_side(&p, reader->arena, &join, 0) && *(p = skip_space(p)) == '=') {
        p++;
        if (read_side(&p, reader->arena, &join, 1) && *skip_space(p) == '\0') {
            *ret_join = join;
            return true;
        }
    }
    /* "=" would make value_quote() think of a password. */
    value_fail(reader, key, node, err, "not an equality of two columns");
    return error_hint(err, "write customers.id = orders.customer_id; several of them as a list; a "
                           "table that is there twice by its alias (as: …)");
}

VALUE_READER(joins)
{
    const bool is_list = node->kind == TREE_LIST;
    struct config_join *joins;
    int count = 0;

    if (node->kind == TREE_MAPPING || (is_list && node->count == 0)) {
        value_fail(reader, key, node, err, "an equality or a list of them is expected here");
        return error_hint(err, "write join: customers.id = orders.customer_id");
    }
    if (is_list && node->count > MAX_JOINS)
        return value_fail(reader, key, node, err, "more than %d equalities", MAX_JOINS);
    joins = arena_new(reader->arena, struct config_join, is_list ? node->count : 1);
    if (!is_list && !read_join(reader, key, node, &joins[count++], err))
        return false;
    for (const struct tree *child = node->first; is_list && child != NULL; child = child->next)
        if (!read_join(reader, key, child, &joins[count++], err))
            return false;
    *(int *) ((char *) base + key->count) = count;
    *(struct config_join **) field_of(key, base) = joins;
    return true;
}

/* ---- queries ---- */

/* Braces other than {keys} are SQL's own; ${ENV} is not expanded: a query holds no secrets. */
VALUE_READER(query)
{
    size_t len;

    if (node->kind != TREE_SCALAR)
        return value_fail(reader, key, node, err, "a query is expected here");
    len = strlen(node->text);
    while (len > 0 && (isspace((unsigned char) node->text[len - 1]) || node->text[len - 1] == ';'))
        len--;
    if (len == 0)
        return value_fail(reader, key, node, err, "has no value");
    *(const char **) field_of(key, base) = arena_strndup(reader->arena, node->text, len);
    return true;
}

VALUE_READER(key_columns)
{
    struct config_key_column *keys;
    int count = 0;

    if (node->kind != TREE_MAPPING || node->count == 0 || node->count > MAX_KEYS) {
        value_fail(reader, key, node, err, "the fact's key columns by name are expected here");
        return error_hint(err, "write {id: bill_id}, where the query calls the fact's id bill_id");
    }
    keys = arena_new(reader->arena, struct config_key_column, node->count);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        const char *text = value_text(reader, key, child, err);

        if (text == NULL)
            return false;
        if (strlen(text) > MAX_KEY_NAME)
            return value_fail(reader, key, child, err, "%s is longer than PostgreSQL's %d bytes",
                              value_quote(reader->arena, text), MAX_KEY_NAME);
        keys[count++] = (struct config_key_column){child->name_place, child->name, text};
    }
    *(int *) ((char *) base + key->count) = count;
    *(struct config_key_column **) field_of(key, base) = keys;
    return true;
}

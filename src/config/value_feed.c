/*
 * What a feed's declaration has that other values do not: what is sent for a key that has vanished,
 * a command and its arguments, headers, and how many requests there may be in a time.
 */
#include "config/value.h"

#include <ctype.h>
#include <string.h>

#define MAX_ARGUMENTS 64
#define MAX_HEADERS   64

static void *field_of(const struct value_key *key, void *base)
{
    return (char *) base + key->offset;
}

VALUE_READER(vanished)
{
    struct config_feed *feed = base;
    const char *query = NULL;
    const struct value_key as_query = {key->path, value_read_query};

    if (!value_read_query(reader, &as_query, node, &query, err))
        return error_hint(err, "delete, nothing, or a query over {keys}");
    feed->vanished = VANISHED_QUERY;
    if (strcmp(query, "delete") == 0)
        feed->vanished = VANISHED_DELETE;
    else if (strcmp(query, "nothing") == 0)
        feed->vanished = VANISHED_NOTHING;
    else if (strstr(query, "{keys}") == NULL) {
        value_fail(reader, key, node, err, "neither delete nor nothing, nor a query over {keys}");
        return error_hint(err, "write: select k.id, true as deleted from {keys} k");
    } else
        feed->vanished_query = query;
    return true;
}

/* A program and its arguments, NULL behind the last.  Not a shell's line: nothing is split. */
VALUE_READER(command)
{
    const char **words;
    int count = 0;

    if (node->kind != TREE_LIST || node->count == 0) {
        value_fail(reader, key, node, err, "a program and its arguments are expected here");
        return error_hint(err, "write [/usr/local/bin/to-crm, --bulk], or [sh, -c, \"…\"]");
    }
    if (node->count > MAX_ARGUMENTS)
        return value_fail(reader, key, node, err, "more than %d words", MAX_ARGUMENTS);
    words = arena_new(reader->arena, const char *, node->count + 1);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        words[count] = value_text(reader, key, child, err);
        if (words[count++] == NULL)
            return false;
    }
    *(const char ***) field_of(key, base) = words;
    return true;
}

static bool is_token(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        if (!isalnum((unsigned char) *p) && strchr("!#$%&'*+-.^_`|~", *p) == NULL)
            return false;
    return *text != '\0';
}

/* "Name: value" each, NULL behind the last. */
VALUE_READER(headers)
{
    const char **headers;
    int count = 0;

    if (node->kind != TREE_MAPPING || node->count == 0) {
        value_fail(reader, key, node, err, "headers and their values are expected here");
        return error_hint(err, "write {X-Api-Key: \"${CRM_KEY}\"}");
    }
    if (node->count > MAX_HEADERS)
        return value_fail(reader, key, node, err, "more than %d headers", MAX_HEADERS);
    headers = arena_new(reader->arena, const char *, node->count + 1);
    for (const struct tree *child = node->first; child != NULL; child = child->next) {
        const char *text = value_text(reader, key, child, err);

        if (text == NULL)
            return false;
        if (!is_token(child->name))
            return config_error_at(reader->config, child->name_place, err,
                                   "%s: %s is not the name of a header", key->path,
                                   value_quote(reader->arena, child->name));
        if (strpbrk(text, "\r\n") != NULL)
            return value_fail(reader, key, child, err, "a header is one line");
        headers[count++] = arena_printf(reader->arena, "%s: %s", child->name, text);
    }
    *(const char ***) field_of(key, base) = headers;
    return true;
}

/* "10/s", "600/min", "1000/h": the time from one request to the next, in microseconds. */
VALUE_READER(frequency)
{
    static const struct {
        const char *unit;
        int64_t us;
    } units[] = {{"/s", 1000000}, {"/min", 60000000}, {"/h", 3600000000}};
    const char *text = value_text(reader, key, node, err), *p = text;
    int64_t number = 0;

    if (text == NULL)
        return false;
    for (; isdigit((unsigned char) *p) && number < 1000000; p++)
        number = number * 10 + *p - '0';
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (number > 0 && strcmp(p, units[i].unit) == 0) {
            *(int64_t *) field_of(key, base) = units[i].us / number;
            return true;
        }
    value_fail(reader, key, node, err, "%s is not so many requests in a time",
               value_quote(reader->arena, node->text));
    return error_hint(err, "write 10/s, 600/min or 1000/h");
}

VALUE_READER(text)
{
    const char *text = value_text(reader, key, node, err);

    if (text == NULL)
        return false;
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(line)
{
    const char *text = value_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (strpbrk(text, "\r\n") != NULL)
        return value_fail(reader, key, node, err, "has to be one line");
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(token)
{
    const char *text = value_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (!is_token(text))
        return value_fail(reader, key, node, err, "%s is not the name of a header",
                          value_quote(reader->arena, node->text));
    *(const char **) field_of(key, base) = text;
    return true;
}

VALUE_READER(url)
{
    const char *text = value_text(reader, key, node, err);

    if (text == NULL)
        return false;
    if (strncmp(text, "https://", 8) != 0 && strncmp(text, "http://", 7) != 0) {
        value_fail(reader, key, node, err, "not an address that begins with https:// or http://");
        return false;
    }
    if (strchr(text, '@') != NULL && strcspn(text + 8, "/?#") > strcspn(text + 8, "@")) {
        value_fail(reader, key, node, err, "a user or a password has no place in the address");
        return error_hint(err, "write basic: \"USER:${PASSWORD}\" beside it");
    }
    *(const char **) field_of(key, base) = text;
    return true;
}

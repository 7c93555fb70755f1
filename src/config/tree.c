/*
 * libyaml's events, one by one, into a tree.  Recursion is bounded by MAX_DEPTH, far above what any
 * key needs.
 *
 * Messages never quote the file: a conninfo with a password may be anywhere in a file that is not
 * well-formed.
 */
#include "config/tree.h"

#include <string.h>
#include <yaml.h>

#define MAX_DEPTH 16

struct builder {
    yaml_parser_t parser;
    const struct config *config;
    struct arena *arena;
    const char *text;
    size_t len;
};

static void cleanup_parser(struct builder *builder)
{
    yaml_parser_delete(&builder->parser);
}

static struct config_place place_of(yaml_mark_t mark)
{
    return (struct config_place){.line = (int) mark.line + 1, .column = (int) mark.column + 1};
}

/* A byte offset as a place, where libyaml gives no mark: columns count characters. */
static struct config_place place_at(const struct builder *b, size_t offset)
{
    struct config_place place = {1, 1};

    for (size_t i = 0; i < offset && i < b->len; i++) {
        if (b->text[i] == '\n')
            place = (struct config_place){place.line + 1, 1};
        else if ((b->text[i] & 0xC0) != 0x80)
            place.column++;
    }
    return place;
}

/* What a beginner stumbles over: characters that begin something else in YAML. */
static bool explain(const struct builder *b, struct error *err)
{
    const yaml_parser_t *parser = &b->parser;
    const char *context = parser->context ? parser->context : "";
    struct config_place begin = place_of(parser->context_mark);

    if (strstr(context, "alias") || strstr(context, "anchor")) {
        config_error_at(b->config, begin, err,
                        "a text that begins with * or & has to be quoted, as in \"*.orders\"");
    } else if (strstr(context, "tag")) {
        config_error_at(b->config, begin, err,
                        "a text that begins with ! has to be quoted, as in \"!public.audit_*\"");
    } else {
        config_error_at(b->config, place_of(parser->problem_mark), err, "not valid YAML: %s%s%s",
                        parser->problem ? parser->problem : "unknown error",
                        context[0] != '\0' ? " " : "", context);
        error_hint(err, "a text with : # , { } [ or ] in it needs quotes");
    }
    return false;
}

static bool yaml_failed(const struct builder *b, struct error *err)
{
    const yaml_parser_t *parser = &b->parser;

    if (parser->error == YAML_READER_ERROR)
        return config_error_at(b->config, place_at(b, parser->problem_offset), err,
                               "not valid UTF-8 text: %s", parser->problem);
    return explain(b, err);
}

static bool next_event(struct builder *b, yaml_event_t *ret_event, struct error *err)
{
    return yaml_parser_parse(&b->parser, ret_event) || yaml_failed(b, err);
}

/* Anchor and tag of a node, whatever its kind, are refused. */
static bool check_plainness(const struct builder *b, const yaml_event_t *event,
                            const yaml_char_t *anchor, const yaml_char_t *tag, struct error *err)
{
    struct config_place place = place_of(event->start_mark);

    if (anchor != NULL)
        return config_error_at(b->config, place, err,
                               "anchors (&) are not understood here; a text that begins with & "
                               "has to be quoted");
    if (tag != NULL)
        return config_error_at(b->config, place, err,
                               "a text that begins with ! has to be quoted, as in "
                               "\"!public.audit_*\"");
    return true;
}

static bool read_scalar(struct builder *b, const yaml_event_t *event, struct tree *node,
                        struct error *err)
{
    const char *value = (const char *) event->data.scalar.value;
    size_t len = event->data.scalar.length;

    node->kind = TREE_SCALAR;
    if (memchr(value, 0, len) != NULL)
        return config_error_at(b->config, node->place, err, "a text with a zero byte in it");
    node->text = arena_strndup(b->arena, value, len);
    return check_plainness(b, event, event->data.scalar.anchor, event->data.scalar.tag, err);
}

static bool read_node(struct builder *b, const yaml_event_t *event, int depth,
                      struct tree **ret_node, struct error *err);

/* The children of a list or a mapping, up to its end event. */
static bool read_children(struct builder *b, struct tree *parent, int depth, struct error *err)
{
    struct tree **link = &parent->first;
    yaml_event_type_t end = parent->kind == TREE_LIST ? YAML_SEQUENCE_END_EVENT
                                                      : YAML_MAPPING_END_EVENT;

    for (;;) {
        struct tree *key = NULL, *child = NULL;
        __attribute__((cleanup(yaml_event_delete))) yaml_event_t event = {0}, value = {0};

        if (!next_event(b, &event, err))
            return false;
        if (event.type == end)
            return true;
        if (parent->kind == TREE_LIST) {
            if (!read_node(b, &event, depth, &child, err))
                return false;
        } else {
            if (!read_node(b, &event, depth, &key, err))
                return false;
            if (key->kind != TREE_SCALAR || key->text[0] == '\0')
                return config_error_at(b->config, key->place, err, "a key has to be a name");
            if (!next_event(b, &value, err) || !read_node(b, &value, depth, &child, err))
                return false;
            child->name = key->text;
            child->name_place = key->place;
        }
        parent->count++;
        *link = child;
        link = &child->next;
    }
}

static bool read_node(struct builder *b, const yaml_event_t *event, int depth,
                      struct tree **ret_node, struct error *err)
{
    struct tree *node = arena_new(b->arena, struct tree, 1);

    *ret_node = node;
    node->place = place_of(event->start_mark);
    if (depth == MAX_DEPTH)
        return config_error_at(b->config, node->place, err, "nested too deeply");
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return read_scalar(b, event, node, err);
    case YAML_SEQUENCE_START_EVENT:
        node->kind = TREE_LIST;
        return check_plainness(b, event, event->data.sequence_start.anchor,
                               event->data.sequence_start.tag, err) &&
               read_children(b, node, depth + 1, err);
    case YAML_MAPPING_START_EVENT:
        node->kind = TREE_MAPPING;
        return check_plainness(b, event, event->data.mapping_start.anchor,
                               event->data.mapping_start.tag, err) &&
               read_children(b, node, depth + 1, err);
    case YAML_ALIAS_EVENT:
        return config_error_at(b->config, node->place, err,
                               "aliases (*) are not understood here; a text that begins with * "
                               "has to be quoted");
    default:
        return config_error_at(b->config, node->place, err, "not understood: YAML event %d",
                               (int) event->type);
    }
}

/* The next event if it is of this type; consumed either way. */
static bool expect(struct builder *b, yaml_event_type_t type, bool *ret_is_it,
                   struct config_place *ret_place, struct error *err)
{
    __attribute__((cleanup(yaml_event_delete))) yaml_event_t event = {0};

    if (!next_event(b, &event, err))
        return false;
    *ret_is_it = event.type == type;
    *ret_place = place_of(event.start_mark);
    return true;
}

static bool read_document(struct builder *b, struct tree **ret_root, struct error *err)
{
    __attribute__((cleanup(yaml_event_delete))) yaml_event_t event = {0};
    struct config_place place;
    struct tree *root;
    bool is_it;

    if (!expect(b, YAML_STREAM_START_EVENT, &is_it, &place, err) ||
        !expect(b, YAML_DOCUMENT_START_EVENT, &is_it, &place, err))
        return false;
    if (!is_it)
        return config_error_at(b->config, (struct config_place){1, 1}, err, "the file is empty");
    if (!next_event(b, &event, err) || !read_node(b, &event, 0, &root, err) ||
        !expect(b, YAML_DOCUMENT_END_EVENT, &is_it, &place, err) ||
        !expect(b, YAML_STREAM_END_EVENT, &is_it, &place, err))
        return false;
    if (!is_it)
        return config_error_at(b->config, place, err,
                               "a second document begins here: the configuration is one");
    *ret_root = root;
    return true;
}

bool tree_parse(const struct config *config, const char *text, size_t len, struct arena *arena,
                struct tree **ret_root, struct error *err)
{
    __attribute__((cleanup(cleanup_parser))) struct builder b = {
        .config = config, .arena = arena, .text = text, .len = len};

    if (!yaml_parser_initialize(&b.parser))
        return error_set(err, ERROR_FAILED, "%s: libyaml does not start", config->file);
    yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b.parser, (const unsigned char *) text, len);
    return read_document(&b, ret_root, err);
}

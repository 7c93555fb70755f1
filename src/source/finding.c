/* A growing list in an arena.  It does not print: src/cli does. */
#include "source/finding.h"

#include <stdarg.h>
#include <stdio.h>

static const char *format_text(struct arena *arena, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

static const char *format_text(struct arena *arena, const char *format, va_list args)
{
    va_list again;
    int len;
    char *text;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (len < 0)
        return "";
    text = arena_alloc(arena, (size_t) len + 1);
    vsnprintf(text, (size_t) len + 1, format, args);
    return text;
}

struct finding *finding_add(struct finding_list *list, const char *name, enum finding_level level,
                            const char *format, ...)
{
    struct finding *finding;
    va_list args;

    if (list->count == list->size) {
        int size = list->size ? list->size * 2 : 32;
        struct finding *bigger = arena_new(list->arena, struct finding, size);

        if (list->count > 0)
            memcpy(bigger, list->items, sizeof(*bigger) * (size_t) list->count);
        list->items = bigger;
        list->size = size;
    }
    finding = &list->items[list->count++];
    *finding = (struct finding){.name = name, .level = level, .why = "", .remedy = ""};
    va_start(args, format);
    finding->what = format_text(list->arena, format, args);
    va_end(args);
    return finding;
}

void finding_why(struct finding_list *list, struct finding *finding, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    finding->why = format_text(list->arena, format, args);
    va_end(args);
}

void finding_remedy(struct finding_list *list, struct finding *finding, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    finding->remedy = format_text(list->arena, format, args);
    va_end(args);
}

int finding_count(const struct finding_list *list, enum finding_level level)
{
    int count = 0;

    for (int i = 0; i < list->count; i++)
        count += list->items[i].level == level;
    return count;
}

bool finding_none_wrong(const struct finding_list *list, struct error *err)
{
    for (int i = 0; i < list->count; i++) {
        const struct finding *finding = &list->items[i];

        if (finding->level != FINDING_ERROR)
            continue;
        error_set(err, ERROR_FINDINGS, "%s%s%s", finding->what, finding->why[0] ? ": " : "",
                  finding->why);
        return error_hint(err, "%s", finding->remedy);
    }
    return true;
}

const char *finding_level_name(enum finding_level level)
{
    static const char *const names[] = {
        [FINDING_OK] = "ok", [FINDING_WARNING] = "warning", [FINDING_ERROR] = "error"};

    return names[level];
}

/* Formatting of struct error, and the one table of kinds. */
#include "tailwater/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int exit_code;
} kinds[] = {
    [ERROR_NONE] = {"none", 0},         [ERROR_CONFIG] = {"config", 2},
    [ERROR_FINDINGS] = {"findings", 3}, [ERROR_SOURCE] = {"source", 4},
    [ERROR_MIRROR] = {"mirror", 5},     [ERROR_SLOT] = {"slot", 6},
    [ERROR_BUSY] = {"busy", 7},         [ERROR_RETRY] = {"retry", 75},
    [ERROR_DATA] = {"data", 1},         [ERROR_PROTOCOL] = {"protocol", 1},
    [ERROR_FAILED] = {"failed", 1},     [ERROR_BUG] = {"bug", 1},
};

/* A text that was cut off ends with a whole character: logs and JSON are UTF-8. */
static void end_whole(char *text, size_t size)
{
    size_t len = strlen(text), last = len;

    if (len + 1 < size)
        return;
    while (last > 0 && ((unsigned char) text[last - 1] & 0xC0) == 0x80)
        last--;
    if (last > 0 && (unsigned char) text[last - 1] >= 0xC0)
        text[last - 1] = '\0';
}

bool error_set(struct error *err, enum error_kind kind, const char *format, ...)
{
    va_list args;

    err->kind = kind;
    err->sqlstate[0] = '\0';
    err->hint[0] = '\0';
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    end_whole(err->message, sizeof(err->message));
    return false;
}

bool error_hint(struct error *err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(err->hint, sizeof(err->hint), format, args);
    va_end(args);
    end_whole(err->hint, sizeof(err->hint));
    return false;
}

bool error_wrap(struct error *err, const char *format, ...)
{
    char old[sizeof(err->message)];
    va_list args;
    size_t len;

    memcpy(old, err->message, sizeof(old));
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    len = strlen(err->message);
    snprintf(err->message + len, sizeof(err->message) - len, ": %s", old);
    end_whole(err->message, sizeof(err->message));
    return false;
}

int error_exit_code(enum error_kind kind)
{
    return kinds[kind].exit_code;
}

const char *error_kind_name(enum error_kind kind)
{
    return kinds[kind].name;
}

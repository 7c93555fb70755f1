/*
 * Text:  2026-11-22T01:40:00.123Z INFO    copied public.orders … [copy_done]
 * JSON:  {"time":"…","level":"info","event":"copy_done","pipeline":"main","message":"…"}
 * A line is written with one write(), so that threads do not mix.
 */
#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"

#include <stdarg.h>
#include <unistd.h>

static struct {
    enum log_format format;
    enum log_level level;
    char pipeline[64];
} settings = {.level = LOG_INFO};

static const char *const text_levels[] = {"DEBUG  ", "INFO   ", "WARNING", "ERROR  "};
static const char *const json_levels[] = {"debug", "info", "warning", "error"};

void log_configure(enum log_format format, enum log_level level, const char *pipeline)
{
    settings.format = format;
    settings.level = level;
    settings.pipeline[0] = '\0';
    if (pipeline)
        strncat(settings.pipeline, pipeline, sizeof(settings.pipeline) - 1);
}

bool log_is_on(enum log_level level)
{
    return level >= settings.level;
}

static void add_field(struct buf *line, const char *name, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    buf_printf(line, ",\"%s\":", name);
    buf_add_json(line, value);
}

static void write_line(enum log_level level, const char *event, const char *message,
                       const struct error *err)
{
    _cleanup_buf_ struct buf line = {0};
    char time[CLOCK_TEXT_SIZE];
    const char *sqlstate = err ? err->sqlstate : "", *hint = err ? err->hint : "";

    clock_text(clock_now_us(), time);
    if (settings.format == LOG_JSON) {
        buf_printf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\"", time,
                   json_levels[level], event);
        add_field(&line, "pipeline", settings.pipeline);
        add_field(&line, "message", message);
        add_field(&line, "sqlstate", sqlstate);
        add_field(&line, "hint", hint);
        buf_add(&line, "}\n");
    } else {
        buf_printf(&line, "%s %s ", time, text_levels[level]);
        buf_add_shown(&line, message);
        if (hint[0] != '\0') {
            buf_add(&line, "; ");
            buf_add_shown(&line, hint);
        }
        buf_printf(&line, " [%s]\n", event);
    }
    if (write(STDERR_FILENO, line.data, line.len) < 0)
        return; /* nowhere left to say so */
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    _cleanup_buf_ struct buf message = {0};
    va_list args;

    if (!log_is_on(level))
        return;
    va_start(args, format);
    buf_vprintf(&message, format, args);
    va_end(args);
    write_line(level, event, buf_text(&message), NULL);
}

void log_error(enum log_level level, const char *event, const struct error *err)
{
    if (log_is_on(level))
        write_line(level, event, err->message, err);
}

/*
 * Text:  2026-11-22T01:40:00.123Z INFO    copied public.orders … [copy_done]
 * JSON:  {"time":"…","level":"info","event":"copy_done","pipeline":"main","message":"…"}
 * A line is written with one write(), so that threads do not mix.  The newest ones are kept as JSON.
 */
#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/human.h"

#include <pthread.h>
#include <stdarg.h>
#include <unistd.h>

static struct {
    enum log_format format;
    enum log_level level;
    char pipeline[64];
    char file[4096]; /* "": none */
} settings = {.level = LOG_INFO};

static const char *const text_levels[] = {"DEBUG  ", "INFO   ", "WARNING", "ERROR  "};
static const char *const json_levels[] = {"debug", "info", "warning", "error"};

void log_configure(enum log_format format, enum log_level level, const char *pipeline,
                   const char *file)
{
    settings.format = format;
    settings.level = level;
    settings.pipeline[0] = '\0';
    if (pipeline)
        strncat(settings.pipeline, pipeline, sizeof(settings.pipeline) - 1);
    settings.file[0] = '\0';
    if (file != NULL && strlen(file) < sizeof(settings.file))
        snprintf(settings.file, sizeof(settings.file), "%s", file);
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

static void add_json_line(struct buf *line, const char *time, enum log_level level,
                          const char *event, const char *message, const char *sqlstate,
                          const char *hint)
{
    buf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\"", time, json_levels[level],
               event);
    add_field(line, "pipeline", settings.pipeline);
    add_field(line, "message", message);
    add_field(line, "sqlstate", sqlstate);
    add_field(line, "hint", hint);
    buf_add_char(line, '}');
}

/* ---- the newest lines ---- */

static struct {
    pthread_mutex_t mutex;
    struct buf lines[LOG_RECENT]; /* JSON, a ring */
    int next;
} recent = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void keep(const char *time, enum log_level level, const char *event, const char *message,
                 const char *sqlstate, const char *hint)
{
    struct buf *line;

    pthread_mutex_lock(&recent.mutex);
    line = &recent.lines[recent.next];
    recent.next = (recent.next + 1) % LOG_RECENT;
    buf_clear(line);
    add_json_line(line, time, level, event, message, sqlstate, hint);
    pthread_mutex_unlock(&recent.mutex);
}

void log_add_recent(struct buf *json)
{
    const char *comma = "";

    buf_add_char(json, '[');
    pthread_mutex_lock(&recent.mutex);
    for (int i = 1; i <= LOG_RECENT; i++) {
        const struct buf *line = &recent.lines[(recent.next - i + LOG_RECENT) % LOG_RECENT];

        if (line->len == 0)
            break;
        buf_printf(json, "%s%s", comma, buf_text(line));
        comma = ", ";
    }
    pthread_mutex_unlock(&recent.mutex);
    buf_add_char(json, ']');
}

/* ---- a line ---- */

static void write_line(enum log_level level, const char *event, const char *text,
                       const struct error *err)
{
    _cleanup_buf_ struct buf line = {0}, words = {0}, remedy = {0};
    const char *file = settings.file[0] ? settings.file : NULL;
    const char *sqlstate = err ? err->sqlstate : NULL, *message, *hint;
    char time[CLOCK_TEXT_SIZE];

    human_commands(text, file, &words);
    human_commands(err ? err->hint : "", file, &remedy);
    message = buf_text(&words);
    hint = buf_text(&remedy);
    clock_text(clock_now_us(), time);
    if (level >= LOG_INFO)
        keep(time, level, event, message, sqlstate, hint);
    if (!log_is_on(level))
        return;
    if (settings.format == LOG_JSON) {
        add_json_line(&line, time, level, event, message, sqlstate, hint);
        buf_add_char(&line, '\n');
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

    if (!log_is_on(level) && level < LOG_INFO)
        return;
    va_start(args, format);
    buf_vprintf(&message, format, args);
    va_end(args);
    write_line(level, event, buf_text(&message), NULL);
}

void log_error(enum log_level level, const char *event, const struct error *err)
{
    write_line(level, event, err->message, err);
}

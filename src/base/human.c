#include "base/human.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *human_duration(int64_t us, char text[static HUMAN_TEXT_SIZE])
{
    static const struct {
        int64_t seconds;
        const char *name;
        int64_t part; /* of the second word */
        const char *part_name;
    } units[] = {{86400, "d", 3600, "h"}, {3600, "h", 60, "min"}, {60, "min", 1, "s"}};
    int64_t seconds = us / 1000000;

    if (us < 0)
        us = 0;
    for (int i = 0; i < 3; i++)
        if (seconds >= units[i].seconds) {
            snprintf(text, HUMAN_TEXT_SIZE, "%lld %s %lld %s",
                     (long long) (seconds / units[i].seconds), units[i].name,
                     (long long) (seconds % units[i].seconds / units[i].part), units[i].part_name);
            return text;
        }
    if (us >= 10000000)
        snprintf(text, HUMAN_TEXT_SIZE, "%lld s", (long long) seconds);
    else if (us >= 100000 || us == 0)
        snprintf(text, HUMAN_TEXT_SIZE, "%.1f s", (double) us / 1e6);
    else
        snprintf(text, HUMAN_TEXT_SIZE, "%.1f ms", (double) us / 1e3);
    return text;
}

static const char *scale(double value, double step, const char *const *names, int count,
                         const char *prefix, char text[static HUMAN_TEXT_SIZE])
{
    int i = 0;

    while (value >= step * 0.9995 && i < count - 1) {
        value /= step;
        i++;
    }
    snprintf(text, HUMAN_TEXT_SIZE, value < 99.95 && i > 0 ? "%s%.1f%s%s" : "%s%.0f%s%s", prefix,
             value, names[i][0] ? " " : "", names[i]);
    return text;
}

const char *human_bytes(int64_t bytes, char text[static HUMAN_TEXT_SIZE])
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

    return scale(bytes > 0 ? (double) bytes : 0, 1024, names, 6, "", text);
}

const char *human_estimate(int64_t count, char text[static HUMAN_TEXT_SIZE])
{
    static const char *const names[] = {"", "k", "M", "G", "T"};

    if (count < 0) {
        snprintf(text, HUMAN_TEXT_SIZE, "?");
        return text;
    }
    return scale((double) count, 1000, names, 5, count > 0 ? "~" : "", text);
}

const char *human_age(int64_t us, char text[static HUMAN_TEXT_SIZE])
{
    static const struct {
        int64_t seconds;
        char name;
    } units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
    const int64_t seconds = us > 0 ? us / 1000000 : 0;
    int i = 0;

    while (i < 3 && seconds < units[i].seconds)
        i++;
    snprintf(text, HUMAN_TEXT_SIZE, "%lld%c", (long long) (seconds / units[i].seconds),
             units[i].name);
    return text;
}

/* What a shell takes as it is: these, and what the caller says. */
static bool is_plain(char c, const char *others)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("_.-", c) != NULL || strchr(others, c) != NULL;
}

/* A word for a shell, in quotes where it needs them. */
static void add_word(const char *text, const char *others, struct buf *out)
{
    bool is = true;

    for (const char *p = text; *p != '\0'; p++)
        is &= is_plain(*p, others);
    if (!is)
        buf_add_char(out, '\'');
    for (const char *p = text; *p != '\0'; p++)
        if (*p == '\'')
            buf_add(out, "'\\''");
        else
            buf_add_char(out, *p);
    if (!is)
        buf_add_char(out, '\'');
}

const char *human_table(const char *schema, const char *name, char text[static HUMAN_TABLE_SIZE])
{
    _cleanup_buf_ struct buf table = {0}, word = {0};

    buf_printf(&table, "%s.%s", schema, name);
    add_word(buf_text(&table), "", &word);
    snprintf(text, HUMAN_TABLE_SIZE, "%s", buf_text(&word));
    return text;
}

/* ---- commands ---- */

#define PROGRAM "tailwater "

/* The length of the verb that text begins with, of those that read a configuration; 0: none does. */
static size_t verb_length(const char *text)
{
    static const char *const verbs[] = {"backfill", "check", "destroy", "feed",   "ledger",
                                        "lineage",  "purge", "refresh", "resync", "run",
                                        "status",   "table", "verify"};
    const size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz");

    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strlen(verbs[i]) == len && strncmp(verbs[i], text, len) == 0)
            return len;
    return 0;
}

/* Does the rest of the command name a file? */
static bool has_file(const char *rest)
{
    const size_t len = strcspn(rest, ";,()\n");
    const char *option = strstr(rest, " -c ");

    return option != NULL && (size_t) (option - rest) < len;
}

void human_commands(const char *text, const char *file, struct buf *out)
{
    const char *command;

    while (file != NULL && (command = strstr(text, PROGRAM)) != NULL) {
        const char *verb = command + strlen(PROGRAM);
        const size_t len = verb_length(verb);
        const bool is_word = command == text || strchr(" \n(\"'`", command[-1]) != NULL;

        buf_add_bytes(out, text, (size_t) (verb - text) + len);
        text = verb + len;
        if (is_word && len > 0 && !has_file(text)) {
            buf_add(out, " -c ");
            add_word(file, "/", out);
        }
    }
    buf_add(out, text);
}

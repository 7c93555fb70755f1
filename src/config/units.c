/*
 * Numbers with units.  One table for each kind of quantity, smallest unit first; reading looks a
 * unit up by name, writing takes the last one that divides the number.
 *
 * A number is a whole one and carries exactly one unit: 90min, not 1.5h or 1h30min.  That is less
 * than PostgreSQL's settings take, and nobody has to know how a fraction is rounded.
 */
#include "config/units.h"

#include "config/config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    int64_t factor;
    bool is_alias; /* read, never written */
};

struct quantity {
    const char *noun, *example;
    const struct unit *units;
    int nunits;
};

static const struct unit duration_units[] = {
    {"us", 1},
    {"ms", INT64_C(1000)},
    {"s", INT64_C(1000000)},
    {"min", INT64_C(60000000)},
    {"h", INT64_C(3600000000)},
    {"d", INT64_C(86400000000)},
};

static const struct unit size_units[] = {
    {"B", 1},
    {"kB", INT64_C(1) << 10, true},
    {"KiB", INT64_C(1) << 10},
    {"MB", INT64_C(1) << 20, true},
    {"MiB", INT64_C(1) << 20},
    {"GB", INT64_C(1) << 30, true},
    {"GiB", INT64_C(1) << 30},
    {"TB", INT64_C(1) << 40, true},
    {"TiB", INT64_C(1) << 40},
};

#define COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

static const struct quantity duration = {"a duration", "90s", duration_units,
                                         COUNT(duration_units)};
static const struct quantity size = {"a size", "64MB", size_units, COUNT(size_units)};

/* The units, and the nearest one where the text's is a near miss ("mb"). */
static bool bad_unit(const struct quantity *q, const char *unit, struct error *err)
{
    const char *names[COUNT(size_units)], *near;
    char list[64] = "";

    for (int i = 0; i < q->nunits; i++) {
        names[i] = q->units[i].name;
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? " " : "", names[i]);
    }
    near = config_nearest(unit, names, q->nunits);
    if (unit[0] == '\0')
        error_set(err, ERROR_CONFIG, "%s needs a unit, as in %s", q->noun, q->example);
    else if (near != NULL)
        error_set(err, ERROR_CONFIG, "unknown unit \"%.16s\"; did you mean \"%s\"?", unit, near);
    else
        error_set(err, ERROR_CONFIG, "unknown unit \"%.16s\"", unit);
    return error_hint(err, "the units of %s are %s", q->noun, list);
}

static bool parse(const struct quantity *q, const char *text, int64_t *ret_value, struct error *err)
{
    const char *p = text;
    int64_t number = 0;

    for (; isdigit((unsigned char) *p); p++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, *p - '0', &number))
            return error_set(err, ERROR_CONFIG, "too large for %s", q->noun);
    if (p == text || *p == '.' || *p == ',')
        return error_set(err, ERROR_CONFIG, "not %s (a whole number and a unit, as in %s)", q->noun,
                         q->example);
    if (number == 0 && *p == '\0') {
        *ret_value = 0;
        return true;
    }
    while (*p == ' ')
        p++;
    for (int i = 0; i < q->nunits; i++) {
        if (strcmp(p, q->units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow(number, q->units[i].factor, &number))
            return error_set(err, ERROR_CONFIG, "too large for %s", q->noun);
        *ret_value = number;
        return true;
    }
    return bad_unit(q, p, err);
}

bool config_parse_duration(const char *text, int64_t *ret_us, struct error *err)
{
    return parse(&duration, text, ret_us, err);
}

bool config_parse_size(const char *text, int64_t *ret_bytes, struct error *err)
{
    return parse(&size, text, ret_bytes, err);
}

static const char *write_text(const struct quantity *q, int64_t value, char *text)
{
    const struct unit *best = &q->units[0];

    for (int i = 0; i < q->nunits; i++)
        if (!q->units[i].is_alias && value % q->units[i].factor == 0)
            best = &q->units[i];
    if (value == 0)
        snprintf(text, UNITS_TEXT_SIZE, "0");
    else
        snprintf(text, UNITS_TEXT_SIZE, "%lld%s", (long long) (value / best->factor), best->name);
    return text;
}

const char *units_duration_text(int64_t us, char text[static UNITS_TEXT_SIZE])
{
    return write_text(&duration, us, text);
}

const char *units_size_text(int64_t bytes, char text[static UNITS_TEXT_SIZE])
{
    return write_text(&size, bytes, text);
}

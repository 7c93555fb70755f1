/*
 * Dates and timestamps: ISO text to days and microseconds since 2000-01-01, for all of PostgreSQL's
 * range, BC and infinities included.  timestamptz is read with the offset +00 only, which is what
 * sessions with timezone=UTC print.  time, timetz and interval travel as text.
 */
#include "pg/codec_internal.h"

#define USECS_PER_DAY INT64_C(86400000000)

/* Days since 2000-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC.  Years begin in March
 * here, so that the leap day is a year's last. */
static int64_t days_of(int64_t year, unsigned month, unsigned day)
{
    int64_t era, day_of_era;
    unsigned year_of_era, day_of_year;

    year -= month <= 2;
    era = (year >= 0 ? year : year - 399) / 400;
    year_of_era = (unsigned) (year - era * 400);
    day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    day_of_era = (int64_t) year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 730425;
}

static inline bool two_digits(const char *p, unsigned max, unsigned *ret)
{
    unsigned tens = digit(p[0]), ones = digit(p[1]);

    *ret = tens * 10 + ones;
    return tens <= 9 && ones <= 9 && *ret <= max;
}

/*
 * YYYY-MM-DD at *p, years of four to seven digits; *p moves past it.  is_bc is known already, from
 * the other end of the text.
 */
static bool parse_date(const char **p, const char *end, bool is_bc, int64_t *ret_days)
{
    static const unsigned char days_in_month[] = {0,  31, 29, 31, 30, 31, 30,
                                                  31, 31, 30, 31, 30, 31};
    const char *dash = *p;
    unsigned month, day;
    int64_t year = 0;

    while (dash < end && digit(*dash) <= 9 && dash - *p < 8)
        year = year * 10 + digit(*dash++);
    if (dash - *p < 4 || dash - *p > 7 || end - dash < 6 || dash[0] != '-' || dash[3] != '-' ||
        year == 0)
        return false;
    if (is_bc)
        year = 1 - year;
    if (!two_digits(dash + 1, 12, &month) || month == 0 ||
        !two_digits(dash + 4, days_in_month[month], &day) || day == 0)
        return false;
    if (month == 2 && day == 29 && (year % 4 != 0 || (year % 100 == 0 && year % 400 != 0)))
        return false;
    *p = dash + 6;
    *ret_days = days_of(year, month, day);
    return true;
}

/* Takes " BC" off the end. */
static inline bool take_bc(const char *data, const char **end)
{
    if (*end - data < 3 || memcmp(*end - 3, " BC", 3) != 0)
        return false;
    *end -= 3;
    return true;
}

bool codec_add_date(const char *data, uint32_t len, struct buf *out)
{
    /* 4714-11-24 BC, Julian day 0, and 5874898-01-01, as PostgreSQL's datatype/timestamp.h. */
    const int64_t min_days = -2451545, end_days = INT64_C(2147483494) - 2451545;
    const char *p = data, *end = data + len;
    bool is_bc;
    int64_t days;

    if (is_word(data, len, "infinity"))
        return add_4(out, INT32_MAX);
    if (is_word(data, len, "-infinity"))
        return add_4(out, (uint32_t) INT32_MIN);
    is_bc = take_bc(data, &end);
    if (!parse_date(&p, end, is_bc, &days) || p != end || days < min_days || days >= end_days)
        return false;
    return add_4(out, (uint32_t) (int32_t) days);
}

/* " HH:MM:SS[.f…]" at *p, one to six digits of a fraction; 24:00 and leap seconds are never
 * printed. */
static bool parse_time(const char **p, const char *end, int64_t *ret_us)
{
    const char *t = *p;
    unsigned hour, minute, second;
    int64_t us = 0;

    if (end - t < 9 || t[0] != ' ' || t[3] != ':' || t[6] != ':' || !two_digits(t + 1, 23, &hour) ||
        !two_digits(t + 4, 59, &minute) || !two_digits(t + 7, 59, &second))
        return false;
    t += 9;
    if (t < end && *t == '.') {
        int ndigits = 0;

        for (t++; t < end && digit(*t) <= 9 && ndigits <= 6; t++, ndigits++)
            us = us * 10 + digit(*t);
        if (ndigits == 0 || ndigits > 6)
            return false;
        for (; ndigits < 6; ndigits++)
            us *= 10;
    }
    *p = t;
    *ret_us = ((hour * 60 + minute) * 60 + second) * INT64_C(1000000) + us;
    return true;
}

/* zone is what must stand between the time and " BC": "" or "+00". */
static inline bool add_any_timestamp(const char *data, uint32_t len, const char *zone,
                                     struct buf *out)
{
    /* 4714-11-24 BC up to, not including, 294277-01-01, as PostgreSQL's datatype/timestamp.h. */
    const int64_t min_days = -2451545, end_days = 106751983;
    const char *p = data, *end = data + len;
    size_t zone_len = strlen(zone);
    bool is_bc;
    int64_t days, us;

    if (len == 0 || digit(data[0]) > 9) {
        if (is_word(data, len, "infinity"))
            return add_8(out, INT64_MAX);
        if (is_word(data, len, "-infinity"))
            return add_8(out, (uint64_t) INT64_MIN);
        return false;
    }
    is_bc = take_bc(data, &end);
    if ((size_t) (end - data) < zone_len || memcmp(end - zone_len, zone, zone_len) != 0)
        return false;
    end -= zone_len;
    if (!parse_date(&p, end, is_bc, &days) || !parse_time(&p, end, &us) || p != end ||
        days < min_days || days >= end_days)
        return false;
    return add_8(out, (uint64_t) (days * USECS_PER_DAY + us));
}

bool codec_add_timestamp(const char *data, uint32_t len, struct buf *out)
{
    return add_any_timestamp(data, len, "", out);
}

bool codec_add_timestamptz(const char *data, uint32_t len, struct buf *out)
{
    return add_any_timestamp(data, len, "+00", out);
}

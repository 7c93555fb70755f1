/*
 * numeric: decimal text to groups of four digits with a weight, as numeric_recv() reads them.  The
 * number of digits behind the point (dscale) is kept: 1.0 stays 1.0.  Exponents are never printed
 * and not read here; nor are numbers of more than 8000 digits.
 */
#include "pg/codec_internal.h"

#define NUMERIC_NEGATIVE     0x4000
#define NUMERIC_NAN          0xC000
#define NUMERIC_PLUS_INF     0xD000
#define NUMERIC_MINUS_INF    0xF000
#define NUMERIC_MAX_TEXT_LEN 8000 /* far above what people store, far below what int16 counts */

static bool add_numeric_header(uint16_t ngroups, int weight, uint16_t sign, uint16_t dscale,
                               struct buf *out)
{
    char *to = put_u32(reserve(out, 12), 8 + 2 * (uint32_t) ngroups);

    to = put_u16(to, ngroups);
    to = put_u16(to, (uint16_t) weight);
    to = put_u16(to, sign);
    put_u16(to, dscale);
    written(out, 12 + 2 * (size_t) ngroups);
    return true;
}

static bool add_numeric_word(const char *data, uint32_t len, struct buf *out)
{
    if (is_word(data, len, "NaN"))
        return add_numeric_header(0, 0, NUMERIC_NAN, 0, out);
    if (is_word(data, len, "Infinity"))
        return add_numeric_header(0, 0, NUMERIC_PLUS_INF, 0, out);
    if (is_word(data, len, "-Infinity"))
        return add_numeric_header(0, 0, NUMERIC_MINUS_INF, 0, out);
    return false;
}

/*
 * Groups of four decimal digits around the point: the first group of the integer part may be short,
 * the last one of the fraction is filled with zeros.  place is the value of the next digit inside
 * its group; skipping leading zeros keeps the weight that the first group then has.
 */
bool codec_add_numeric(const char *data, uint32_t len, struct buf *out)
{
    bool is_negative = len > 0 && data[0] == '-';
    const char *p = data + is_negative, *end = data + len;
    const char *point = memchr(p, '.', (size_t) (end - p));
    size_t ninteger, nfraction;
    unsigned group = 0, filled;
    uint16_t ngroups = 0;
    int weight;
    char *first, *to;

    if (len > NUMERIC_MAX_TEXT_LEN)
        return false;
    if (p == end || digit(*p) > 9)
        return add_numeric_word(data, len, out);
    nfraction = point ? (size_t) (end - point) - 1 : 0;
    while (p < end && *p == '0')
        p++;
    ninteger = (size_t) ((point ? point : end) - p);
    weight = (int) ((ninteger + 3) / 4) - 1;
    filled = (4 - ninteger % 4) % 4;

    first = to = reserve(out, 12 + 2 * ((ninteger + 3) / 4 + (nfraction + 3) / 4)) + 12;
    for (; p < end; p++) {
        unsigned d = digit(*p);

        if (d > 9) {
            if (p != point)
                return false;
            continue;
        }
        group = group * 10 + d;
        if (++filled < 4)
            continue;
        if (group == 0 && to == first)
            weight--;
        else
            to = put_u16(to, (uint16_t) group);
        group = filled = 0;
    }
    if (filled > 0 && (group > 0 || to > first)) {
        for (; filled < 4; filled++)
            group *= 10;
        to = put_u16(to, (uint16_t) group);
    }
    while (to > first && to[-1] == 0 && to[-2] == 0)
        to -= 2;
    ngroups = (uint16_t) ((to - first) / 2);
    if (ngroups == 0) {
        weight = 0;
        is_negative = false;
    }
    return add_numeric_header(ngroups, weight, is_negative ? NUMERIC_NEGATIVE : 0,
                              (uint16_t) nfraction, out);
}

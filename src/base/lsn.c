/* The text form is the server's: two hexadecimal halves without leading zeros (pg_lsn.c). */
#include "tailwater/lsn.h"

#include <ctype.h>
#include <stdio.h>

const char *lsn_text(lsn_t lsn, char text[static LSN_TEXT_SIZE])
{
    snprintf(text, LSN_TEXT_SIZE, LSN_FORMAT, LSN_ARGS(lsn));
    return text;
}

/* One half: 1 to 8 hexadecimal digits. */
static const char *parse_half(const char *p, uint32_t *ret_half)
{
    uint32_t half = 0;
    int digits = 0;

    for (; isxdigit((unsigned char) *p) && digits < 8; p++, digits++) {
        int c = tolower((unsigned char) *p);

        half = half << 4 | (uint32_t) (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *ret_half = half;
    return digits > 0 ? p : NULL;
}

bool lsn_parse(const char *text, lsn_t *ret_lsn)
{
    uint32_t high, low;
    const char *p = parse_half(text, &high);

    if (p == NULL || *p != '/')
        return false;
    p = parse_half(p + 1, &low);
    if (p == NULL || *p != '\0')
        return false;
    *ret_lsn = (lsn_t) high << 32 | low;
    return true;
}

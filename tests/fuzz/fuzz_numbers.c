/*
 * LSNs, durations, sizes and numbers for people: read exactly where a plain reader reads them, and
 * what is written reads as the same number.
 */
#include "base/clock.h"
#include "base/human.h"
#include "config/config.h"
#include "config/units.h"
#include "driver.h"
#include "tailwater/lsn.h"

#include <string.h>

static bool is_one_of(const char *text, const char *list)
{
    return text[0] != '\0' && strspn(text, list) == strlen(text);
}

static void check_lsn(const char *text)
{
    const char *slash = strchr(text, '/');
    lsn_t lsn = 0x5a5a, again = 0;
    char written[LSN_TEXT_SIZE], high[16] = "";
    bool is_good = lsn_parse(text, &lsn), is_wanted = false;

    if (slash != NULL && slash - text <= 8 && strlen(slash + 1) <= 8) {
        memcpy(high, text, (size_t) (slash - text));
        is_wanted = is_one_of(high, "0123456789abcdefABCDEF") &&
                    is_one_of(slash + 1, "0123456789abcdefABCDEF");
    }
    promise(is_good == is_wanted);
    promise(is_good || lsn == 0x5a5a);
    if (!is_good)
        return;
    promise(lsn == ((lsn_t) strtoul(high, NULL, 16) << 32 | strtoul(slash + 1, NULL, 16)));
    promise(lsn_parse(lsn_text(lsn, written), &again) && again == lsn);
}

struct unit {
    const char *name;
    int64_t factor;
};

static const struct unit durations[] = {{"us", 1},
                                        {"ms", 1000},
                                        {"s", 1000000},
                                        {"min", 60000000},
                                        {"h", INT64_C(3600000000)},
                                        {"d", INT64_C(86400000000)},
                                        {NULL}};

static const struct unit sizes[] = {{"B", 1},
                                    {"kB", 1 << 10},
                                    {"KiB", 1 << 10},
                                    {"MB", 1 << 20},
                                    {"MiB", 1 << 20},
                                    {"GB", 1 << 30},
                                    {"GiB", 1 << 30},
                                    {"TB", INT64_C(1) << 40},
                                    {"TiB", INT64_C(1) << 40},
                                    {NULL}};

/* -1 where the text is no such quantity, or one above INT64_MAX. */
static int64_t wanted_quantity(const char *text, const struct unit *unit)
{
    size_t digits = strspn(text, "0123456789");
    const char *name = text + digits + strspn(text + digits, " ");
    __int128 value = 0;

    for (size_t i = 0; i < digits && value <= INT64_MAX; i++)
        value = value * 10 + (text[i] - '0');
    if (digits == 0 || value > INT64_MAX)
        return -1;
    if (value == 0 && text[digits] == '\0')
        return 0;
    for (; unit->name != NULL; unit++)
        if (strcmp(unit->name, name) == 0 && value * unit->factor <= INT64_MAX)
            return (int64_t) (value * unit->factor);
    return -1;
}

static void check_quantity(const char *text, const struct unit *units,
                           bool (*parse)(const char *, int64_t *, struct error *),
                           const char *(*write)(int64_t, char *) )
{
    const int64_t wanted = wanted_quantity(text, units);
    char written[UNITS_TEXT_SIZE];
    struct error err = {0};
    int64_t value = -2, again = -2;

    promise(parse(text, &value, &err) == (wanted >= 0));
    if (wanted < 0) {
        promise(err.kind == ERROR_CONFIG && err.message[0] != '\0' && value == -2);
        return;
    }
    promise(value == wanted);
    promise(parse(write(value, written), &again, &err) && again == value);
}

static const char *duration_text(int64_t value, char *text)
{
    return units_duration_text(value, text);
}

static const char *size_text(int64_t value, char *text)
{
    return units_size_text(value, text);
}

static void check_human(int64_t value)
{
    char text[HUMAN_TEXT_SIZE], time[CLOCK_TEXT_SIZE];

    promise(strlen(human_duration(value, text)) >= 3);
    promise(strlen(human_bytes(value, text)) >= 3);
    promise(strlen(human_estimate(value, text)) >= 1);
    clock_text(value, time);
    promise(time[strlen(time) - 1] == 'Z' && strchr(time, 'T') != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = driver_text(data, size);
    int64_t value = 0;

    check_lsn(text);
    check_quantity(text, durations, config_parse_duration, duration_text);
    check_quantity(text, sizes, config_parse_size, size_text);
    memcpy(&value, data, size < sizeof(value) ? size : sizeof(value));
    check_human(value);
    check_human((int64_t) strtoll(text, NULL, 10));
    free(text);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    static const char *const seeds[] = {
        "16/B374D848",
        "0/0",
        "FFFFFFFF/ffffffff",
        "0",
        "90s",
        "10ms",
        "7d",
        "1500us",
        "106751991d",
        "2 min",
        "64MB",
        "4 GiB",
        "8388607TB",
        "9223372036854775807B",
        "9223372036854775808B",
        "1000kB",
        "-1s",
        "1.5h",
    };

    if (i >= sizeof(seeds) / sizeof(seeds[0]))
        return false;
    buf_add(out, seeds[i]);
    return true;
}

static const char *const words[] = {"/",
                                    "us",
                                    "ms",
                                    "s",
                                    "min",
                                    "h",
                                    "d",
                                    "B",
                                    "kB",
                                    "KiB",
                                    "MB",
                                    "MiB",
                                    "GB",
                                    "GiB",
                                    "TB",
                                    "TiB",
                                    " ",
                                    "0",
                                    "9223372036854775807",
                                    "FFFFFFFF",
                                    ".",
                                    "-",
                                    "+",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words};

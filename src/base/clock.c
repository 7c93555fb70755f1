#include "base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_now_us(void)
{
    return read_clock(CLOCK_REALTIME);
}

int64_t clock_tick_us(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

const char *clock_text(int64_t time_us, char text[static CLOCK_TEXT_SIZE])
{
    time_t seconds = (time_t) (time_us / 1000000);
    int millis = (int) (time_us % 1000000) / 1000;
    struct tm tm;
    size_t len;

    gmtime_r(&seconds, &tm);
    len = strftime(text, CLOCK_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + len, CLOCK_TEXT_SIZE - len, ".%03dZ", millis < 0 ? 0 : millis);
    return text;
}

/* Time: int64 microseconds everywhere.  clock_now_us() is wall time since 1970 UTC, clock_tick_us()
 * only for intervals. */
#ifndef TAILWATER_CLOCK_H
#define TAILWATER_CLOCK_H

#include <stdint.h>

int64_t clock_now_us(void);
int64_t clock_tick_us(void);

/* Microseconds between 1970-01-01 and PostgreSQL's 2000-01-01. */
#define CLOCK_POSTGRES_EPOCH_US INT64_C(946684800000000)

#define CLOCK_TEXT_SIZE 28

/* "2026-11-22T01:40:00.123Z" */
const char *clock_text(int64_t time_us, char text[static CLOCK_TEXT_SIZE]);

#endif

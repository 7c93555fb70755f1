/* Durations and sizes back into the text that a person would have written, for error messages. */
#ifndef TAILWATER_UNITS_H
#define TAILWATER_UNITS_H

#include <stdint.h>

#define UNITS_TEXT_SIZE 32

/* "90s", "10ms", "7d": in the largest unit that takes it whole; "0".  Returns text. */
const char *units_duration_text(int64_t us, char text[static UNITS_TEXT_SIZE]);

/* "4GiB", "1000B". */
const char *units_size_text(int64_t bytes, char text[static UNITS_TEXT_SIZE]);

#endif

/* A position in the source's write-ahead log, and its text form "16/B374D848". */
#ifndef TAILWATER_LSN_H
#define TAILWATER_LSN_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t lsn_t; /* 0 is "no position", as InvalidXLogRecPtr */

#define LSN_TEXT_SIZE 18

/* The text form of lsn in a buffer of the caller's; returned for use in a printf argument. */
const char *lsn_text(lsn_t lsn, char text[static LSN_TEXT_SIZE]);

/* printf: "at " LSN_FORMAT, LSN_ARGS(lsn) */
#define LSN_FORMAT    "%X/%X"
#define LSN_ARGS(lsn) (unsigned) ((lsn) >> 32), (unsigned) (lsn)

/* False where text is not exactly an LSN. */
bool lsn_parse(const char *text, lsn_t *ret_lsn);

#endif

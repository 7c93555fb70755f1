/* Numbers as people read them: "3 min 12 s", "1.2 GiB", "~1.2 M".  For sentences and tables, not
 * for machines. */
#ifndef TAILWATER_HUMAN_H
#define TAILWATER_HUMAN_H

#include "base/buf.h"

#include <stdint.h>

#define HUMAN_TEXT_SIZE 32

/* Each returns text, for use in a printf argument. */
const char *human_duration(int64_t us, char text[static HUMAN_TEXT_SIZE]);
const char *human_age(int64_t us, char text[static HUMAN_TEXT_SIZE]); /* in a narrow column: "3d" */
const char *human_bytes(int64_t bytes, char text[static HUMAN_TEXT_SIZE]);
/* An estimate of so many things: "~950", "~1.2 M"; "?" below 0. */
const char *human_estimate(int64_t count, char text[static HUMAN_TEXT_SIZE]);

/* A table as the argument of a command that a person is to run: schema.name, in the shell's quotes where
 * it needs them.  Names are PostgreSQL's: up to 63 bytes. */
#define HUMAN_TABLE_SIZE 640
const char *human_table(const char *schema, const char *name, char text[static HUMAN_TABLE_SIZE]);

/*
 * A text with commands in it, which then read that file: "run: tailwater resync --all" becomes "run:
 * tailwater resync -c FILE --all".  Commands that name a file already stay; file NULL: all do.
 */
void human_commands(const char *text, const char *file, struct buf *out);

#endif

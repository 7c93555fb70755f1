/*
 * What the fuzz targets share.  A target is a file fuzz_NAME.c with LLVMFuzzerTestOneInput() and
 * fuzz_target; it reads one input and checks what has to hold for every input, not only that
 * nothing crashes.
 *
 * Linked with libFuzzer (scripts/fuzz) it looks for inputs.  Linked with driver.c it is an ordinary
 * program, and a test:
 *
 *     replay_NAME [--rounds N] [--seeds FOLDER] [--words FILE] [FILE|FOLDER]...
 *
 * runs the seeds, every prefix of the short ones, the files given, then N mutations of all these,
 * the same every time.  --seeds and --words write the seeds and the dictionary for libFuzzer.
 */
#ifndef TAILWATER_FUZZ_DRIVER_H
#define TAILWATER_FUZZ_DRIVER_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct fuzz_target {
    /* Seed number i, added to out; false behind the last one. */
    bool (*seed)(size_t i, struct buf *out);
    /* Pieces that mean something to the parser, NULL at the end. */
    const char *const *words;
    /* Change an input; NULL: driver_mutate(). */
    void (*mutate)(struct buf *input);
};

extern const struct fuzz_target fuzz_target;

/* libFuzzer's entry; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A number below that, the same ones in every run. */
uint32_t driver_random(uint32_t below);
void driver_seed(uint64_t seed);

/* Change, insert or remove a few bytes, or put a word in. */
void driver_mutate(struct buf *buf, const char *const *words);

/* What has to hold. */
#define promise(that)                                                                              \
    do {                                                                                           \
        if (!(that)) {                                                                             \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #that);             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The text of an input, terminated; it ends at the first zero byte.  An allocation of exactly its
 * size, for AddressSanitizer; the caller frees it. */
char *driver_text(const uint8_t *data, size_t size);

/* Takes the text up to the next line feed off *rest, NULL behind the last one. */
char *driver_line(char **rest);

#endif

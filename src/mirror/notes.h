/*
 * A list of lines that a function wants said besides its success: what was left out, made, kept.
 * The caller, engine or verb, logs or prints them.  {.arena = …} is an empty one; the texts live in
 * the arena.
 */
#ifndef TAILWATER_NOTES_H
#define TAILWATER_NOTES_H

#include "tailwater/arena.h"

struct notes {
    struct arena *arena;
    int count, size;
    const char **texts;
};

void notes_add(struct notes *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

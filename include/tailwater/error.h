/*
 * What went wrong, in one place: filled by the function that failed, wrapped by its callers, logged
 * once by the engine or a verb.  A function that can fail returns bool and takes a struct error *
 * last; true is success, and then the error is untouched.
 *
 * The kind says what the caller may do about it.  The process's exit code follows from it
 * (error_exit_code()).
 */
#ifndef TAILWATER_ERROR_H
#define TAILWATER_ERROR_H

#include <stdbool.h>

enum error_kind {
    ERROR_NONE,
    ERROR_CONFIG,   /* usage or configuration: a person has to change something         exit 2 */
    ERROR_FINDINGS, /* check found something that has to be mended first                exit 3 */
    ERROR_SOURCE,   /* the source cannot be reached, or went away: try again            exit 4 */
    ERROR_MIRROR,   /* the mirror cannot be reached, or went away: try again            exit 5 */
    ERROR_SLOT,     /* the slot is lost, missing or not ours; the source was replaced   exit 6 */
    ERROR_BUSY,     /* another instance holds the pipeline (lock, slot, or the fence)   exit 7 */
    ERROR_RETRY,    /* deadlock, serialization, lock timeout: the same again may work   exit 75 */
    ERROR_DATA,     /* the mirror refused a value or a row                              exit 1 */
    ERROR_PROTOCOL, /* bytes that were not understood: never skipped                    exit 1 */
    ERROR_FAILED,   /* anything else that a server or the system refused                exit 1 */
    ERROR_BUG       /* our mistake                                                      exit 1 */
};

struct error {
    enum error_kind kind;
    char sqlstate[6];   /* "" where no server said one */
    char message[2048]; /* what, where, why; complete, without a final newline */
    char hint[1024];    /* what to run or set next; "" where there is nothing to say */
};

/* Set a new error.  Returns false, so that a function can end with return error_set(…). */
bool error_set(struct error *err, enum error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Add the remedy, or replace it.  Returns false. */
bool error_hint(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Say what was being done: "FORMAT: old message".  Kind, SQLSTATE and hint stay.  Returns false. */
bool error_wrap(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

int error_exit_code(enum error_kind kind);

/* "config", "source", …: for logs. */
const char *error_kind_name(enum error_kind kind);

#endif

/*
 * The end that somebody asks this process for, by SIGTERM or SIGINT.  There is one of it: signals are
 * the process's.
 */
#ifndef TAILWATER_STOP_H
#define TAILWATER_STOP_H

#include "tailwater/error.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Catches the two signals.  Before the threads start, once. */
bool stop_catch(struct error *err);

/* As a signal does; safe in a signal's handler. */
void stop_raise(void);

bool stop_is_raised(void);

/* For threads: the flag, and a descriptor that is readable once it is raised, and for ever then. */
const atomic_bool *stop_flag(void);
int stop_fd(void);

#endif

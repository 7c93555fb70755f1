/*
 * Handles that release themselves when their variable goes out of scope.  Declare and initialise in
 * one line:
 *
 *     _cleanup_buf_ struct buf sql = {0};
 */
#ifndef TAILWATER_CLEANUP_H
#define TAILWATER_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>

#define _cleanup_(function) __attribute__((cleanup(function)))

static inline void cleanup_free(void *p)
{
    free(*(void **) p);
}

static inline void cleanup_fclose(FILE **file)
{
    if (*file != NULL)
        fclose(*file);
}

#define _cleanup_free_   _cleanup_(cleanup_free)
#define _cleanup_fclose_ _cleanup_(cleanup_fclose)

#endif

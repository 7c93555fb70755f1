/*
 * The way of a stream's changes behind the decoder: bindings, batches, parameters, and a model of
 * the mirror.  Tables are made up from what the stream itself says of them, so a first pass over
 * the stream meets them and a second one takes the changes.
 */
#ifndef TAILWATER_FUZZ_PIPE_H
#define TAILWATER_FUZZ_PIPE_H

#include "tailwater/decoder.h"

#include <stddef.h>

struct pipe;

struct pipe *pipe_new(const struct decoder_ops *ops, const struct decoder_config *config);
void pipe_free(struct pipe *pipe);

/* First pass: a message and the change that it was decoded to. */
void pipe_meet(struct pipe *pipe, const void *message, size_t len, const struct change *change);

/* Between the passes. */
void pipe_start(struct pipe *pipe);

/* Second pass. */
void pipe_take(struct pipe *pipe, const struct change *change);

#endif

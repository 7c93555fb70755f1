/*
 * Decoders under hostile streams.  An input is a stream: messages in the decoder's own order, each
 * behind its length as four bytes, big-endian; the last one ends with the input.  So one input
 * takes a decoder, with the state it has, through many messages, refused ones among them.
 *
 * Every message goes through tests/fixtures/session.h, which holds the decoder to its promises.
 * Then the whole way is gone: the changes are bound to tables, coalesced into batches, made into
 * parameters (check.h), and applied to a model of the mirror, which has to be what the changes, one
 * by one, make of it.
 */
#ifndef TAILWATER_FUZZ_STREAM_H
#define TAILWATER_FUZZ_STREAM_H

#include "driver.h"
#include "tailwater/decoder.h"

/* Take a decoder through one input. */
void stream_run(const struct decoder_ops *ops, const uint8_t *data, size_t size);

/* The captured streams as seeds; to be called once before. */
void stream_load(const char *fixture);
bool stream_seed(size_t i, struct buf *out);

/* A mutation that knows messages: it changes, cuts, doubles, drops and exchanges them. */
void stream_mutate(struct buf *input);

/* The body of libFuzzer's LLVMFuzzerCustomMutator(). */
size_t stream_custom(uint8_t *data, size_t size, size_t max_size, unsigned seed);

#endif

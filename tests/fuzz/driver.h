/*
 * What the fuzz targets share: the form of an input, and a main() for compilers without libFuzzer.
 *
 * An input is a stream: messages in the decoder's own order, each in front of its length as four
 * bytes, big-endian; the last one ends with the input.  So one input takes a decoder through
 * several messages, refused ones among them.
 */
#ifndef TAILWATER_FUZZ_DRIVER_H
#define TAILWATER_FUZZ_DRIVER_H

#include "tailwater/decoder.h"

#include <stddef.h>
#include <stdint.h>

/* libFuzzer's entry; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Take a decoder through one input. */
void driver_run(const struct decoder_ops *ops, const uint8_t *data, size_t size);

#endif

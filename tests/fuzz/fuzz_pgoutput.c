/* The decoder of pgoutput, and all behind it, under hostile streams; see stream.h. */
#include "stream.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stream_run(&decoder_pgoutput, data, size);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    stream_load("pgoutput.txt");
    return stream_seed(i, out);
}

/* Message types, row kinds, value kinds. */
static const char *const words[] = {"B",
                                    "C",
                                    "R",
                                    "Y",
                                    "I",
                                    "U",
                                    "D",
                                    "T",
                                    "M",
                                    "O",
                                    "N",
                                    "K",
                                    "t",
                                    "n",
                                    "u",
                                    "b",
                                    "\1",
                                    "\xff\xff\xff\xff",
                                    "\x7f\xff\xff\xff",
                                    "\x80",
                                    "public",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words, .mutate = stream_mutate};

#ifdef TAILWATER_LIBFUZZER
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned number);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned number)
{
    return stream_custom(data, size, max_size, number);
}
#endif

/* The decoder of wal2json, and all behind it, under hostile streams; see stream.h. */
#include "stream.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stream_run(&decoder_wal2json, data, size);
    return 0;
}

static bool seed(size_t i, struct buf *out)
{
    stream_load("wal2json.txt");
    return stream_seed(i, out);
}

static const char *const words[] = {"{\"action\":\"",
                                    "\"B\"",
                                    "\"C\"",
                                    "\"I\"",
                                    "\"U\"",
                                    "\"D\"",
                                    "\"T\"",
                                    "\"M\"",
                                    ",\"xid\":",
                                    ",\"timestamp\":",
                                    ",\"lsn\":",
                                    ",\"nextlsn\":",
                                    ",\"schema\":",
                                    ",\"table\":",
                                    ",\"columns\":[",
                                    ",\"identity\":[",
                                    "{\"name\":",
                                    ",\"typeoid\":",
                                    ",\"value\":",
                                    ",\"position\":",
                                    ",\"transactional\":",
                                    ",\"prefix\":",
                                    ",\"content\":",
                                    "null",
                                    "true",
                                    "false",
                                    "\"0/0\"",
                                    "\"FFFFFFFF/FFFFFFFF\"",
                                    "\\u0000",
                                    "\\ud83d\\ude00",
                                    "\\\"",
                                    "4294967295",
                                    "32767",
                                    "1700",
                                    "]",
                                    "}",
                                    NULL};

const struct fuzz_target fuzz_target = {.seed = seed, .words = words, .mutate = stream_mutate};

#ifdef TAILWATER_LIBFUZZER
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned number);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned number)
{
    return stream_custom(data, size, max_size, number);
}
#endif

/* The decoder of wal2json under hostile streams; see driver.c. */
#include "driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    driver_run(&decoder_wal2json, data, size);
    return 0;
}

/* The decoder of pgoutput under hostile streams; see driver.c. */
#include "driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    driver_run(&decoder_pgoutput, data, size);
    return 0;
}

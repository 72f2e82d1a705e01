/* The fuzzer's way into the pool's model. */
#include "pool_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tally tally = {0};

    pool_run(data, size, &tally);
    return 0;
}

#include "leg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

static long ring_bytes(const char *dir, pid_t pid)
{
    char path[512], line[128];
    long n = -1;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%d", dir, (int)pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, "ring_bytes ", 11) == 0)
            n = atol(line + 11);
    fclose(f);
    return n;
}

void check_ring_used(pid_t pid, long bytes)
{
    const char *ring = getenv("TEST_RING"), *dir = getenv("TEST_STATS");
    long n;

    if (!ring || strcmp(ring, "must") != 0 || !dir)
        return;
    n = ring_bytes(dir, pid);
    if (n < bytes)
        FAIL("process %d: %ld bytes by a ring, wanted %ld", (int)pid, n, bytes);
}

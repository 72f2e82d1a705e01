#include "leg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test.h"

static long counter(const char *dir, pid_t pid, const char *name)
{
    char path[512], line[128];
    size_t len = strlen(name);
    long n = -1;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%d", dir, (int)pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, name, len) == 0 && line[len] == ' ')
            n = atol(line + len);
    fclose(f);
    return n;
}

void check_ring_used(pid_t pid, long bytes)
{
    const char *ring = getenv("TEST_RING"), *dir = getenv("TEST_STATS");
    long n;

    if (!ring || strcmp(ring, "must") != 0 || !dir)
        return;
    n = counter(dir, pid, "ring_bytes");
    if (n < bytes)
        FAIL("process %d: %ld bytes by a ring, wanted %ld", (int)pid, n, bytes);
}

bool leg_is(const char *name)
{
    const char *leg = getenv("TEST_LEG");

    return leg && strcmp(leg, name) == 0;
}

/* -1: no such counter; false: it is not asked here. */
static bool counted(const char *leg, pid_t pid, const char *name, long *n)
{
    const char *dir = getenv("TEST_STATS");

    if (!leg_is(leg) || !dir)
        return false;
    *n = counter(dir, pid, name);
    return true;
}

void check_counted(const char *leg, pid_t pid, const char *name, long least)
{
    long n;

    if (counted(leg, pid, name, &n) && n < least)
        FAIL("process %d: %s is %ld, wanted %ld", (int)pid, name, n, least);
}

void check_counted_most(const char *leg, pid_t pid, const char *name, long most)
{
    long n;

    if (counted(leg, pid, name, &n) && (n < 0 || n > most))
        FAIL("process %d: %s is %ld, wanted %ld or less", (int)pid, name, n, most);
}

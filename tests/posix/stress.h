/* What the two sides of the stress agree on. */
#ifndef TESTS_POSIX_STRESS_H
#define TESTS_POSIX_STRESS_H

#include <stddef.h>
#include <stdint.h>

#define HEAD 16
#define LARGEST (256 * 1024)

enum ending {
    END_FIN,   /* ends the stream and closes when we do */
    END_RESET, /* breaks the connection */
    END_REPLY, /* waits for an answer before it ends */
    ENDINGS,
};

struct head {
    uint32_t magic;
    uint32_t seed;
    uint32_t len;
    uint32_t ending;
};

#define MAGIC 0x53524553

static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline size_t upto(uint64_t *state, size_t n)
{
    return (size_t)(next_random(state) >> 11) % n;
}

static inline size_t size_of_piece(uint64_t *r)
{
    static const size_t limits[] = {4, 64, 1500, 16384};

    return 1 + upto(r, limits[upto(r, sizeof(limits) / sizeof(limits[0]))]);
}

/* argv: "clients", port, threads, milliseconds. Runs in a process of its own; returns its status. */
int stress_clients(int argc, char **argv);

#endif

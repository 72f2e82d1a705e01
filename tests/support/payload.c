#include "payload.h"

#include <stdio.h>
#include <string.h>

/* Each step can be undone: xor with a shifted self, and a product with an odd number. */
#define MUL1 0x7feb352dU
#define MUL2 0x846ca68bU
#define INV1 0x1d69e2a5U
#define INV2 0x43021123U

static uint32_t mix(uint32_t x)
{
    x ^= x >> 16;
    x *= MUL1;
    x ^= x >> 15;
    x *= MUL2;
    x ^= x >> 16;
    return x;
}

static uint32_t unmix(uint32_t x)
{
    x ^= x >> 16;
    x *= INV2;
    x ^= x >> 15 ^ x >> 30;
    x *= INV1;
    x ^= x >> 16;
    return x;
}

static uint8_t byte_at(uint32_t seed, uint64_t offset)
{
    uint32_t word = mix((uint32_t)(offset / 4) + seed * 0x9e3779b9U);

    return (uint8_t)(word >> 8 * (offset % 4));
}

void payload_fill(uint32_t seed, void *buf, uint64_t offset, size_t len)
{
    uint8_t *p = buf;

    for (size_t i = 0; i < len; i++)
        p[i] = byte_at(seed, offset + i);
}

static size_t run_length(uint32_t seed, const uint8_t *p, uint64_t offset, size_t len)
{
    size_t n = 0;

    while (n < len && p[n] == byte_at(seed, offset + n))
        n++;
    return n;
}

/* The offset whose bytes these are, or -1: tried at all four phases of a word, kept if all agrees. */
static int64_t locate(uint32_t seed, const uint8_t *p, size_t len)
{
    for (size_t phase = 0; phase < 4 && phase + 4 <= len; phase++) {
        const uint8_t *w = p + phase;
        uint32_t word = w[0] | w[1] << 8 | w[2] << 16 | (uint32_t)w[3] << 24;
        uint64_t offset = (uint64_t)(uint32_t)(unmix(word) - seed * 0x9e3779b9U) * 4;
        size_t seen = len < 12 ? len : 12;

        if (offset < phase || offset > (1ULL << 32))
            continue;
        if (run_length(seed, p, offset - phase, seen) == seen)
            return (int64_t)(offset - phase);
    }
    return -1;
}

int payload_compare(uint32_t seed, const void *buf, uint64_t offset, size_t len, char *why,
                    size_t why_size)
{
    const uint8_t *p = buf;
    size_t good = run_length(seed, p, offset, len);
    int64_t found;

    if (good == len)
        return 0;
    found = locate(seed, p + good, len - good);
    if (found >= 0)
        snprintf(why, why_size, "wanted offset %llu, got %lld (in a piece of %zu from %llu)",
                 (unsigned long long)(offset + good), (long long)found, len,
                 (unsigned long long)offset);
    else
        snprintf(why, why_size,
                 "wanted offset %llu (byte %02x), got byte %02x of no known place (in a piece of "
                 "%zu from %llu)",
                 (unsigned long long)(offset + good), byte_at(seed, offset + good), p[good], len,
                 (unsigned long long)offset);
    return -1;
}

/*
 * Bytes that say where they belong: each is a function of its offset in its stream.
 *
 * A stream is a row of 32-bit words, word i being an invertible mix of i and the stream's seed. So
 * a byte out of place is not only seen: seven bytes in a row also name the offset they come from.
 */
#ifndef TESTS_SUPPORT_PAYLOAD_H
#define TESTS_SUPPORT_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

/* Streams of up to 16 GiB: the offset in words has to fit 32 bits. */
void payload_fill(uint32_t seed, void *buf, uint64_t offset, size_t len);

/* Returns 0, or -1 and a message such as "wanted offset 4096, got 8192". */
int payload_compare(uint32_t seed, const void *buf, uint64_t offset, size_t len, char *why,
                    size_t why_size);

#endif

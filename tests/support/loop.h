/*
 * Event loops over epoll: members whose every unread byte is seen by the loop's own reads, as a
 * server has them.
 */
#ifndef TESTS_SUPPORT_LOOP_H
#define TESTS_SUPPORT_LOOP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "tcp.h"

void ep_ctl(int ep, int op, int fd, uint32_t events, uint64_t data);

/*
 * A connection that was read from before, is not to sleep any more and was seen empty; a member of
 * ep.
 */
struct pair ep_pair(int ep, uint32_t events, uint64_t data);

/* Reads until EAGAIN, size bytes at a time, and checks them: how many there were. */
size_t read_all(struct pair *p, size_t size);

/* Nothing is reported. An edge too many is no fault: if edges, it may be. */
void check_quiet(int ep, bool edges);

/* The next event, and the only one, waited for without limit. */
void check_event(int ep, uint64_t data, uint32_t events);

#endif

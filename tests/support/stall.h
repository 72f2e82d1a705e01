/*
 * Connections that are left unread for long, and writers that fill them.
 */
#ifndef TESTS_SUPPORT_STALL_H
#define TESTS_SUPPORT_STALL_H

#include <stdatomic.h>
#include <sys/types.h>

#include "asleep.h"
#include "tcp.h"

/* So many bytes may lie unread on a roomy connection, whatever the system's defaults are. */
#define STALL_ROOM ((size_t)192 * 1024)

/* A warm connection that has this room. */
struct pair pair_open_roomy(void);

/*
 * For connections by the thousand: one listener for all of them, and an end that leaves nothing of
 * them in TIME_WAIT, where they would keep ports from those who come after.
 */
struct pair pair_from(int listener);
void pair_drop(struct pair *p);

/* The peer sends n bytes, in segments large and small; between(arg), if any, is called after each. */
void put_in_parts(struct pair *p, size_t n, void (*between)(void *arg), void *arg);

/* Receives n bytes that have arrived, in pieces large and small, and checks them. */
void take_in_parts(struct pair *p, size_t n);

/* A thread that sends on the peer's side for as long as it is let. */
struct writer {
    struct pair *p;
    uint64_t total;
    atomic_ullong done; /* bytes that its kernel has taken */
    atomic_int error;   /* the errno that ended it before its time, or 0 */
    struct worker w;
};

/* Its send buffer is small: it blocks when the receiver does not read. */
void writer_start(struct writer *w, struct pair *p, uint64_t total);
/* It has ended, with all sent or with an error, which is returned. */
int writer_join(struct writer *w);

/* What this process has at the moment. */
int maps_count(void);
int fds_count(void);
long resident_kib(void);

#endif

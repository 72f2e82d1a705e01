/*
 * The processes that a case makes: waiting for them, taking turns with them on one connection, and
 * programs for them to become.
 */
#ifndef TESTS_SUPPORT_PROC_H
#define TESTS_SUPPORT_PROC_H

#include <stdatomic.h>
#include <sys/types.h>

#include "tcp.h"

/* Waits for this child; the case fails unless it ended with status 0. */
void check_child(pid_t pid);

/* The same for one that has to have ended with this status, as waitpid() gives it. */
void check_child_status(pid_t pid, int wanted);

/*
 * A connection of which all processes forked from here know how far it has been read: take() by
 * one of them moves the others on as well. Only one at a time may receive.
 */
struct shared {
    struct pair p;
    atomic_int turn;
    atomic_int flag;
};

struct shared *pair_share(struct pair p);
void shared_close(struct shared *s); /* closes both ends as well */

/*
 * Taking turns. turn_wait() returns when the turn is n, and fails the case if meanwhile a child of
 * this process ends badly; turn_to() lets the next one go on.
 */
void turn_wait(struct shared *s, int n);
void turn_to(struct shared *s, int n);

/*
 * Programs to become, by "--helper WORD FD FROM COUNT [...]". They check what they read from FD
 * against the payload from offset FROM, and end with status 0 if all was right.
 *
 *   end     COUNT bytes, then the end of the stream
 *   exact   COUNT bytes; what is behind them stays
 *   bytes   the same, one by one
 *   looks   COUNT bytes are seen by poll, select, epoll, FIONREAD and MSG_PEEK, and then read
 *   chain   COUNT bytes; then executes itself for the next as many, three times in all
 *   hold    exits without reading
 */
int reader_main(int argc, char **argv);

/* Arguments for the next COUNT bytes of the pair, in memory that the next call uses again. */
char **reader_args(const char *word, int fd, const struct pair *p, size_t count);

/* Children that sleep in a call: returns when the one given does. */
void wait_child_asleep(pid_t pid);

#endif

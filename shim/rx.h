/*
 * The story of a receive. Everything that consumes bytes of a socket of ours comes through here.
 * Any thread, no lock held; handlers may call it too (async-signal-safe).
 */
#ifndef PBS_RX_H
#define PBS_RX_H

#include <sys/socket.h>
#include <sys/types.h>

#include "fdtab.h"
#include "ring.h"
#include "sock.h"
#include "thread.h"
#include "user.h"

/* Verdicts; no errno has these values. PASS: not ours, make the plain call. PLAIN: ours and nothing
 * held, make the plain call, then tell pbs_rx_after(). */
#define PBS_RX_PASS ((ssize_t)-100000)
#define PBS_RX_PLAIN ((ssize_t)-100001)

/* Beside the MSG_ flags: the call is read() or its kin, for which len 0 asks for nothing. */
#define PBS_RX_READ (1LL << 32)
/* A signal ends its sleep as if there were a time limit, SA_RESTART or not. */
#define PBS_RX_ONCE (1LL << 33)
/* It goes on where another one has ended: -ESTALE if fd stands for anything but the socket whose life is
 * self->same_life. Never a verdict, but for what the kernel refuses before it looks at fd. With ONCE. */
#define PBS_RX_SAME (1LL << 34)

/*
 * Receives into dst. Returns the bytes (0: end of file), -errno, or a verdict with dst
 * untouched. A cancellation point. dst->left is at most SSIZE_MAX.
 */
ssize_t pbs_rx(int fd, struct pbs_file *f, struct pbs_dst *dst, long long flags);

/* The plain call on fd's record f gave r (and errno, if -1). Returns r; errno is kept. */
ssize_t pbs_rx_after(struct pbs_file *f, size_t asked, int flags, ssize_t r);

/* One buffer instead of an iovec array. */
static inline ssize_t pbs_rx_buf(int fd, struct pbs_file *f, void *buf, size_t len, long long flags)
{
    struct iovec iov = {buf, len};
    struct pbs_dst dst = {.iov = &iov, .n = 1, .left = len};

    if (pbs_unlikely(pbs_user_absurd(buf, len)))
        return PBS_RX_PASS; /* refused by the kernel before it looks for bytes */
    return pbs_rx(fd, f, &dst, flags);
}

/* ---- adopting and giving up (adopt.c) ---- */

/* This thread uses s. The second thread to do so ends its adoption for good. */
void pbs_touch(struct pbs_thread *self, struct pbs_sock *s);

/* Nothing of s is armed afterwards, and never again. What is held stays held. */
void pbs_release(struct pbs_thread *self, struct pbs_sock *s, enum pbs_reason why);

/* As pbs_release, by number; nothing happens if fd is no socket of ours. */
void pbs_release_fd(int fd, enum pbs_reason why);

/* An instance that is shared, or whose readiness is asked for from outside, cannot be merged any more:
 * its members are released. */
struct pbs_epoll;
void pbs_epoll_refuse(struct pbs_thread *self, struct pbs_epoll *set);

/* Before a fork or a spawn: no request is in the kernel and none is made until pbs_thaw(). */
void pbs_freeze(enum pbs_reason why);
void pbs_thaw(void);

/*
 * Adopts s if policy and kernel allow, and arms it. s locked, this thread its user; may unlock in
 * between. True: a request of s is armed on this thread's ring.
 */
bool pbs_adopt(struct pbs_thread *self, struct pbs_sock *s, int fd, bool blocking);

/* Gives s up for good, counted. s locked. */
void pbs_pass(struct pbs_thread *self, struct pbs_sock *s, enum pbs_reason why);

/* The kernel's name for the socket, never used again; 0: fd is none. */
uint64_t pbs_ask_cookie(int fd);

/* Reads SO_RCVTIMEO in ns; 0: none. */
int64_t pbs_ask_timeout(int fd);

/* ---- between the steps: armed or not, looked at, slept for (rx_wait.c); owning thread ---- */

/* What a step may say beside an answer: start over with the number, look again, go to sleep. */
enum { PBS_RX_AGAIN = -200002, PBS_RX_LOOK = -200003, PBS_RX_SLEEP = -200004 };

/* This thread sleeps for s, which is then what the call is about even if its number is gone. A
 * handler ends that, and so does a close that finds nothing of s armed: its record may be another
 * socket's when the call goes on. s locked. */
static inline bool pbs_rx_pins(struct pbs_thread *self, struct pbs_sock *s)
{
    return atomic_load_explicit(&self->waiting, memory_order_relaxed) == s &&
           s->life == self->waiting_life;
}

/* The number stands for s, and for a call that goes on for the same socket. s locked. */
static inline bool pbs_rx_is(struct pbs_thread *self, struct pbs_sock *s, int fd, long long flags)
{
    return pbs_fdtab_is(fd, &s->file) &&
           (pbs_likely(!(flags & PBS_RX_SAME)) || s->life == self->same_life);
}

/* This thread no longer sleeps for s. If its number went away meanwhile, so does its request. */
void pbs_rx_unpin(struct pbs_thread *self, struct pbs_sock *s);

/*
 * Steps 2 and 3 for a call that may not sleep: run deferred work if there is any, bounded, so that
 * a fast sender cannot keep us. True: s is empty as far as anybody was ever told, so EAGAIN.
 */
bool pbs_rx_look(struct pbs_thread *self, struct pbs_sock *s);

/*
 * Step 4: sleep in the ring. Returns PBS_RX_LOOK, -errno to end with, PBS_RX_AGAIN to start over with
 * the number, as the kernel's restarted system call would; once: any interruption ends the call.
 */
ssize_t pbs_rx_sleep(struct pbs_thread *self, struct pbs_sock *s, int64_t deadline, bool once);

/* Marks this thread as about to make a real call on s (thread.h: plain, call). */
void pbs_rx_begin_plain(struct pbs_thread *self, struct pbs_sock *s);

enum pbs_armed { PBS_RX_ARMED, PBS_RX_HELD, PBS_RX_UNARMED, PBS_RX_GONE, PBS_RX_ELSEWHERE };

/*
 * Sees to it that s is armed here, and pins it if the call may sleep. PBS_RX_HELD: something has come,
 * which another process may yet take: it is not armed for that. PBS_RX_UNARMED: it is not, nothing is
 * held, and the thread is marked as about to make a plain call. PBS_RX_GONE: the number is, and the request
 * of the call that slept has ended. PBS_RX_ELSEWHERE: the number stands for something else.
 */
enum pbs_armed pbs_rx_prepare(struct pbs_thread *self, struct pbs_sock *s, int fd, long long flags,
                              bool look_only, bool pinned, bool *sleeps);

/* The record does not pay (policy auto): back to plain calls, with back-off. */
void pbs_rx_step_back(struct pbs_thread *self, struct pbs_sock *s);

/* ---- the rare ways (rx_odd.c) ---- */

/* MSG_PEEK on held bytes: those, then what the kernel has. PBS_RX_PASS: none are held, or another
 * process has read some meanwhile: look again. */
ssize_t pbs_rx_peek(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int flags);

/* What the kernel has, without sleeping, if nothing is held. Bytes, 0 at the end, -errno;
 * PBS_RX_PASS: something is held. */
ssize_t pbs_rx_ask(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags);

/* Some bytes done: what the kernel has behind them, without sleeping. True: something is held. */
bool pbs_rx_top_up(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                   int flags);

/*
 * Before n bytes of `from` are moved inside the kernel to `to`, by splice() with these flags or its like; fit:
 * the call is one that it would not refuse. What is held goes first, as far as the pipe has room. The count,
 * -errno, or PBS_RX_PASS: nothing is held. (rx_splice.c)
 */
ssize_t pbs_rx_splice(int from, int to, bool fit, size_t n, unsigned flags);

/* An error that a plain call of ours took from the socket: it belongs to the next call. */
void pbs_rx_keep_error(struct pbs_sock *s, ssize_t r);

/* msg was filled by a receive, but for its control part, which has room for `room` bytes: what TCP_INQ,
 * set since the bytes were held, asks for is put there. */
void pbs_rx_tell_left(struct pbs_thread *self, struct pbs_sock *s, int fd, struct msghdr *msg,
                      size_t room);

/* ---- bytes in shared memory (rx_spill.c); s locked unless said otherwise ---- */

/* How much room a spill of what s holds may need; 0: it holds nothing of its own. Not locked. image:
 * what is in memory that a new image cannot be given is moved as well, away from who shares that. */
size_t pbs_rx_spill_size(struct pbs_sock *s, bool image);

/* Moves all that s holds there. False: there is no room, and it stays. */
bool pbs_rx_spill(struct pbs_sock *s, int fd, struct pbs_spill_pen *pen, bool image);

/* This process reads there no more. */
void pbs_rx_unspill(struct pbs_sock *s);

/* The same if all of it has been read. */
void pbs_rx_settle(struct pbs_sock *s);

/* Receives what is there, not locked: bytes, or the error behind them if none are done. dst->done or
 * -errno. */
ssize_t pbs_rx_spilled(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                       long long flags);

/* Shows what is held, there and here, but for the first `skip` bytes. */
void pbs_rx_peek_held(struct pbs_sock *s, struct pbs_dst *dst, size_t skip);

/* Up to n bytes of it become this process's own. False: out of memory. */
bool pbs_rx_pull(struct pbs_sock *s, size_t n);

/* Nothing held and nothing armed, the thread marked as about to make a plain call: the rest by that.
 * Returns dst->done, or with nothing done what the call gave; -ESTALE: one that may not sleep, and fd does
 * not stand for s any more. */
ssize_t pbs_rx_rest(struct pbs_thread *self, struct pbs_sock *s, int fd, struct pbs_dst *dst,
                    int flags);

/* The buffer ends, as far as it can be written, within what is there: held, and in the kernel. */
bool pbs_rx_faults(struct pbs_thread *self, struct pbs_sock *s, int fd, const struct pbs_dst *dst);

/* All of dst can be written, by the kernel's word; not a byte is changed in the asking. */
bool pbs_rx_prove_all(struct pbs_thread *self, const struct pbs_dst *dst);

/* The first n bytes that dst has room for can be written. */
bool pbs_rx_prove(struct pbs_thread *self, const struct pbs_dst *dst, size_t n);

#endif

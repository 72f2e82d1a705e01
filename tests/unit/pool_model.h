/*
 * Buffers as a ring has them, whole: two groups, one table of headers, several sockets; and a model
 * beside them: which buffer is where, which piece, and for each socket a plain array of its bytes.
 *
 * What is done to both comes from a string of operations: its first bytes choose the sizes, then one byte
 * says what is done and to which socket or group, and others how much. Every string means something. The unit test takes
 * strings from its own generator, the fuzzer from what it has learned.
 *
 * After each operation the equations are held against the model. What does not hold ends the process.
 */
#ifndef TESTS_UNIT_POOL_MODEL_H
#define TESTS_UNIT_POOL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "pbuf.h"
#include "pieces.h"
#include "sock.h"

#define SOCKS 4
#define GROUPS 2
#define PIECES 24     /* headers */
#define BUFS 64       /* buffers of a group, at most */
#define QUEUE 8       /* completions that are not looked at yet, at most */
#define HELD 0x10000U /* bytes that a socket holds, at most */

enum where { FREE, LENT, USED };
enum state { SPARE, QUEUED, PARKED, AWAY };

/* A buffer as the kernel sees it: so many bytes were lent, so many of them it has filled. */
struct kbuf {
    uint32_t len, at;
};

struct group {
    struct pbs_pbuf p;
    uint16_t head, tail; /* of what is published: the kernel's next, and behind the last */
    struct kbuf kernel[BUFS];
    enum where where[BUFS];
    unsigned refs[BUFS]; /* pieces out */
};

struct completion {
    struct group *g;
    unsigned sock, bid;
    const uint8_t *at;
    uint32_t len;
    bool more;
};

struct header {
    enum state state;
    unsigned sock, bid;
    struct group *g;
    const uint8_t *end; /* behind its last byte */
    unsigned stamp;
};

struct stream {
    struct pbs_sock *s;
    uint8_t bytes[HELD];
    size_t first, n; /* those that are held */
    size_t coming;   /* behind them: filled, and their completion not looked at */
    uint32_t next;   /* number of the byte that is made next */
    int last;        /* header of the last piece; -1: there is none, or it is of our own memory */
    unsigned own;    /* pieces in our own memory */
    bool spared;     /* memory ran out since it was empty: not all need be counted */
};

/* How often what is worth a test has happened. */
struct tally {
    unsigned long steps, filled, extended, homes, parked, away, refused, starved, moved, trims,
        grown;
};

struct pool {
    struct group g[GROUPS];
    struct pbs_pieces pieces;
    struct completion queue[QUEUE];
    unsigned nqueue;
    struct header header[PIECES];
    unsigned stamp;
    bool other; /* the thread that reads is not the one that owns the ring */
    struct tally tally;
    struct stream stream[SOCKS]; /* last: large */
};

/* Runs the whole string. Adds to *tally. The program is linked with --wrap=pbs_mem_get: memory runs out
 * when the string says so. */
void pool_run(const uint8_t *ops, size_t n, struct tally *tally);

/* ---- the string ---- */

struct ops {
    const uint8_t *at, *end;
    unsigned which; /* of the operation's own byte: on what it works */
};

static inline unsigned pool_byte(struct ops *o)
{
    return o->at < o->end ? *o->at++ : 0;
}

/* 1 to most: often little, sometimes all. */
static inline uint32_t pool_amount(struct ops *o, uint32_t most)
{
    unsigned b = pool_byte(o);

    if (b >= 0xf8)
        return most;
    if (b >= 0xe0)
        b = (b & 0x1f) << 8 | pool_byte(o);
    return 1 + b % most;
}

static inline unsigned pool_sock(const struct ops *o)
{
    return o->which % SOCKS;
}

static inline struct group *pool_group(struct pool *m, const struct ops *o)
{
    return &m->g[o->which / SOCKS % GROUPS];
}

/* ---- pool_model.c ---- */

/* Room behind what a stream has; what is held moves to the front for it. */
uint32_t pool_room(struct stream *st);

/* The next len bytes of a socket's stream, at `to` and in the model, where they are coming. */
void pool_append(struct pool *m, unsigned sock, uint8_t *to, uint32_t len);

/* ---- pool_read.c ---- */

void pool_open_sock(struct stream *st);
void pool_close_sock(struct pool *m, unsigned sock);
void pool_op_thread(struct pool *m, struct ops *o);
void pool_op_returned(struct pool *m, struct ops *o);
void pool_op_take(struct pool *m, struct ops *o);
void pool_op_peek(struct pool *m, struct ops *o);
void pool_op_drop(struct pool *m, struct ops *o);
void pool_op_front(struct pool *m, struct ops *o);
void pool_op_own(struct pool *m, struct ops *o);
void pool_op_move(struct pool *m, struct ops *o);
void pool_op_close(struct pool *m, struct ops *o);

/* ---- pool_check.c ---- */

extern const char *pool_doing; /* the operation, for the report */

void pool_fail(const char *file, int line, const char *what) __attribute__((noreturn));
#define MUST(x) ((x) ? (void)0 : pool_fail(__FILE__, __LINE__, #x))

/* The next len bytes of a socket's stream, which begins at *next. */
void pool_make(uint8_t *to, size_t len, uint32_t *next, unsigned sock);

/* Nothing was written there since all was 0xee. */
bool pool_untouched(const uint8_t *at, size_t len);

/* Bytes that the process has in use of its budget. */
size_t pool_in_use(void);

/* All equations. Finds which pieces are parked: consumed, and kept for their count. */
void pool_check(struct pool *m);

#endif

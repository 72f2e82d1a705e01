/*
 * From a seed to a script. The generator keeps a model of what lies unread where, just good enough
 * to know which call would sleep: a call that may sleep is asked for only where something on a
 * later line ends it.
 */
#ifndef FZ_GEN_H
#define FZ_GEN_H

#include "script.h"

/* It never comes to an end with this one. */
/* clang-format off */
#define FZ_CATEGORIES(X)                                                        \
    X(iov) X(mmsg) X(peek) X(waitall) X(dontwait) X(trunc) X(badptr) X(zero)    \
    X(big) X(poll) X(select) X(epoll) X(et) X(oneshot) X(dup) X(close)          \
    X(closerange) X(shutdown) X(fin) X(rst) X(timeo) X(nonblock) X(fionread)    \
    X(soerror) X(lowat) X(oob) X(oobinline) X(send) X(threads) X(block)         \
    X(observe) X(closeblocked) X(signal) X(stop) X(jump) X(handler) X(fork)     \
    X(texit) X(cancel) X(client) X(ipv6) X(errors) X(loop) X(stall)             \
    X(proc) X(procep) X(pass) X(flood)
/* clang-format on */

enum fz_category {
#define X(name) FZ_CAT_##name,
    FZ_CATEGORIES(X)
#undef X
        FZ_CAT_COUNT
};

/* From here on nothing is drawn: stall is every other seed's, the others' are those asked for by name. */
#define FZ_CAT_NOT_DRAWN FZ_CAT_stall

/* a,b,c to a mask; 0 if a name is unknown, which is then printed */
uint64_t fz_categories(const char *list);
void fz_categories_print(FILE *out);

struct fz_choice {
    uint64_t only;    /* these always, and nothing else; 0: a random choice for each seed */
    uint64_t with;    /* these always, too */
    uint64_t without; /* never these */
};

void fz_generate(uint64_t seed, const struct fz_choice *choice, struct fz_script *out);

/* gen_model.c and gen_acts.c share what follows */
struct fz_mconn {
    bool up, peer, fin, rst, shutrd, shutwr, nonblock, odd;
    int family, home, chunks, timeo, lowat;
    long unread, biggest, to_peer;
    int finders; /* bit 1 + k: process k finds what is held of it in a message that it gets */
};

struct fz_gen {
    uint64_t state, cats;
    struct fz_script *out;
    struct fz_mconn conn[FZ_CONNS];
    struct {
        int conn;
        int was; /* 1 + the connection it stood for before a dup2, or 0 */
        bool open, cloexec;
        int kid; /* bit k: child k has it open */
    } fd[FZ_FDS];
    struct {
        bool open;
        uint32_t in, any, ever; /* descriptors watched for input; registered now; at any time */
        bool twin, nested;      /* goes by a second name; is a member of another */
        bool cloexec;
    } ep[FZ_EPOLLS];
    int nconn, nfd, nep, nlisten, listen_family[FZ_LISTENERS];
    bool thread[FZ_THREADS];
    int threads, style, timed, forks;
    bool kid[FZ_KIDS]; /* is alive */
    bool way;
};

#define HAS(g, name) ((g)->cats >> FZ_CAT_##name & 1)

uint64_t fz_rand(struct fz_gen *g, uint64_t below);
bool fz_chance(struct fz_gen *g, int percent);
#define EMIT(g, ...) fz_script_add((g)->out, __VA_ARGS__)

/* an open descriptor of this connection, or -1 */
int fz_fd_for(struct fz_gen *g, int c);
int fz_fds_open(const struct fz_gen *g, int c);
/* the same in all processes */
int fz_holders(const struct fz_gen *g, int c);
/* a connection with an open descriptor, or -1 */
int fz_any_conn(struct fz_gen *g);
/* which thread is to do something with c; makes it if it is not there */
int fz_thread_for(struct fz_gen *g, int c);
/* a thread other than t, made if need be */
int fz_other_thread(struct fz_gen *g, int t);
bool fz_over(const struct fz_mconn *c);
bool fz_peer_sends(struct fz_gen *g, int c, long len);
long fz_send_size(struct fz_gen *g);
/* Bytes that may lie unread on a connection; more only where connections are left unread on purpose. */
#define FZ_ROOM 110000
#define FZ_ROOM_STALL 500000
void fz_consumed(struct fz_mconn *c, long n);

/* gen_recv.c */
struct fz_rx {
    char text[FZ_LINE];
    long total, takes;
    bool waitall, peek, sleeps;
};
/* One random receive on f, which belongs to c. calm: no bad pointer, no DONTWAIT. */
void fz_compose_recv(struct fz_gen *g, int c, int f, bool calm, struct fz_rx *rx);
bool fz_act_recv(struct fz_gen *g);
bool fz_act_errors(struct fz_gen *g);
/* gen_block.c */
bool fz_act_block(struct fz_gen *g);
bool fz_act_observe(struct fz_gen *g);
bool fz_act_fork(struct fz_gen *g);
bool fz_act_texit(struct fz_gen *g);
/* What an event is told apart by: members of two instances are two. */
static inline int fz_key(int e, int f)
{
    return e * FZ_FDS + f;
}

/* gen_proc.c */
bool fz_act_proc(struct fz_gen *g);
/* gen_loop.c */
bool fz_act_loop(struct fz_gen *g);
/* gen_stall.c */
bool fz_act_stall(struct fz_gen *g);
bool fz_act_flood(struct fz_gen *g);
/* gen_acts.c */
struct fz_act {
    bool (*run)(struct fz_gen *g);
    int cat, weight;
};
extern const struct fz_act fz_acts[];
bool fz_act_connect(struct fz_gen *g);
bool fz_act_poll(struct fz_gen *g);
void fz_poll_set(struct fz_gen *g, int must, bool quiet, bool only_in, int but, char *out,
                 size_t size);

#endif

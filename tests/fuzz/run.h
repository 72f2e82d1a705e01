/*
 * One script, carried out once: starts the runner, plays the peer, watches who sleeps, and keeps
 * a log with one entry a line. Single-threaded: one run at a time in a process.
 */
#ifndef FZ_RUN_H
#define FZ_RUN_H

#include <sys/types.h>

#include "script.h"

enum fz_leg {
    FZ_PLAIN,
    FZ_SHIM,
    FZ_AUTO,
    FZ_STARVED,
    FZ_INC,
    FZ_STARVED_INC,
    FZ_CROWD,
    FZ_NORING,
    FZ_LEGS
};
extern const char *const fz_leg_name[FZ_LEGS];
/* Whether not one byte by a ring means that the leg has shown nothing. */
bool fz_leg_serves(enum fz_leg leg);

struct fz_setup {
    const char *runner;  /* path of the program under test */
    const char *preload; /* LD_PRELOAD for every leg but plain */
    enum fz_leg leg;
    const char *dir; /* for the counters that the library writes */
    int hang_ms;     /* a call that should end and sleeps this long hangs */
    int noring_errno;
};

struct fz_entry {
    char text[FZ_TEXT + FZ_LINE];
    char soft[FZ_LINE];
    int64_t ret;
    bool slept;
    int nev;
    struct fz_event ev[FZ_EVENTS];
};

struct fz_log {
    int n;
    bool broken; /* the harness, not the program, failed: hang or death; why stands in the log */
    long topups, extra_edges, quiet_ends;
    struct fz_entry *entry; /* one a line, and one for the end */
};

struct fz_peer {
    int fd;
    bool fin, rst;
    uint64_t sent, seen;
};

struct fz_run {
    const struct fz_setup *setup;
    const struct fz_log *ref;
    struct fz_log *log;
    struct fz_shared *sh;
    pid_t pid;
    int mem; /* what is shared; images to come open it again */
    int pidfd, listener[2];
    bool dead;
    int status; /* of the runner, once it is dead */
    int line;
    int pending[FZ_SLOTS]; /* 1 + the line that this slot is busy with, or 0 */
    int issued[FZ_SLOTS];  /* a signal count to wait for */
    uint64_t et_keys;
    int key_conn[64];
    struct fz_peer peer[FZ_CONNS];
};

/* Carries out s; ref is the plain run's log, or NULL. The log is the caller's to free. */
void fz_run_script(const struct fz_setup *setup, const struct fz_script *s,
                   const struct fz_log *ref, struct fz_log *log);
void fz_log_free(struct fz_log *log);

/* watch.c */
enum fz_seen { FZ_SEEN_DONE, FZ_SEEN_ASLEEP, FZ_SEEN_DEAD, FZ_SEEN_HANG, FZ_SEEN_SPINS };
/* Waits until the slot's call has ended, or its thread has come to rest inside it. */
enum fz_seen fz_watch(struct fz_run *r, int slot, bool sleep_ok, int hang_ms);
/* 0 or -ETIMEDOUT: until every living thread of the runner is (or none is) stopped */
int fz_watch_stop(struct fz_run *r, bool stopped);
bool fz_run_alive(struct fz_run *r);
/* the slot's process is no more, or nobody has heard of its end yet */
bool fz_watch_over(const struct fz_slot *s);

/* spawn.c: 0 or -errno */
int fz_spawn(struct fz_run *r);
/* adds the counters of all files in dir to those kept so far, and removes the files */
void fz_counters_read(const char *dir);
long fz_counter(const char *name);
void fz_counters_print(FILE *out);

/* peer.c: a line of actor p; what it saw goes to out */
void fz_peer_op(struct fz_run *r, const struct fz_op *op, char *out, size_t size);
void fz_peer_final(struct fz_run *r, char *out, size_t size);
void fz_peer_close(struct fz_run *r);
int fz_peer_open(struct fz_run *r);

#endif

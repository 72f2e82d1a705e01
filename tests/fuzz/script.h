/*
 * The script format: one call a line, "ACTOR[MODE] VERB words... key=value...".
 *
 *   t0 recv f0 kind=recv len=37 flags=PEEK      thread 0 of the runner does it
 *   t1& poll kind=poll set=f0:IN timeout=-1     ... and is expected to sleep in it; join comes later
 *   t0~ recv f0 kind=read len=5                 ... and ends by its own timeout
 *   k0 recv f0 kind=read len=5                  child 0 of the runner does it
 *   p send c0 len=120 piece=7                   the peer does it, and waits until it has arrived
 *   p push c0 len=120000                        the same, not waiting: it may not fit
 *   d join t1                                   the driver: join, sig, stop, cont
 *
 * Names: t thread, k child, c connection, f descriptor, l listener, e epoll instance. '#' begins
 * a comment. Every line may be left out without making another one invalid: that is what the
 * shrinker lives on.
 */
#ifndef FZ_SCRIPT_H
#define FZ_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "shared.h"

#define FZ_WORDS 14
#define FZ_MAX_LINES 400

struct fz_op {
    char actor; /* t k p d */
    int idx;
    char mode; /* 0, '&' or '~' */
    const char *verb;
    int nwords;
    const char *word[FZ_WORDS];
    char store[FZ_LINE];
};

struct fz_script {
    int n;
    char *line[FZ_MAX_LINES];
};

struct fz_name {
    const char *name;
    unsigned long val;
};

/* 0, or -EINVAL */
int fz_parse(struct fz_op *op, const char *line);
/* the n-th plain word after the verb, or "" */
const char *fz_word(const struct fz_op *op, int n);
/* the value of key=, or def */
const char *fz_str(const struct fz_op *op, const char *key, const char *def);
long fz_num(const struct fz_op *op, const char *key, long def);
/* "f3" with kind 'f' gives 3; -1 if it is no such name or not below max */
int fz_ref(const char *s, char kind, int max);
/* "A|B" by a table that ends with a NULL name */
unsigned long fz_flags(const char *s, const struct fz_name *table);
void fz_flags_text(char *out, size_t size, unsigned long val, const struct fz_name *table);
/* appends to a string held in size bytes; cut off silently when full */
void fz_cat(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

extern const struct fz_name fz_msg_flags[], fz_poll_bits[], fz_epoll_bits[];

void fz_script_add(struct fz_script *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fz_script_free(struct fz_script *s);
/* 0 or -errno; comments and empty lines are left out */
int fz_script_load(struct fz_script *s, const char *path);
void fz_script_print(const struct fz_script *s, FILE *out);

#endif

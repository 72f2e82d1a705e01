/*
 * The runner's side: carries out script lines with plain libc calls, knowing nothing of what may
 * be interposed between it and libc. Each function runs in the thread that the line names and
 * leaves its result in that thread's slot.
 */
#ifndef FZ_EXEC_H
#define FZ_EXEC_H

#include <stdbool.h>
#include <sys/types.h>

#include "script.h"

struct fz_call {
    struct fz_slot *slot;
    const struct fz_op *op;
};

extern struct fz_shared *fz_sh;
/* which process this is: 0 the runner, 1 + k child k; and the numbers that it has open */
extern int fz_proc;
#define fz_fds (fz_sh->fd[fz_proc])
#define fz_eps (fz_sh->ep[fz_proc])

/* sets ret and text to "-> N" or "-> -1 ENAME"; err is errno as the call left it */
void fz_result(struct fz_slot *s, long ret, int err);
void fz_text(struct fz_slot *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* the number behind the n-th word fN, -1 if it never was one; *conn as it is now, or -1 */
int fz_fd_of(const struct fz_op *op, int n, int *conn);
void fz_fd_set(int var, int num, int conn);
/* the number is closed: every name that stood for it is closed with it */
void fz_fd_closed(int num);

/* exec_recv.c: true if the verb was theirs */
bool fz_exec_recv(struct fz_slot *s, const struct fz_op *op);
/* checks len bytes that came from connection conn and says which they are; moves the cursor if
   `take`; appends to out */
void fz_check(int conn, const unsigned char *data, long len, bool take, char *out, size_t size);
bool fz_exec_send(struct fz_slot *s, const struct fz_op *op);
/* exec_wait.c */
bool fz_exec_wait(struct fz_slot *s, const struct fz_op *op);
/* exec_life.c */
bool fz_exec_life(struct fz_slot *s, const struct fz_op *op);
bool fz_exec_opt(struct fz_slot *s, const struct fz_op *op);
/* exec_task.c: threads, signals, children */
bool fz_exec_task(struct fz_slot *s, const struct fz_op *op);
/* exec_proc.c: exec, other programs, descriptors passed on */
bool fz_exec_proc(struct fz_slot *s, const struct fz_op *op);
/* what a new image of this program was executed for; true if it was to serve */
bool fz_proc_resume(int argc, char **argv, int *slot);
/* a kid's copy of what its parent has open */
void fz_proc_inherit(int parent, int kid);
/* serves slot n until it is told to end; state is what it is in at first */
void fz_serve(int n, uint32_t state);
void fz_task_init(void);

#endif

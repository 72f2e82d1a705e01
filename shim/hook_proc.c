/* Calls that make, replace or end processes. */
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <wordexp.h>

#include "conf.h"
#include "handover.h"
#include "hook.h"
#include "life.h"
#include "proc.h"
#include "real.h"
#include "user.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

static pid_t after_fork(struct pbs_legacy *legacy, pid_t pid)
{
    int saved = errno;

    if (pid)
        pbs_proc_after_fork_parent(legacy, pid > 0);
    else
        pbs_proc_after_fork_child(legacy);
    errno = saved;
    return pid;
}

PBS_EXPORT pid_t fork(void)
{
    struct pbs_legacy *legacy = pbs_proc_before_fork();

    return after_fork(legacy, real.fork());
}

PBS_EXPORT pid_t __fork(void)
{
    return fork();
}

PBS_EXPORT pid_t __libc_fork(void)
{
    return fork();
}

PBS_EXPORT pid_t _Fork(void)
{
    struct pbs_legacy *legacy = pbs_proc_before_fork();

    return after_fork(legacy, real._Fork());
}

PBS_EXPORT pid_t forkpty(int *master, char *name, const struct termios *t, const struct winsize *w)
{
    struct pbs_legacy *legacy = pbs_proc_before_fork();

    return after_fork(legacy, real.forkpty(master, name, t, w));
}

/* The parent of a daemon ends inside of the call, unseen; what returns is its child. */
PBS_EXPORT int daemon(int nochdir, int noclose)
{
    pid_t parent = getpid();
    struct pbs_legacy *legacy = pbs_proc_before_fork();
    int r = real.daemon(nochdir, noclose);

    if (getpid() == parent) {
        after_fork(legacy, -1);
        return r;
    }
    pbs_proc_bury(legacy);
    after_fork(legacy, 0);
    return r;
}

/* Helpers that start a program in a child of their own making. */
#define SPAWN(type, environment, call)                                                             \
    do {                                                                                           \
        struct pbs_handover h;                                                                     \
        char *const *env;                                                                          \
        type r;                                                                                    \
                                                                                                   \
        h.npartings = 0;                                                                           \
        pbs_proc_before_spawn();                                                                   \
        env = pbs_handover_begin(&h, environment);                                                 \
        r = call;                                                                                  \
        pbs_handover_end(&h);                                                                      \
        pbs_proc_after_spawn();                                                                    \
        return r;                                                                                  \
    } while (0)

/* The same where libc takes the environment from `environ`. */
#define SPAWN_ENVIRON(type, call)                                                                  \
    do {                                                                                           \
        char **was = environ;                                                                      \
                                                                                                   \
        SPAWN(type, was, ({                                                                        \
                  if (env != was)                                                                  \
                      environ = (char **)env;                                                      \
                  type r_ = call;                                                                  \
                  if (env != was && environ == env)                                                \
                      environ = was;                                                               \
                  r_;                                                                              \
              }));                                                                                 \
    } while (0)

/* The next image has fd, whatever its flags say. */
PBS_EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *acts, int fd, int to)
{
    pbs_born_lent(fd);
    return real.posix_spawn_file_actions_adddup2(acts, fd, to);
}

/*
 * The actions may close all numbers but a few: what is handed over is opened again behind them, by
 * the parent's number, which sleeps until the child has its image. Returns how many actions that
 * took; they are taken back by that count (their paths are not: that is libc's business).
 */
static int reopen(const struct pbs_handover *h, const posix_spawn_file_actions_t *acts,
                  const posix_spawnattr_t *attr)
{
    posix_spawn_file_actions_t *own = (posix_spawn_file_actions_t *)acts;
    short flags = 0;
    char path[64];
    int n = 0;

    if (!h->envp || !acts)
        return 0;
    if (attr)
        posix_spawnattr_getflags(attr, &flags);
    for (int fd = -1; !(flags & POSIX_SPAWN_RESETIDS) && (fd = pbs_spill_next(fd + 1U)) >= 0;) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), fd);
        if (access(path, R_OK | W_OK) == 0 &&
            posix_spawn_file_actions_addopen(own, fd, path, O_RDWR, 0) == 0)
            n++;
    }
    return n;
}

#define POSIX_SPAWN(function)                                                                      \
    SPAWN(int, envp, ({                                                                            \
              int more_ = reopen(&h, acts, attr);                                                  \
              int r_ = function(pid, path, acts, attr, argv, env);                                 \
                                                                                                   \
              if (more_)                                                                           \
                  ((posix_spawn_file_actions_t *)acts)->__used -= more_;                           \
              r_;                                                                                  \
          }))

PBS_EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *acts,
                           const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    POSIX_SPAWN(real.posix_spawn);
}

PBS_EXPORT int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *acts,
                            const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
    POSIX_SPAWN(real.posix_spawnp);
}

PBS_EXPORT FILE *popen(const char *command, const char *mode)
{
    SPAWN_ENVIRON(FILE *, real.popen(command, mode));
}

PBS_EXPORT __typeof__(popen) _IO_popen __attribute__((alias("popen"), copy(popen)));

PBS_EXPORT int system(const char *command)
{
    SPAWN_ENVIRON(int, real.system(command));
}

PBS_EXPORT int wordexp(const char *words, wordexp_t *we, int flags)
{
    SPAWN_ENVIRON(int, real.wordexp(words, we, flags));
}

/* What a child that was made by clone() begins with. */
struct beginning {
    int (*fn)(void *);
    void *arg;
    struct pbs_legacy *legacy;
    enum pbs_lent lent;
};

/* A copy of its parent's memory. */
static int copied(void *p)
{
    struct beginning b = *(struct beginning *)p;

    pbs_proc_after_fork_child(b.legacy);
    return b.fn(b.arg);
}

/* In its parent's memory and place, until the parent goes on: as after vfork. */
static int lent(void *p)
{
    struct beginning b = *(struct beginning *)p;

    pbs_in_vfork_child = b.lent;
    return b.fn(b.arg);
}

PBS_EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
    struct beginning b = {fn, arg, NULL, flags & CLONE_SIGHAND ? PBS_LENT_HANDLERS : PBS_LENT};
    int was = pbs_in_vfork_child, r;
    void *ptid, *tls, *ctid;
    va_list ap;

    va_start(ap, arg);
    ptid = va_arg(ap, void *);
    tls = va_arg(ap, void *);
    ctid = va_arg(ap, void *);
    va_end(ap);
    if (!fn || (flags & CLONE_THREAD))
        return real.clone(fn, stack, flags, arg, ptid, tls, ctid);
    if (!(flags & CLONE_VM)) {
        b.legacy = pbs_proc_before_fork();
        r = real.clone(copied, stack, flags, &b, ptid, tls, ctid);
        return after_fork(b.legacy, r);
    }
    if (!(flags & CLONE_VFORK) || (flags & CLONE_SETTLS)) {
        pbs_proc_host();
        return real.clone(fn, stack, flags, arg, ptid, tls, ctid);
    }
    pbs_proc_before_spawn();
    r = real.clone(lent, stack, flags, &b, ptid, tls, ctid);
    pbs_in_vfork_child = was;
    pbs_proc_after_spawn();
    return r;
}

PBS_EXPORT __typeof__(clone) __clone __attribute__((alias("clone"), copy(clone)));

PBS_EXPORT int unshare(int flags)
{
    bool apart = flags & CLONE_FILES && pbs_proc_before_parting();
    int r = real.unshare(flags);

    if (apart && !r)
        pbs_proc_after_parting();
    return r;
}

/* ---- exec ---- */

#define EXEC(environment, call)                                                                    \
    do {                                                                                           \
        struct pbs_handover h;                                                                     \
        char *const *env;                                                                          \
        int r;                                                                                     \
                                                                                                   \
        pbs_proc_before_exec();                                                                    \
        h.npartings = 0;                                                                           \
        if (!pbs_guest())                                                                          \
            pbs_handover_part(&h);                                                                 \
        env = pbs_handover_begin(&h, environment);                                                 \
        r = call;                                                                                  \
        pbs_handover_end(&h);                                                                      \
        pbs_proc_after_exec();                                                                     \
        return r;                                                                                  \
    } while (0)

PBS_EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    EXEC(envp, real.execve(path, argv, env));
}

PBS_EXPORT int execv(const char *path, char *const argv[])
{
    EXEC(environ, real.execve(path, argv, env));
}

PBS_EXPORT int execvp(const char *path, char *const argv[])
{
    EXEC(environ, real.execvpe(path, argv, env));
}

PBS_EXPORT int execvpe(const char *path, char *const argv[], char *const envp[])
{
    EXEC(envp, real.execvpe(path, argv, env));
}

PBS_EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    EXEC(envp, real.fexecve(fd, argv, env));
}

PBS_EXPORT int execveat(int fd, const char *path, char *const argv[], char *const envp[], int flags)
{
    EXEC(envp, real.execveat(fd, path, argv, env, flags));
}

/* Gathers the arguments of an execl() into an array on the caller's stack; ap is left behind NULL. */
#define GATHER(argv, arg, ap)                                                                      \
    do {                                                                                           \
        va_list count_;                                                                            \
        size_t n_ = 1;                                                                             \
                                                                                                   \
        va_copy(count_, ap);                                                                       \
        while (va_arg(count_, char *))                                                             \
            n_++;                                                                                  \
        va_end(count_);                                                                            \
        argv = alloca((n_ + 1) * sizeof(char *));                                                  \
        argv[0] = (char *)arg;                                                                     \
        for (size_t i_ = 1; i_ <= n_; i_++)                                                        \
            argv[i_] = va_arg(ap, char *);                                                         \
    } while (0)

PBS_EXPORT int execl(const char *path, const char *arg, ...)
{
    va_list ap;
    char **argv;

    va_start(ap, arg);
    GATHER(argv, arg, ap);
    va_end(ap);
    EXEC(environ, real.execve(path, argv, env));
}

PBS_EXPORT int execlp(const char *path, const char *arg, ...)
{
    va_list ap;
    char **argv;

    va_start(ap, arg);
    GATHER(argv, arg, ap);
    va_end(ap);
    EXEC(environ, real.execvpe(path, argv, env));
}

PBS_EXPORT int execle(const char *path, const char *arg, ...)
{
    char **argv, **envp;
    va_list ap;

    va_start(ap, arg);
    GATHER(argv, arg, ap);
    envp = va_arg(ap, char **);
    va_end(ap);
    EXEC(envp, real.execve(path, argv, env));
}

/* ---- the end ---- */

PBS_EXPORT void _exit(int status)
{
    pbs_proc_end();
    real._exit(status);
    __builtin_unreachable();
}

PBS_EXPORT void _Exit(int status)
{
    pbs_proc_end();
    real._exit(status);
    __builtin_unreachable();
}

/* ---- by number ---- */

/* A child that shares our memory is on a stack of its own, and does not come back through here. */
static long clone_by_number(long nr, const long *a, unsigned long flags)
{
    struct pbs_legacy *legacy;
    long r;

    if (flags & CLONE_VM) {
        pbs_proc_host();
        return real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    }
    legacy = pbs_proc_before_fork();
    r = real.syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    return after_fork(legacy, (pid_t)r);
}

bool pbs_proc_by_number(long nr, const long *a, long *r)
{
    unsigned long flags = 0;

    switch (nr) {
    case SYS_clone3:
        if (!pbs_thread_get() || !pbs_user_readable(pbs_self, (void *)a[0], sizeof(uint64_t)))
            return false;
        flags = ((struct clone_args *)a[0])->flags;
        break;
    case SYS_clone:
        flags = (unsigned long)a[0];
        break;
    case SYS_fork:
        break;
    case SYS_unshare:
        *r = unshare((int)a[0]);
        return true;
    case SYS_execve:
        *r = execve((void *)a[0], (void *)a[1], (void *)a[2]);
        return true;
    case SYS_execveat:
        *r = execveat((int)a[0], (void *)a[1], (void *)a[2], (void *)a[3], (int)a[4]);
        return true;
    case SYS_exit:
        if (!__libc_single_threaded)
            return false;
        pbs_proc_end(); /* the only thread's is the process's */
        return false;
    case SYS_exit_group:
        pbs_proc_end();
        return false;
    default:
        return false;
    }
    if (flags & CLONE_THREAD)
        return false;
    *r = clone_by_number(nr, a, flags);
    return true;
}

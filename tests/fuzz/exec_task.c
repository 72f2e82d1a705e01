/* Threads, signals, children. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec.h"

/* What a handler does beside counting; one for each signal of the script. */
struct action {
    enum { COUNT, JUMP, RECV } what;
    int fd, conn, len;
};

static struct action actions[2];
static pthread_t threads[FZ_THREADS];

extern __thread int fz_sigpipes;
__thread int fz_sigpipes;
extern __thread struct fz_slot *fz_mine;
__thread struct fz_slot *fz_mine;
extern __thread sigjmp_buf *fz_back;
__thread sigjmp_buf *fz_back;

static int sig_index(int sig)
{
    return sig == SIGUSR2;
}

static void on_pipe(int sig)
{
    (void)sig;
    fz_sigpipes++;
}

static void handler_recv(struct fz_slot *s, const struct action *a)
{
    unsigned char buf[512];
    ssize_t n = recv(a->fd, buf, (size_t)a->len, MSG_DONTWAIT);

    fz_cat(s->note, sizeof(s->note), " {handler %zd %s", n, n < 0 ? strerrorname_np(errno) : "");
    if (n > 0)
        fz_check(a->conn, buf, n, true, s->note, sizeof(s->note));
    fz_cat(s->note, sizeof(s->note), "}");
}

/* Runs wherever the signal finds the thread; the driver sends it while a call sleeps. */
static void on_signal(int sig)
{
    const struct action *a = &actions[sig_index(sig)];
    int saved = errno;
    sigjmp_buf *back = fz_back;

    if (!fz_mine)
        return;
    if (a->what == RECV)
        handler_recv(fz_mine, a);
    fz_mine->handled++;
    errno = saved;
    if (a->what == JUMP && back)
        siglongjmp(*back, 1);
}

/* sigact USR1 restart=0|1 act=count|jump|recv:fN:LEN */
static void do_sigact(struct fz_slot *s, const struct fz_op *op)
{
    int sig = strcmp(fz_word(op, 0), "USR2") ? SIGUSR1 : SIGUSR2;
    struct sigaction sa = {.sa_handler = on_signal}, old;
    struct action *a = &actions[sig_index(sig)];
    const char *act = fz_str(op, "act", "count");
    int ret;

    a->what = COUNT;
    if (!strcmp(act, "jump"))
        a->what = JUMP;
    if (!strncmp(act, "recv:", 5)) {
        char name[8] = "";
        int var;

        memcpy(name, act + 5, strcspn(act + 5, ":") < 7 ? strcspn(act + 5, ":") : 7);
        var = fz_ref(name, 'f', FZ_FDS);
        a->what = RECV;
        a->fd = var < 0 ? -1 : fz_fds[var].num;
        a->conn = var < 0 ? -1 : fz_fds[var].conn;
        a->len = atoi(strrchr(act, ':') + 1) % 512;
    }
    sa.sa_flags = fz_num(op, "restart", 1) ? SA_RESTART : 0;
    sigemptyset(&sa.sa_mask);
    ret = sigaction(sig, &sa, &old);
    fz_result(s, ret, errno);
    fz_text(s, " old=%s", old.sa_handler == on_signal ? "ours" : "other");
}

static void *thread_main(void *arg)
{
    fz_serve((int)(long)arg, FZ_IDLE);
    return NULL;
}

static void do_spawn(struct fz_slot *s, const struct fz_op *op)
{
    int n = fz_ref(fz_word(op, 0), 't', FZ_THREADS), ret;
    struct fz_slot *other;

    if (n < 1 || (fz_sh->slot[n].state != FZ_ABSENT))
        return;
    other = &fz_sh->slot[n];
    ret = pthread_create(&threads[n], NULL, thread_main, (void *)(long)n);
    while (!ret && other->state == FZ_ABSENT)
        fz_futex_wait(&other->state, FZ_ABSENT, -1);
    fz_result(s, ret, ret);
}

static void do_tjoin(struct fz_slot *s, const struct fz_op *op)
{
    int n = fz_ref(fz_word(op, 0), 't', FZ_THREADS), ret;
    void *val = NULL;

    if (n < 1 || fz_sh->slot[n].state != FZ_GONE)
        return;
    ret = pthread_join(threads[n], &val);
    fz_sh->slot[n].state = FZ_ABSENT;
    fz_result(s, ret, ret);
    fz_text(s, "%s", val == PTHREAD_CANCELED ? " cancelled" : "");
}

static void do_cancel(struct fz_slot *s, const struct fz_op *op)
{
    int n = fz_ref(fz_word(op, 0), 't', FZ_THREADS), ret;

    if (n < 1 || fz_sh->slot[n].state != FZ_RUNNING)
        return;
    ret = pthread_cancel(threads[n]);
    fz_result(s, ret, ret);
}

static pid_t make_kid(const char *how)
{
    if (!strcmp(how, "_Fork"))
        return _Fork();
    if (!strcmp(how, "number"))
        return (pid_t)syscall(SYS_fork);
    if (!strcmp(how, "clone"))
        return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    return fork();
}

/* fork kN how=fork|_Fork|number|clone */
static void do_fork(struct fz_slot *s, const struct fz_op *op)
{
    int k = fz_ref(fz_word(op, 0), 'k', FZ_KIDS);
    struct fz_slot *kid;
    pid_t pid;

    if (k < 0 || fz_sh->slot[FZ_THREADS + k].state != FZ_ABSENT)
        return;
    kid = &fz_sh->slot[FZ_THREADS + k];
    fz_proc_inherit(fz_proc, 1 + k);
    pid = make_kid(fz_str(op, "how", "fork"));
    if (pid == 0) {
        fz_proc = 1 + k;
        fz_back = NULL;
        fz_serve(FZ_THREADS + k, FZ_IDLE);
        _exit(0);
    }
    fz_sh->kid_pid[k] = pid;
    fz_sh->kid_of[k] = fz_proc;
    while (pid > 0 && kid->state == FZ_ABSENT)
        fz_futex_wait(&kid->state, FZ_ABSENT, -1);
    fz_result(s, pid < 0 ? -1 : 0, errno);
}

static void do_kwait(struct fz_slot *s, const struct fz_op *op)
{
    int k = fz_ref(fz_word(op, 0), 'k', FZ_KIDS), status = -1, ret;
    pid_t pid = k < 0 ? 0 : fz_sh->kid_pid[k];

    /* one that nobody has told to end is not waited for */
    if (pid <= 0 || fz_sh->kid_of[k] != fz_proc || fz_sh->slot[FZ_THREADS + k].state != FZ_GONE)
        return;
    do
        ret = waitpid(pid, &status, 0);
    while (ret < 0 && errno == EINTR);
    fz_result(s, ret == pid ? 0 : -1, errno);
    fz_text(s, " status=%#x", status);
    fz_sh->kid_pid[k] = 0;
    fz_sh->slot[FZ_THREADS + k].state = FZ_ABSENT;
}

bool fz_exec_task(struct fz_slot *s, const struct fz_op *op)
{
    if (!strcmp(op->verb, "sigact"))
        do_sigact(s, op);
    else if (!strcmp(op->verb, "spawn"))
        do_spawn(s, op);
    else if (!strcmp(op->verb, "tjoin"))
        do_tjoin(s, op);
    else if (!strcmp(op->verb, "cancel"))
        do_cancel(s, op);
    else if (!strcmp(op->verb, "texit"))
        pthread_exit(NULL);
    else if (!strcmp(op->verb, "fork"))
        do_fork(s, op);
    else if (!strcmp(op->verb, "kwait"))
        do_kwait(s, op);
    else if (!strcmp(op->verb, "exit") || !strcmp(op->verb, "_exit")) {
        s->state = FZ_GONE;
        fz_futex_wake(&s->state);
        if (op->verb[0] == '_')
            _exit(0);
        exit(0);
    } else
        return false;
    return true;
}

void fz_task_init(void)
{
    struct sigaction sa = {.sa_handler = on_pipe, .sa_flags = SA_RESTART};

    sigemptyset(&sa.sa_mask);
    sigaction(SIGPIPE, &sa, NULL);
}

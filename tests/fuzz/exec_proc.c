/* Images that replace this one or read for it, and descriptors that travel. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec.h"

extern char **environ;

static char self[PATH_MAX];

static const char *my_path(void)
{
    ssize_t n = self[0] ? 1 : readlink("/proc/self/exe", self, sizeof(self) - 1);

    return n < 0 ? "" : self;
}

void fz_proc_inherit(int parent, int kid)
{
    memcpy(fz_sh->fd[kid], fz_sh->fd[parent], sizeof(fz_sh->fd[kid]));
    memcpy(fz_sh->ep[kid], fz_sh->ep[parent], sizeof(fz_sh->ep[kid]));
}

static bool goes(int num)
{
    return num >= 0 && fcntl(num, F_GETFD) & FD_CLOEXEC;
}

/* What the image to come will not have. */
static void drop_cloexec(void)
{
    for (int i = 0; i < FZ_FDS; i++)
        if (fz_fds[i].open && goes(fz_fds[i].num))
            fz_fds[i].open = 0;
    for (int i = 0; i < FZ_EPOLLS; i++)
        if (goes(fz_eps[i]))
            fz_eps[i] = -1;
}

static int become(const char *via, char *const *a)
{
    if (!strcmp(via, "execve"))
        return execve(a[0], a, environ);
    if (!strcmp(via, "execvp"))
        return execvp(a[0], a);
    if (!strcmp(via, "execl"))
        return execl(a[0], a[0], a[1], a[2], a[3], a[4], (char *)NULL);
    if (!strcmp(via, "fexecve"))
        return fexecve(open(a[0], O_RDONLY | O_CLOEXEC), a, environ);
    if (!strcmp(via, "execveat"))
        return execveat(AT_FDCWD, a[0], a, environ, 0);
    if (!strcmp(via, "bad"))
        return execv("/no/such/file", a);
    return execv(a[0], a);
}

/* exec via=execv|execve|execvp|execl|fexecve|execveat|bad: this image again, and what it had */
static void do_exec(struct fz_slot *s, const struct fz_op *op)
{
    const char *via = fz_str(op, "via", "execv");
    char slot[16], proc[16], serve[] = "serve";
    char *args[] = {(char *)my_path(), fz_sh->again, serve, slot, proc, NULL};
    int ret;

    /* the image's only thread is its first one */
    if (!fz_proc && s != &fz_sh->slot[0])
        return;
    snprintf(slot, sizeof(slot), "%d", (int)(s - fz_sh->slot));
    snprintf(proc, sizeof(proc), "%d", fz_proc);
    if (strcmp(via, "bad") != 0)
        drop_cloexec();
    ret = become(via, args);
    fz_result(s, ret, errno);
}

/* In a new image: COUNT bytes of a connection, from standard input. */
static void feed(struct fz_slot *s, int conn, long len)
{
    static unsigned char buf[4096];

    while (len > 0) {
        char text[FZ_LINE] = "";
        ssize_t n = read(0, buf, len < (long)sizeof(buf) ? (size_t)len : sizeof(buf));

        if (n <= 0) {
            fz_text(s, " fed %zd %s", n, n < 0 ? strerrorname_np(errno) : "");
            return;
        }
        fz_check(conn, buf, n, true, text, sizeof(text));
        if (strstr(text, "WRONG"))
            fz_text(s, "%s", text);
        len -= n;
    }
    fz_text(s, " to %llu", (unsigned long long)fz_sh->rx_off[conn]);
}

bool fz_proc_resume(int argc, char **argv, int *slot)
{
    int n = argc > 3 ? atoi(argv[3]) : -1;

    if (n < 0 || n >= FZ_SLOTS || argc < 5)
        return false;
    *slot = n;
    if (!strcmp(argv[2], "feed")) {
        if (argc > 5)
            feed(&fz_sh->slot[n], atoi(argv[4]), atol(argv[5]));
        return false;
    }
    fz_proc = atoi(argv[4]);
    /* the threads of the image before are no more */
    for (int i = 1; i < FZ_THREADS && !fz_proc; i++)
        fz_sh->slot[i].state = FZ_ABSENT;
    fz_text(&fz_sh->slot[n], "-> again");
    return true;
}

static pid_t start(const char *how, int fd, char *const *args)
{
    posix_spawn_file_actions_t acts;
    pid_t pid = -1;

    if (!strcmp(how, "spawn")) {
        posix_spawn_file_actions_init(&acts);
        posix_spawn_file_actions_adddup2(&acts, fd, 0);
        errno = posix_spawn(&pid, args[0], &acts, NULL, args, environ);
        posix_spawn_file_actions_destroy(&acts);
        return errno ? -1 : pid;
    }
    pid = !strcmp(how, "vfork") ? vfork() : fork();
    if (pid == 0) {
        dup2(fd, 0);
        execv(args[0], args);
        _exit(127);
    }
    return pid;
}

/* A shell's own standard input, so ours for that time. */
static int run_by_shell(bool by_popen, int fd, char *const *args)
{
    int saved = fcntl(0, F_DUPFD_CLOEXEC, 200), status = -1;
    char line[PATH_MAX + 256];
    FILE *f;

    snprintf(line, sizeof(line), "exec '%s' '%s' %s %s %s %s", args[0], args[1], args[2], args[3],
             args[4], args[5]);
    if (dup2(fd, 0) == 0) {
        if (!by_popen)
            status = system(line);
        else if ((f = popen(line, "r")))
            status = pclose(f);
    }
    dup2(saved, 0);
    close(saved);
    return status;
}

static int run_program(const char *how, int fd, char *const *args)
{
    int status = -1;
    pid_t pid;

    if (!strcmp(how, "system") || !strcmp(how, "popen"))
        return run_by_shell(how[0] == 'p', fd, args);
    pid = start(how, fd, args);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

/* feed fN how=fork|vfork|spawn|system|popen len=: another program reads so many bytes of it */
static void do_feed(struct fz_slot *s, const struct fz_op *op)
{
    char slot[16], conn_text[16], len[24], word[] = "feed";
    char *args[] = {(char *)my_path(), fz_sh->again, word, slot, conn_text, len, NULL};
    int conn, fd = fz_fd_of(op, 0, &conn), ret;

    if (conn < 0)
        return;
    snprintf(slot, sizeof(slot), "%d", (int)(s - fz_sh->slot));
    snprintf(conn_text, sizeof(conn_text), "%d", conn);
    snprintf(len, sizeof(len), "%ld", fz_num(op, "len", 1));
    ret = run_program(fz_str(op, "how", "fork"), fd, args);
    fz_result(s, ret, errno);
}

union control {
    struct cmsghdr h;
    char room[CMSG_SPACE(sizeof(int))];
};

/* sendfd fN: into the way that all processes have; recvfd fN: what is first there */
static void do_sendfd(struct fz_slot *s, const struct fz_op *op)
{
    union control c = {.h = {.cmsg_level = SOL_SOCKET,
                             .cmsg_type = SCM_RIGHTS,
                             .cmsg_len = CMSG_LEN(sizeof(int))}};
    int conn, fd = fz_fd_of(op, 0, &conn);
    char byte = (char)conn;
    struct iovec v = {&byte, 1};
    struct msghdr mh = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)};
    long ret;

    memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
    ret = sendmsg(fz_sh->way[0], &mh, 0);
    fz_result(s, ret, errno);
}

static void do_recvfd(struct fz_slot *s, const struct fz_op *op)
{
    int var = fz_ref(fz_word(op, 0), 'f', FZ_FDS), fd = -1;
    union control c;
    char byte = -1;
    struct iovec v = {&byte, 1};
    struct msghdr mh = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c)};
    long ret;

    ret = recvmsg(fz_sh->way[1], &mh,
                  MSG_DONTWAIT | (fz_num(op, "cloexec", 0) ? MSG_CMSG_CLOEXEC : 0));
    if (ret == 1 && CMSG_FIRSTHDR(&mh))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(fd));
    fz_result(s, ret < 0 ? ret : fd, errno);
    if (var >= 0 && fd >= 0)
        fz_fd_set(var, fd, byte);
}

bool fz_exec_proc(struct fz_slot *s, const struct fz_op *op)
{
    if (!strcmp(op->verb, "exec"))
        do_exec(s, op);
    else if (!strcmp(op->verb, "feed"))
        do_feed(s, op);
    else if (!strcmp(op->verb, "way")) {
        int ret = fz_sh->way[0] < 0 ? socketpair(AF_UNIX, SOCK_DGRAM, 0, fz_sh->way) : 0;

        fz_result(s, ret, errno);
    } else if (!strcmp(op->verb, "sendfd"))
        do_sendfd(s, op);
    else if (!strcmp(op->verb, "recvfd"))
        do_recvfd(s, op);
    else
        return false;
    return true;
}

/*
 * slowenter [-c] MICROSECONDS COMMAND [ARG...]: runs a command whose submissions to io_uring come late.
 *
 * A request is prepared at one moment and the kernel learns of it at another: between the two, other
 * threads may do anything. Here each io_uring_enter that submits something is held, by a seccomp
 * filter that asks this process, for a pseudo-random time of up to so many microseconds. Calls of
 * several threads are held side by side; what the command forks or executes is held as well. With -c
 * each close() is held, too: what was done before it, and what is done after, lie apart.
 *
 * PRELOAD in the environment becomes the command's LD_PRELOAD: the launcher itself runs without it.
 * To the file named by SLOWENTER_COUNT it writes how many calls it has held. Its exit status is the
 * command's, 128 + the signal if one killed it, 77 if the kernel does not let it do this.
 */
#include <endian.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV /* since Linux 5.19 */
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#define MAX_HELD 256

/* The low half of the second argument, to_submit. */
#define TO_SUBMIT                                                                                  \
    (offsetof(struct seccomp_data, args[1]) + (__BYTE_ORDER == __BIG_ENDIAN ? sizeof(int) : 0))

static struct held {
    uint64_t id;
    int64_t due;
} held[MAX_HELD];
static int holding;
static unsigned long count;
static int64_t longest; /* nanoseconds */

static int64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Returns the descriptor that tells of the calls. This process has the filter as well, and makes
 * none. */
static int install(bool closes)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, closes ? SYS_close : ~0U, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, TO_SUBMIT),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    /* A handler must not run in the middle of a call that is held: the kernel would then begin the call
     * again, or end one with EINTR that never ends so by itself. */
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
                        &program);
}

static void hold_one(int listener)
{
    static uint64_t random = 0x9e3779b97f4a7c15;
    struct seccomp_notif call;

    memset(&call, 0, sizeof(call));
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
        return; /* its caller was killed, or called away by a signal */
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    held[holding++] = (struct held){call.id, now() + (int64_t)(random % (uint64_t)longest)};
    count++;
}

static void let_go_of_due(int listener)
{
    int64_t t = now();

    for (int i = holding - 1; i >= 0; i--) {
        struct seccomp_notif_resp answer = {.id = held[i].id,
                                            .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};

        if (held[i].due > t)
            continue;
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer); /* ENOENT: was killed meanwhile */
        held[i] = held[--holding];
    }
}

/* NULL: nothing is held. */
static struct timespec *time_left(struct timespec *ts)
{
    int64_t first = INT64_MAX, left;

    for (int i = 0; i < holding; i++)
        if (held[i].due < first)
            first = held[i].due;
    if (!holding)
        return NULL;
    left = first - now();
    *ts = (struct timespec){.tv_nsec = left > 0 ? left : 0}; /* far less than a second */
    return ts;
}

/* Until the child has ended; what it leaves behind then has no io_uring any more. */
static void supervise(int listener, int child)
{
    struct pollfd fds[] = {{.fd = listener}, {.fd = child, .events = POLLIN}};
    struct timespec ts;

    while (!fds[1].revents) {
        fds[0].events = holding < MAX_HELD ? POLLIN : 0;
        if (ppoll(fds, 2, time_left(&ts), NULL) < 0 && errno != EINTR) {
            perror("slowenter: ppoll");
            exit(2);
        }
        if (fds[0].revents & POLLIN)
            hold_one(listener);
        let_go_of_due(listener);
    }
}

static void write_count(void)
{
    const char *name = getenv("SLOWENTER_COUNT");
    FILE *f = name ? fopen(name, "w") : NULL;

    if (!f)
        return;
    fprintf(f, "%lu\n", count);
    fflush(f); /* no close(), which would be held */
}

static int run(char **argv)
{
    const char *preload = getenv("PRELOAD");

    unsetenv("SLOWENTER_COUNT");
    if (preload) {
        setenv("LD_PRELOAD", preload, 1);
        unsetenv("PRELOAD");
    }
    execvp(argv[0], argv);
    fprintf(stderr, "slowenter: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int main(int argc, char **argv)
{
    bool closes = argc > 1 && strcmp(argv[1], "-c") == 0;
    int listener, child, status;
    pid_t pid;

    argc -= closes;
    argv += closes;
    if (argc < 3 || atoi(argv[1]) <= 0 || atoi(argv[1]) > 100000) {
        fprintf(stderr, "usage: slowenter [-c] MICROSECONDS COMMAND [ARG...]\n");
        return 2;
    }
    longest = atoi(argv[1]) * INT64_C(1000);
    listener = install(closes);
    if (listener < 0) {
        perror("slowenter: seccomp");
        return 77;
    }
    pid = fork();
    if (!pid)
        return run(argv + 2);
    child = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    if (child < 0) {
        perror("slowenter: fork");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    supervise(listener, child);
    if (waitpid(pid, &status, 0) != pid) {
        perror("slowenter: waitpid");
        return 2;
    }
    write_count();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

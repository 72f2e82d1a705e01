/*
 * noring ERRNO COMMAND [ARG...]: runs a command that cannot use io_uring.
 *
 * Installs a seccomp filter that makes io_uring_setup, io_uring_enter and io_uring_register fail
 * with EPERM (as container runtimes do) or ENOSYS (as an old kernel does). PRELOAD in the
 * environment becomes the command's LD_PRELOAD: the launcher itself runs without it.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuse_io_uring(int with)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_io_uring_setup, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_io_uring_register, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)with),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
    const char *preload = getenv("PRELOAD");
    int with;

    if (argc < 3 || (strcmp(argv[1], "EPERM") && strcmp(argv[1], "ENOSYS"))) {
        fprintf(stderr, "usage: noring EPERM|ENOSYS COMMAND [ARG...]\n");
        return 2;
    }
    with = strcmp(argv[1], "EPERM") == 0 ? EPERM : ENOSYS;
    if (refuse_io_uring(with)) {
        perror("noring: seccomp");
        return 77;
    }
    errno = 0;
    if (syscall(SYS_io_uring_setup, 0, NULL) != -1 || errno != with) {
        fprintf(stderr, "noring: io_uring_setup is not refused with %s (errno %d)\n", argv[1],
                errno);
        return 2;
    }
    if (preload) {
        setenv("LD_PRELOAD", preload, 1);
        unsetenv("PRELOAD");
    }
    execvp(argv[2], argv + 2);
    fprintf(stderr, "noring: %s: %s\n", argv[2], strerror(errno));
    return 127;
}

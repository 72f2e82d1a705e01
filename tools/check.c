/*
 * Says in words what this kernel and this user can do: whether the library's one kind of ring can be
 * had, and if not, why. Exit status 0: yes, 1: no (programs then run on plain calls).
 *
 * All that may be refused is tried in a child: a seccomp filter may kill instead of refusing.
 */
#include <errno.h>
#include <liburing.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define SQ_ENTRIES 8
#define CQ_ENTRIES 64
#define BUFS 8
#define BUF_SIZE 256
#define RING_MEM (64 * 1024)

/* What a blocking thread's ring is charged, at most. */
#define THREAD_RING (16 * 1024UL)

/* What the child found out: 0 or -errno each. UNTRIED: it did not come so far. */
#define UNTRIED 1
struct findings {
    int ring;
    int plain;
    int inc;
    int futex;
};

static void say(const char *what, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(const char *what, const char *fmt, ...)
{
    va_list ap;

    printf("%-19s", what);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

/* The first number of a file, or of its line that begins with key; -1: there is none. */
static long number_in(const char *path, const char *key)
{
    char line[256];
    long n = -1;
    FILE *f = fopen(path, "r");

    if (!f)
        return -1;
    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, strlen(key)) == 0) {
            n = strtol(line + strlen(key), NULL, 10);
            break;
        }
    }
    fclose(f);
    return n;
}

/* One step: submit, wait for one completion, 0 or -errno. The kernel answers at once or fails. */
static int next_cqe(struct io_uring *ring, struct io_uring_cqe *out)
{
    struct __kernel_timespec limit = {.tv_sec = 2};
    struct io_uring_cqe *cqe;
    int err = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &limit, NULL);

    if (err < 0)
        return err;
    *out = *cqe;
    io_uring_cqe_seen(ring, cqe);
    return 0;
}

/*
 * Two messages through a socketpair into a buffer ring with the given flags. Without INC each takes a
 * buffer; with it both land in one, which the kernel announces by F_BUF_MORE: a kernel that took the
 * flag and does something else is found out here, not by its version.
 */
static int try_buffers(struct io_uring *ring, uint16_t bgid, unsigned flags)
{
    static const char words[2][6] = {"hello", "world"};
    struct io_uring_buf_ring *br;
    struct io_uring_sqe *sqe;
    struct io_uring_cqe cqe;
    unsigned first = 0;
    char *mem;
    int pair[2], err;

    mem = mmap(NULL, BUFS * BUF_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED)
        return -errno;
    br = io_uring_setup_buf_ring(ring, BUFS, bgid, flags, &err);
    if (!br)
        return err;
    for (unsigned i = 0; i < BUFS; i++)
        io_uring_buf_ring_add(br, mem + i * BUF_SIZE, BUF_SIZE, (uint16_t)i, BUFS - 1, (int)i);
    io_uring_buf_ring_advance(br, BUFS);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return -errno;
    sqe = io_uring_get_sqe(ring);
    io_uring_prep_recv_multishot(sqe, pair[0], NULL, 0, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = bgid;
    sqe->user_data = bgid;
    for (unsigned i = 0; i < 2; i++) {
        bool inc = flags & IOU_PBUF_RING_INC;
        unsigned bid, at;

        io_uring_submit(ring);
        if (send(pair[1], words[i], 5, MSG_NOSIGNAL) != 5)
            return -errno;
        err = next_cqe(ring, &cqe);
        if (err)
            return err;
        if (cqe.res < 0)
            return cqe.res;
        bid = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
        if (i == 0)
            first = bid;
        at = inc ? first * BUF_SIZE + i * 5 : bid * BUF_SIZE;
        if (cqe.res != 5 || !(cqe.flags & IORING_CQE_F_BUFFER) ||
            !(cqe.flags & IORING_CQE_F_MORE) || inc != !!(cqe.flags & IORING_CQE_F_BUF_MORE) ||
            (i == 1 && inc != (bid == first)) || bid >= BUFS || memcmp(mem + at, words[i], 5) != 0)
            return -EPROTO;
    }
    close(pair[1]);
    err = next_cqe(ring, &cqe);
    if (!err && (cqe.res != 0 || cqe.flags & IORING_CQE_F_MORE))
        err = -EPROTO;
    close(pair[0]);
    return err;
}

/* A wait on a word that has changed answers -EAGAIN at once; an unknown operation -EINVAL. */
static int try_futex(struct io_uring *ring)
{
    static uint32_t word = 1;
    struct io_uring_cqe cqe;
    int err;

    io_uring_prep_futex_wait(io_uring_get_sqe(ring), &word, 2, FUTEX_BITSET_MATCH_ANY,
                             FUTEX2_SIZE_U32 | FUTEX2_PRIVATE, 0);
    err = next_cqe(ring, &cqe);
    if (err)
        return err;
    return cqe.res == -EAGAIN ? 0 : cqe.res < 0 ? cqe.res : -EPROTO;
}

static void try_all(struct findings *f)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_NO_MMAP |
                 IORING_SETUP_REGISTERED_FD_ONLY | IORING_SETUP_NO_SQARRAY | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    struct io_uring ring;
    int ret;
    void *mem = mmap(NULL, RING_MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (mem == MAP_FAILED) {
        f->ring = -errno;
        return;
    }
    /* Pinned pages of a huge page would charge all of it. */
    madvise(mem, RING_MEM, MADV_NOHUGEPAGE);
    ret = io_uring_queue_init_mem(SQ_ENTRIES, &ring, &p, mem, RING_MEM);
    f->ring = ret < 0 ? ret : 0;
    if (f->ring)
        return;
    f->plain = try_buffers(&ring, 1, 0);
    f->inc = try_buffers(&ring, 2, IOU_PBUF_RING_INC);
    f->futex = try_futex(&ring);
}

/* Runs try_all() in a child. False: it was killed. */
static bool find_out(struct findings *f)
{
    struct findings *shared =
        mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = 0;
    pid_t pid;

    if (shared == MAP_FAILED || (fflush(NULL), pid = fork()) < 0) {
        perror("pbufshim-check");
        exit(2);
    }
    *shared = (struct findings){UNTRIED, UNTRIED, UNTRIED, UNTRIED};
    if (pid == 0) {
        struct rlimit no_core = {0, 0};

        setrlimit(RLIMIT_CORE, &no_core);
        alarm(10);
        try_all(shared);
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *f = *shared;
    return WIFEXITED(status);
}

static const char *why_no_ring(int err, long disabled)
{
    switch (-err) {
    case EPERM:
        if (disabled > 0)
            return "the sysctl kernel.io_uring_disabled forbids it to this user";
        return "a security policy forbids it (a container's seccomp filter, usually)";
    case ENOSYS:
        return "this kernel has no io_uring, or a container's seccomp filter hides it";
    case EINVAL:
    case EOPNOTSUPP:
        return "this kernel lacks a kind of ring that is needed (Linux 6.10 or newer has it)";
    case ENOMEM:
        return "the limit of locked memory is used up (RLIMIT_MEMLOCK)";
    default:
        return "unexpected";
    }
}

static bool memlock_exempt(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};

    return syscall(SYS_capget, &head, data) == 0 &&
           (data[CAP_IPC_LOCK / 32].effective & 1U << CAP_IPC_LOCK % 32);
}

static void say_memlock(void)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_MEMLOCK, &lim))
        return;
    if (lim.rlim_cur == RLIM_INFINITY)
        say("locked memory:", "no limit");
    else if (memlock_exempt())
        say("locked memory:", "limit %lu KiB, from which this user is exempt (CAP_IPC_LOCK)",
            (unsigned long)lim.rlim_cur / 1024);
    else
        say("locked memory:",
            "limit %lu KiB; a quarter of it is used: rings for at least %lu blocking threads, "
            "others pass",
            (unsigned long)lim.rlim_cur / 1024, (unsigned long)lim.rlim_cur / 4 / THREAD_RING);
}

static void say_feature(const char *what, int found, const char *yes, const char *no)
{
    if (found == 0)
        say(what, "yes%s", yes);
    else
        say(what, "no%s (%s)", no, found == UNTRIED ? "not tried" : strerror(-found));
}

int main(void)
{
    static const char *const sysctl_words[] = {"0: everybody may use io_uring",
                                               "1: only members of its group and root may",
                                               "2: nobody may"};
    long disabled = number_in("/proc/sys/kernel/io_uring_disabled", "");
    long seccomp = number_in("/proc/self/status", "Seccomp:");
    struct findings f;
    struct utsname u;
    bool alive;

    uname(&u);
    say("kernel:", "%s %s %s", u.sysname, u.release, u.machine);
    if (disabled >= 0 && disabled <= 2)
        say("io_uring_disabled:", "%s", sysctl_words[disabled]);
    else
        say("io_uring_disabled:", "this kernel has no such sysctl");
    say("seccomp:", "%s", seccomp == 0 ? "no filter" : seccomp > 0 ? "a filter is on" : "unknown");
    alive = find_out(&f);
    if (!alive && f.ring == UNTRIED) {
        say("ring:", "no: the attempt is answered by a kill; programs run on plain calls");
        return 1;
    }
    if (f.ring) {
        say("ring:", "no: %s (%s); programs run on plain calls", why_no_ring(f.ring, disabled),
            strerror(-f.ring));
        return 1;
    }
    say("ring:", "yes, without a descriptor");
    say_feature("provided buffers:", f.plain, "", ": programs run on plain calls");
    say_feature("INC buffers:", f.inc, ", several messages share a buffer",
                ": a message, a buffer");
    say_feature("futex wait:", f.futex, ", programs with threads are served",
                ": only programs with one thread are served");
    say_memlock();
    return f.plain == 0 ? 0 : 1;
}

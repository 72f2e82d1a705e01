/*
 * A signal that comes while a wait is just being looked after for other reasons: nothing of what was waited
 * for had come, so the call ends with EINTR, whatever the handler then makes come. (A timer of the library's
 * that was due at the same moment once passed for news.)
 *
 * A tracer finds that moment: where the wait's system call ends by itself.
 */
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "stall.h"

#define DUE_MS 1300 /* longer than any timer that is set for what is no more in use */
#define PUT 10

static struct pair p;
static char buf[100];

enum { BEGIN, READY, TRACED, WAITING, REFUSED };
static atomic_int *state; /* shared with the tracer */

static void on_usr1(int sig)
{
    (void)sig;
    put(&p, PUT);
    take(&p, 1); /* and so the rest was seen, too */
}

static ssize_t in_recv(void)
{
    *state = WAITING;
    return recv(p.us, buf, sizeof(buf), 0);
}

static ssize_t in_poll(void)
{
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};

    *state = WAITING;
    return poll(&pfd, 1, -1);
}

static ssize_t in_epoll(uint32_t events)
{
    struct epoll_event ev = {.events = events};
    int ep = MUST(epoll_create1(0));
    ssize_t r;

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev));
    for (int i = 0; i < 20; i++) { /* so that whoever waits on it has had practice */
        put(&p, 1);
        CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
        take(&p, 1);
    }
    *state = WAITING;
    r = epoll_wait(ep, &ev, 1, -1);
    close(ep); /* leaves errno alone */
    return r;
}

static ssize_t in_epoll_level(void)
{
    return in_epoll(EPOLLIN);
}

static ssize_t in_epoll_edge(void)
{
    return in_epoll(EPOLLIN | EPOLLET);
}

/* Something large was read, so that there is something to be given back. */
static void read_much(void)
{
    struct writer w;

    writer_start(&w, &p, 1 << 20);
    take(&p, 1 << 20);
    CHECK_EQ(writer_join(&w), 0);
}

/* The next stop of the tracee, within ms; false: there was none. */
static bool next_stop(pid_t tracee, int64_t ms, int *status)
{
    int64_t until = now_ms() + ms;

    while (MUST(waitpid(tracee, status, __WALL | WNOHANG)) == 0) {
        if (now_ms() > until)
            return false;
        test_yield();
    }
    CHECK(WIFSTOPPED(*status));
    return true;
}

#define SYSCALL_STOP (SIGTRAP | 0x80)

/*
 * From system call to system call until it sleeps in its wait. Where that ends by itself, or when it is
 * clear that it does not, comes the signal.
 */
static void trace(pid_t tracee)
{
    int status;

    if (ptrace(PTRACE_SEIZE, tracee, NULL, PTRACE_O_TRACESYSGOOD) != 0) {
        *state = REFUSED;
        return;
    }
    *state = TRACED;
    CHECK(next_stop(tracee, slack(5000), &status)); /* by its SIGUSR2 */
    MUST(ptrace(PTRACE_SYSCALL, tracee, NULL, NULL));
    while (*state != WAITING || !thread_asleep(tracee))
        if (next_stop(tracee, 0, &status))
            MUST(ptrace(PTRACE_SYSCALL, tracee, NULL, NULL));
    if (!next_stop(tracee, DUE_MS, &status)) {
        MUST(syscall(SYS_tgkill, tracee, tracee, SIGUSR1));
        CHECK(next_stop(tracee, slack(5000), &status));
    } else {
        CHECK_EQ(WSTOPSIG(status), SYSCALL_STOP);
        MUST(syscall(SYS_tgkill, tracee, tracee, SIGUSR1));
        MUST(ptrace(PTRACE_CONT, tracee, NULL, NULL));
        CHECK(next_stop(tracee, slack(5000), &status));
    }
    if (WSTOPSIG(status) == SYSCALL_STOP) { /* the signal has ended it */
        MUST(ptrace(PTRACE_CONT, tracee, NULL, NULL));
        CHECK(next_stop(tracee, slack(5000), &status));
    }
    CHECK_EQ(WSTOPSIG(status), SIGUSR1);
    MUST(ptrace(PTRACE_DETACH, tracee, NULL, SIGUSR1));
}

static void interrupted(ssize_t (*wait)(void))
{
    struct sigaction sa = {.sa_handler = on_usr1};
    pid_t tracee = getpid(), tracer;

    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(state != MAP_FAILED);
    MUST(sigaction(SIGUSR1, &sa, NULL));
    tracer = MUST(fork());
    if (tracer == 0) {
        while (*state != READY)
            test_yield();
        trace(tracee);
        _exit(0);
    }
    prctl(PR_SET_PTRACER, tracer);
    p = pair_open_warm();
    read_much();
    *state = READY;
    while (*state == READY)
        test_yield();
    if (*state == REFUSED)
        test_skip("this process may not be traced");
    MUST(raise(SIGUSR2));
    errno = 0;
    if (wait() != -1 || errno != EINTR)
        FAIL("errno %d", errno);
    take(&p, PUT - 1);
    check_empty(p.us);
    pair_close(&p);
    check_child(tracer);
}

static void test_signal_beside_a_timer_ends_a_receive(void)
{
    interrupted(in_recv);
}

static void test_signal_beside_a_timer_ends_a_poll(void)
{
    interrupted(in_poll);
}

static void test_signal_beside_a_timer_ends_an_epoll_wait(void)
{
    interrupted(in_epoll_level);
}

static void test_signal_beside_a_timer_ends_an_epoll_wait_by_edge(void)
{
    interrupted(in_epoll_edge);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_signal_beside_a_timer_ends_a_receive),
    CASE_ONCE(test_signal_beside_a_timer_ends_a_poll),
    CASE_ONCE(test_signal_beside_a_timer_ends_an_epoll_wait),
    CASE_ONCE(test_signal_beside_a_timer_ends_an_epoll_wait_by_edge),
    CASES_END,
};

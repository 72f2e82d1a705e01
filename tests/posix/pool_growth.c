/*
 * Bursts, and long times of nothing between them: memory that a burst has taken is given back, and
 * no wait in between notices, by a word or by its time.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "loop.h"
#include "proc.h"
#include "stall.h"

#define MEMBERS 60
#define IDLE_MS 1300 /* longer than anybody should keep what he does not use */

struct crowd {
    int ep;
    struct pair p[MEMBERS];
};

static void crowd_open(struct crowd *c)
{
    c->ep = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < MEMBERS; i++)
        c->p[i] = ep_pair(c->ep, EPOLLIN, (uint64_t)i);
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < MEMBERS; i++)
        pair_close(&c->p[i]);
    MUST(close(c->ep));
}

/* All have much to say at a time, and it is read bit by bit. */
static void burst(struct crowd *c, size_t n)
{
    size_t left = n * MEMBERS;

    for (int i = 0; i < MEMBERS; i++)
        put(&c->p[i], n);
    while (left) {
        struct epoll_event ev[MEMBERS];
        int k = MUST(epoll_wait(c->ep, ev, MEMBERS, 5000));

        CHECK(k > 0);
        for (int i = 0; i < k; i++) {
            struct pair *p = &c->p[ev[i].data.u64];
            size_t part = p->sent - p->got < 1000 ? (size_t)(p->sent - p->got) : 1000;

            take(p, part);
            left -= part;
        }
    }
    check_quiet(c->ep, false);
}

/* A wait of which nothing comes lasts its time, and little longer. */
static void check_lasted(int64_t since, int64_t ms)
{
    int64_t took = now_ms() - since;

    if (took < ms - 5 || took > ms + slack(1000))
        FAIL("a wait of %lld ms lasted %lld", (long long)ms, (long long)took);
}

static int64_t cpu_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void *idle_in_epoll(void *arg)
{
    struct crowd c;
    struct epoll_event ev;
    int64_t since, cpu;

    crowd_open(&c);
    for (int i = 0; i < 2; i++) {
        burst(&c, 9000);
        since = now_ms();
        cpu = cpu_ms();
        CHECK_EQ(epoll_wait(c.ep, &ev, 1, IDLE_MS), 0);
        check_lasted(since, IDLE_MS);
        CHECK(cpu_ms() - cpu < slack(100));
    }
    burst(&c, 9000);
    crowd_close(&c);
    return arg;
}

static void *idle_in_poll_and_select(void *arg)
{
    struct crowd c;
    struct pollfd set[MEMBERS];
    struct timeval tv = {1, 200000};
    int64_t since;
    fd_set in;

    crowd_open(&c);
    for (int i = 0; i < MEMBERS; i++)
        set[i] = (struct pollfd){.fd = c.p[i].us, .events = POLLIN};
    burst(&c, 9000);
    since = now_ms();
    CHECK_EQ(poll(set, MEMBERS, IDLE_MS), 0);
    check_lasted(since, IDLE_MS);
    burst(&c, 9000);
    since = now_ms();
    FD_ZERO(&in);
    FD_SET(c.p[0].us, &in);
    CHECK_EQ(select(c.p[0].us + 1, &in, NULL, NULL, &tv), 0);
    check_lasted(since, 1200);
    burst(&c, 9000);
    crowd_close(&c);
    return arg;
}

/* A fast writer, a slow reader, and then nothing. */
static void flood(struct pair *p, uint64_t n)
{
    struct writer w;

    writer_start(&w, p, n);
    while (n) {
        size_t part = n < 777 ? (size_t)n : 777;

        take(p, part);
        n -= part;
    }
    CHECK_EQ(writer_join(&w), 0);
}

static void *idle_in_recv(void *arg)
{
    struct pair p = pair_open_warm();
    int64_t since;
    char byte;

    for (int i = 0; i < 2; i++) {
        flood(&p, 1 << 20);
        set_timeout(p.us, IDLE_MS);
        since = now_ms();
        CHECK_ERR(recv(p.us, &byte, 1, 0), EAGAIN);
        check_lasted(since, IDLE_MS);
        set_timeout(p.us, 0);
    }
    flood(&p, 1 << 20);
    pair_close(&p);
    return arg;
}

static void *put_later(void *arg)
{
    struct timespec long_time = {.tv_sec = 2, .tv_nsec = 200 * 1000000};

    nanosleep(&long_time, NULL); /* what is tested is a long time of nothing */
    put_now(arg, 10);
    return NULL;
}

static void *asleep_without_limit(void *arg)
{
    struct pair p = pair_open_warm();
    struct worker w;
    char some[10];

    flood(&p, 1 << 20);
    worker_start(&w, put_later, &p);
    CHECK_EQ(recv(p.us, some, sizeof(some), MSG_WAITALL), sizeof(some));
    check_next(&p, some, sizeof(some));
    worker_join(&w);
    flood(&p, 1 << 20);
    pair_close(&p);
    return arg;
}

/* Each in a thread of its own, at the same time. */
static void test_growth_idle_waits_last_their_time(void)
{
    static void *(*const waits[])(void *) = {idle_in_epoll, idle_in_poll_and_select, idle_in_recv,
                                             asleep_without_limit};
    struct worker w[COUNT_OF(waits)];

    for (size_t i = 0; i < COUNT_OF(waits); i++)
        worker_start(&w[i], waits[i], NULL);
    for (size_t i = 0; i < COUNT_OF(waits); i++)
        worker_join(&w[i]);
}

static void test_growth_idle_wait_of_a_single_thread_lasts_its_time(void)
{
    idle_in_epoll(NULL);
}

static long sleeps(void)
{
    struct rusage use;

    MUST(getrusage(RUSAGE_THREAD, &use));
    return use.ru_nvcsw;
}

/* When all is given back that can be, nothing wakes a thread that waits. */
static void test_growth_idle_thread_sleeps_on(void)
{
    struct epoll_event ev;
    struct crowd c;
    long before;

    crowd_open(&c);
    burst(&c, 20000);
    CHECK_EQ(epoll_wait(c.ep, &ev, 1, 2 * IDLE_MS), 0);
    before = sleeps();
    CHECK_EQ(epoll_wait(c.ep, &ev, 1, 2 * IDLE_MS), 0);
    if (sleeps() - before > 2) /* with one for what the system itself has for it */
        FAIL("slept %ld times in one wait", sleeps() - before);
    burst(&c, 9000);
    crowd_close(&c);
}

static void fail_to_execute(void)
{
    char *nothing[] = {NULL};

    CHECK_ERR(execv("/nothing/there", nothing), ENOENT);
}

static void fork_a_child(void)
{
    pid_t pid = MUST(fork());

    if (!pid)
        _exit(0);
    check_child(pid);
}

static atomic_bool over;

static void *do_now_and_then(void *arg)
{
    struct timespec little = {.tv_nsec = 70000000};

    while (!atomic_load(&over)) {
        (*(void (**)(void))arg)();
        nanosleep(&little,
                  NULL); /* often enough for one to be just before or after a second's end */
    }
    return NULL;
}

/* Nothing is left of a burst's memory after a while of little. */
static int grow_and_idle(void (*act)(void))
{
    struct epoll_event ev;
    struct worker w;
    struct crowd c;
    long before;

    crowd_open(&c);
    burst(&c, 10);
    before = resident_kib();
    burst(&c, 60000);
    for (int i = 0; i < (act ? 7 : 4); i++) {
        int64_t since = now_ms();

        CHECK_EQ(epoll_wait(c.ep, &ev, 1, IDLE_MS / 2), 0);
        check_lasted(since, IDLE_MS / 2);
        burst(&c, 1);
        if (i == 0 && act)
            worker_start(&w, do_now_and_then, &act);
        if (i == 3 && act) { /* from here on a time of little: nobody else has the connections */
            atomic_store(&over, true);
            worker_join(&w);
        }
    }
    /* By default connections that do not block are not served again once a child had them: what a thread
     * serves nothing with it keeps. */
    if (!TEST_ASAN && !TEST_TSAN && !(act == fork_a_child && leg_is("auto")) &&
        resident_kib() - before > 1536)
        FAIL("%ld KiB more than before the bursts", resident_kib() - before);
    crowd_close(&c);
    return 0;
}

static int helper(int argc, char **argv)
{
    (void)argc;
    return grow_and_idle(strcmp(argv[0], "exec") == 0   ? fail_to_execute
                         : strcmp(argv[0], "fork") == 0 ? fork_a_child
                                                        : NULL);
}

static void check_given_back(const char *word, const char *groups)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        MUST(setenv("PBUFSHIM_GROUPS", groups, 1)); /* means nothing to a program */
        execl(test_self, test_self, "--helper", word, (char *)NULL);
        _exit(126);
    }
    check_child(pid);
    check_counted("shim", pid, "trims", 1);
}

static void test_growth_is_given_back(void)
{
    check_given_back("grow", "shared");
}

static void test_growth_of_single_sockets_is_given_back(void)
{
    check_given_back("grow", "socket");
}

static void test_growth_is_given_back_across_failing_execs(void)
{
    check_given_back("exec", "shared");
}

static void test_growth_is_given_back_across_forks(void)
{
    check_given_back("fork", "shared");
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_growth_idle_waits_last_their_time),
    CASE_ONCE(test_growth_idle_wait_of_a_single_thread_lasts_its_time),
    CASE_ONCE(test_growth_idle_thread_sleeps_on),
    CASE_ONCE(test_growth_is_given_back),
    CASE_ONCE(test_growth_of_single_sockets_is_given_back),
    CASE_ONCE(test_growth_is_given_back_across_failing_execs),
    CASE_ONCE(test_growth_is_given_back_across_forks),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = helper;
}

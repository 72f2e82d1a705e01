/*
 * Loops with many members: ten thousand of which few are busy, all of them ready at once, one that
 * never stops sending.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "leg.h"
#include "loop.h"

#define MANY 10000

struct crowd {
    int ep, n;
    struct pair *p;
};

/* As many as may be open, all seen empty. */
static void crowd_open(struct crowd *c, int n, uint32_t trigger)
{
    int listener = listener_open(AF_INET);
    struct rlimit lim;

    MUST(getrlimit(RLIMIT_NOFILE, &lim));
    lim.rlim_cur = lim.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &lim));
    if (lim.rlim_cur != RLIM_INFINITY && (rlim_t)n > (lim.rlim_cur - 50) / 2)
        n = (int)((lim.rlim_cur - 50) / 2);
    c->ep = MUST(epoll_create1(0));
    c->n = n;
    c->p = calloc((size_t)n, sizeof(*c->p));
    CHECK(c->p);
    for (int i = 0; i < n; i++) {
        c->p[i].peer = connect_to(listener);
        c->p[i].us = MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
        ep_ctl(c->ep, EPOLL_CTL_ADD, c->p[i].us, EPOLLIN | trigger, (uint64_t)i);
        check_empty(c->p[i].us);
    }
    close(listener);
}

static void crowd_close(struct crowd *c)
{
    for (int i = 0; i < c->n; i++)
        pair_close(&c->p[i]);
    close(c->ep);
    free(c->p);
}

static int64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static long resident_bytes(void)
{
    long all, resident;
    FILE *f = fopen("/proc/self/statm", "re");

    CHECK(f && fscanf(f, "%ld %ld", &all, &resident) == 2);
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

/* CPU time of a thousand rounds in which `busy` members are written to, told of, and read. */
static int64_t rounds(struct crowd *c, int busy)
{
    struct epoll_event ev[16];
    int64_t begin = cpu_ns();

    for (int i = 0; i < 1000; i++) {
        int left = busy;

        for (int k = 0; k < busy; k++)
            put_now(&c->p[(i * 7 + k * 13) % c->n], 10);
        while (left) {
            int n = MUST(epoll_wait(c->ep, ev, 16, 5000));

            CHECK(n > 0);
            for (int k = 0; k < n; k++)
                left -= read_all(&c->p[ev[k].data.u64], 64) == 10;
        }
    }
    return cpu_ns() - begin;
}

static int64_t least_of_three(struct crowd *c, int busy)
{
    int64_t least = INT64_MAX;

    for (int i = 0; i < 3; i++) {
        int64_t took = rounds(c, busy);

        if (took < least)
            least = took;
    }
    return least;
}

static void test_scale_a_wake_up_costs_the_same_among_ten_thousand(void)
{
    struct crowd few, many;
    int64_t alone, crowded;
    long before;

    crowd_open(&few, 100, 0);
    alone = least_of_three(&few, 5);
    crowd_close(&few);
    before = resident_bytes();
    crowd_open(&many, MANY, 0);
    /* In leg inc each has buffers of its own. */
    if (!TEST_ASAN && !TEST_TSAN && !leg_is("inc") &&
        resident_bytes() - before > many.n * 1024L + (2 << 20))
        FAIL("%ld bytes for %d idle members", resident_bytes() - before, many.n);
    crowded = least_of_three(&many, 5);
    /* Three times is for the caches, more for a busy machine; a cost that grew with the idle ones
     * would be a hundred times. */
    if (crowded > alone * 10)
        FAIL("%d idle members: %lld ns, and %lld among 100", many.n, (long long)crowded,
             (long long)alone);
    crowd_close(&many);
}

/* All have something to say while the loop is away; nobody is lost and nobody is left for long. */
static void all_at_once(int n, size_t bytes, uint32_t trigger, int max)
{
    struct epoll_event *ev = calloc((size_t)max, sizeof(*ev));
    struct crowd c;

    CHECK(ev);
    crowd_open(&c, n, trigger);
    for (int round = 0; round < 3; round++) {
        char *told = calloc((size_t)c.n, 1);
        int seen = 0;

        CHECK(told);
        for (int i = 0; i < c.n; i++)
            put(&c.p[i], bytes);
        /* Told of each before one is told twice too often. */
        for (int calls = 0; seen < c.n; calls++) {
            int k = MUST(epoll_wait(c.ep, ev, max, 5000));

            if (k < 1 || calls > 4 * c.n / max + 40)
                FAIL("%d of %d told after %d calls", seen, c.n, calls);
            while (k--)
                seen += !told[ev[k].data.u64]++;
        }
        /* Each of them reads a little, then all that is left. */
        for (int i = 0; i < c.n; i++)
            take(&c.p[i], 1);
        for (int i = 0; i < c.n; i++)
            CHECK_EQ(read_all(&c.p[i], 200), bytes - 1);
        check_quiet(c.ep, trigger);
        free(told);
    }
    crowd_close(&c);
    free(ev);
}

static void test_scale_more_ready_than_one_enter_runs(void)
{
    all_at_once(64, 40, 0, 64);
    all_at_once(64, 40, EPOLLET, 8);
}

static void test_scale_more_ready_than_completions_fit(void)
{
    all_at_once(500, 40, 0, 500);
    all_at_once(500, 40, EPOLLET, 10);
}

static void test_scale_more_ready_than_buffers(void)
{
    all_at_once(300, 9000, 0, 50);
    all_at_once(300, 9000, EPOLLET, 300);
}

struct flood {
    struct pair *p;
    atomic_bool over;
    uint64_t sent;
};

static void *flood(void *arg)
{
    struct flood *f = arg;
    char some[8192];

    while (!f->over) {
        ssize_t n;

        memset(some, 'f', sizeof(some));
        n = send(f->p->peer, some, sizeof(some), MSG_DONTWAIT);
        if (n > 0)
            f->sent += (uint64_t)n;
        else
            sched_yield();
    }
    return NULL;
}

/* One sends without end; the others are told of within a few calls. */
static void test_scale_one_that_never_stops_starves_nobody(void)
{
    for (int edge = 0; edge < 2; edge++) {
        struct crowd c;
        struct flood f = {.sent = 0};
        struct worker w;
        uint64_t got = 0;
        char some[4096];
        ssize_t n;

        crowd_open(&c, 40, edge ? EPOLLET : 0);
        f.p = &c.p[0];
        worker_start(&w, flood, &f);
        for (int i = 0; i < 200; i++) {
            int who = 1 + i % 39;
            bool told = false;

            put(&c.p[who], 10);
            for (int calls = 0; !told; calls++) {
                struct epoll_event ev[1];

                CHECK_EQ(epoll_wait(c.ep, ev, 1, 5000), 1);
                if (calls > 40)
                    FAIL("member %d is not told of in %d calls", who, calls);
                told = ev[0].data.u64 == (uint64_t)who;
                if (told)
                    CHECK_EQ(read_all(&c.p[who], 64), 10);
                for (int k = 0; !told && k < 50 && (n = read(c.p[0].us, some, sizeof(some))) > 0;
                     k++)
                    got += (uint64_t)n;
            }
        }
        f.over = true;
        worker_join(&w);
        while ((n = read(c.p[0].us, some, sizeof(some))) > 0 || got < f.sent)
            got += n > 0 ? (uint64_t)n : 0;
        CHECK_EQ(got, f.sent);
        crowd_close(&c);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_scale_a_wake_up_costs_the_same_among_ten_thousand),
    CASE_ONCE(test_scale_more_ready_than_one_enter_runs),
    CASE_ONCE(test_scale_more_ready_than_completions_fit),
    CASE_ONCE(test_scale_more_ready_than_buffers),
    CASE_ONCE(test_scale_one_that_never_stops_starves_nobody),
    CASES_END,
};

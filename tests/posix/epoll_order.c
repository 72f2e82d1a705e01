/*
 * In which order a loop is told of several connections: by their arrival, oldest first, whoever
 * brings the news and however long each has been a member.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "loop.h"

enum { MOST = 4 };

/* What happens to a member before the wait. */
enum news { BYTES, FIN, PIPE };

struct member {
    struct pair p;
    int ends[2]; /* of a pipe */
    enum news news;
    bool served; /* by the loop, before */
};

/* The loop has read from it: what comes next may come by another way than to one that is new. */
static void serve(int ep, struct member *m, uint64_t data)
{
    for (int i = 0; i < WARM_READS / 4; i++) {
        put(&m->p, 5);
        check_event(ep, data, EPOLLIN);
        CHECK_EQ(read_all(&m->p, 2), 5);
        check_quiet(ep, false);
    }
}

static void join(int ep, struct member *m, uint64_t data)
{
    if (m->news == PIPE) {
        MUST0(pipe(m->ends));
        ep_ctl(ep, EPOLL_CTL_ADD, m->ends[0], EPOLLIN, data);
        return;
    }
    m->p = pair_open();
    set_nonblock(m->p.us, true);
    ep_ctl(ep, EPOLL_CTL_ADD, m->p.us, EPOLLIN, data);
    if (m->served)
        serve(ep, m, data);
}

static void happen(struct member *m)
{
    if (m->news == PIPE)
        CHECK_EQ(write(m->ends[1], "x", 1), 1);
    else if (m->news == FIN)
        peer_fin(&m->p);
    else
        put(&m->p, 5);
}

static void leave(struct member *m)
{
    if (m->news != PIPE) {
        pair_close(&m->p);
        return;
    }
    close(m->ends[0]);
    close(m->ends[1]);
}

/* A letter for a member, in the order in which something happens to them: f, F: FIN; b, B: bytes; p: a
 * pipe; capitals for those that the loop has served before. They join in alphabetical order of `joins`. */
static void run(const char *news, const char *joins, int ms, bool twice)
{
    int ep = MUST(epoll_create1(0)), n = (int)strlen(news);
    struct member m[MOST] = {0};
    struct epoll_event ev[MOST];

    for (int i = 0; i < n; i++) {
        m[i].news = strchr("fF", news[i]) ? FIN : news[i] == 'p' ? PIPE : BYTES;
        m[i].served = strchr("BF", news[i]) != NULL;
    }
    for (int k = 0; k < n; k++)
        join(ep, &m[joins[k] - '0'], (uint64_t)(joins[k] - '0'));
    for (int again = 0; again <= twice; again++) {
        for (int i = 0; i < n; i++)
            happen(&m[i]);
        CHECK_EQ(epoll_wait(ep, ev, MOST, ms), n);
        for (int i = 0; i < n; i++)
            if (ev[i].data.u64 != (uint64_t)i)
                FAIL("%s joined %s, timeout %d, time %d: event %d is of member %d", news, joins, ms,
                     again, i, (int)ev[i].data.u64);
        if (twice)
            for (int i = 0; i < n; i++)
                CHECK_EQ(read_all(&m[i].p, 2), 5);
    }
    for (int i = 0; i < n; i++)
        leave(&m[i]);
    close(ep);
}

static void run_all(const char *const *news, size_t count, bool twice)
{
    static const char *const orders[] = {"01", "10", "012", "021", "102", "120", "201", "210"};

    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < COUNT_OF(orders); k++)
            for (int ms = -1; ms <= 0; ms++)
                if (strlen(orders[k]) == strlen(news[i]))
                    run(news[i], orders[k], ms, twice);
}

static void test_order_of_bytes(void)
{
    static const char *const news[] = {"BBB", "BbB", "bbB", "Bbb", "BBb"};

    run_all(news, COUNT_OF(news), false);
}

static void test_order_of_bytes_in_a_loop(void)
{
    static const char *const news[] = {"BB", "bB", "Bb"};

    run_all(news, COUNT_OF(news), true);
}

/* Three that come in turn from where the loop has been and from elsewhere are more than it is told of:
 * a listed limit. */
static void test_order_of_ends_among_bytes(void)
{
    static const char *const news[] = {"FB",  "BF",  "Fb",  "bF",  "FF",  "fF",  "Ff",
                                       "FBb", "BFb", "FFb", "bFF", "FFF", "BFF", "Fbb"};

    run_all(news, COUNT_OF(news), false);
}

static void test_order_beside_a_pipe(void)
{
    static const char *const news[] = {"pBB", "BpB", "BBp", "Fp", "pF", "BpF"};

    run_all(news, COUNT_OF(news), false);
}

/* Members that were reported and read since are still in the kernel's list, level-triggered, until a
 * wait finds that they were; an edge-triggered one has left it. */
static void test_order_after_all_was_read(void)
{
    for (int edges = 0; edges < 2; edges++) {
        int ep = MUST(epoll_create1(0));
        struct member m[2] = {{.news = BYTES}, {.news = BYTES}};
        struct epoll_event ev[2];

        for (int i = 0; i < 2; i++) {
            join(ep, &m[i], (uint64_t)i);
            serve(ep, &m[i], (uint64_t)i);
            if (edges)
                ep_ctl(ep, EPOLL_CTL_MOD, m[i].p.us, EPOLLIN | EPOLLET, (uint64_t)i);
        }
        for (int again = 0; again < 20; again++) {
            bool back = edges && again % 2;

            for (int i = 0; i < 2; i++) /* and the other way round */
                happen(&m[again % 2 ? 1 - i : i]);
            CHECK_EQ(epoll_wait(ep, ev, 2, -1), 2);
            for (int i = 0; i < 2; i++) {
                CHECK_EQ(ev[i].data.u64, (uint64_t)(back ? 1 - i : i));
                CHECK_EQ(read_all(&m[ev[i].data.u64].p, 2), 5);
            }
        }
        for (int i = 0; i < 2; i++)
            leave(&m[i]);
        close(ep);
    }
}

/* One that was in the last report and was read has its place there until the next: E is before s, which
 * had news first. */
static void test_order_of_what_was_reported_before(void)
{
    int ep = MUST(epoll_create1(0)), event = MUST(eventfd(0, EFD_NONBLOCK));
    struct member m = {.news = BYTES, .served = true};
    struct epoll_event ev[MOST];
    uint64_t one = 1;

    ep_ctl(ep, EPOLL_CTL_ADD, event, EPOLLIN, 7);
    join(ep, &m, 1);
    for (int i = 0; i < 8; i++) {
        MUST(write(event, &one, sizeof(one)));
        CHECK_EQ(epoll_wait(ep, ev, MOST, -1), 1);
        MUST(read(event, &one, sizeof(one)));
        if (i % 2)
            check_quiet(ep, false); /* forgets it */
        put(&m.p, 5);
        MUST(write(event, &one, sizeof(one)));
        CHECK_EQ(epoll_wait(ep, ev, MOST, -1), 2);
        CHECK_EQ(ev[i % 2].data.u64, 7);
        CHECK_EQ(ev[!(i % 2)].data.u64, 1);
        CHECK_EQ(read_all(&m.p, 2), 5);
        MUST(read(event, &one, sizeof(one)));
        check_quiet(ep, false);
    }
    close(event);
    leave(&m);
    close(ep);
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_order_of_what_was_reported_before),
    CASE_ONCE(test_order_of_bytes),
    CASE_ONCE(test_order_of_bytes_in_a_loop),
    CASE_ONCE(test_order_of_ends_among_bytes),
    CASE_ONCE(test_order_beside_a_pipe),
    CASE_ONCE(test_order_after_all_was_read),
    CASES_END,
};

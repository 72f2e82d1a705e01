/*
 * Level-triggered epoll: an item is reported as long as a receive would not block.
 */
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static int by_wait(int ep, struct epoll_event *ev, int n, int ms)
{
    return epoll_wait(ep, ev, n, ms);
}

static int by_pwait(int ep, struct epoll_event *ev, int n, int ms)
{
    return epoll_pwait(ep, ev, n, ms, NULL);
}

static int by_pwait2(int ep, struct epoll_event *ev, int n, int ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

    return epoll_pwait2(ep, ev, n, ms < 0 ? NULL : &ts, NULL);
}

static int (*const calls[])(int ep, struct epoll_event *ev, int n, int ms) = {by_wait, by_pwait,
                                                                              by_pwait2};

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

/* Added before the first receive, or when the socket has been used. */
static struct pair pair_in(int ep, enum where where, size_t n, bool early, uint64_t data)
{
    struct pair p;

    if (!early) {
        p = pair_open_with(where, n);
        add(ep, p.us, EPOLLIN, data);
        return p;
    }
    p = pair_open();
    add(ep, p.us, EPOLLIN, data);
    warm_up(&p);
    if (where == WHERE_QUEUED) {
        put(&p, n);
    } else {
        size_t held = where == WHERE_BOTH ? n / 2 : n;

        put(&p, held + 1);
        take(&p, 1);
        if (n > held)
            put(&p, n - held);
    }
    return p;
}

static void test_level_bytes_waiting_is_reported_until_taken(void)
{
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        for (int where = 0; where < WHERES; where++) {
            for (int early = 0; early < 2; early++) {
                int ep = MUST(epoll_create1(EPOLL_CLOEXEC));
                struct pair p = pair_in(ep, where, 50, early, 0x123456789abcdef0);
                struct epoll_event ev[4];

                for (int i = 0; i < 10; i++) {
                    CHECK_EQ(calls[c](ep, ev, 4, -1), 1);
                    CHECK_EQ(ev[0].events, EPOLLIN);
                    CHECK(ev[0].data.u64 == 0x123456789abcdef0);
                    CHECK_EQ(calls[c](ep, ev, 4, 0), 1);
                    take(&p, 5);
                }
                CHECK_EQ(calls[c](ep, ev, 4, 0), 0);
                CHECK_EQ(calls[c](ep, ev, 4, 5), 0);
                put(&p, 5);
                CHECK_EQ(calls[c](ep, ev, 4, -1), 1);
                take(&p, 5);
                close(ep);
                pair_close(&p);
            }
        }
    }
}

static void test_level_blocked_is_woken_by_bytes(void)
{
    int ep = MUST(epoll_create(1));
    struct pair p = pair_open();
    struct epoll_event ev[4];

    add(ep, p.us, EPOLLIN | EPOLLRDHUP, 7);
    for (int i = 0; i < 60; i++) {
        struct later_put lp;

        later_put(&lp, &p, 9);
        CHECK_EQ(calls[i % 3](ep, ev, 4, i % 6 < 3 ? -1 : 10000), 1);
        CHECK_EQ(ev[0].events, EPOLLIN);
        CHECK_EQ(read(p.us, buf, 100), 9);
        check_next(&p, buf, 9);
        later_join(&lp.l);
    }
    close(ep);
    pair_close(&p);
}

static void test_level_part_read_is_reported_again(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_open_warm();
    struct epoll_event ev[4];

    set_nonblock(p.us, true);
    add(ep, p.us, EPOLLIN, 7);
    for (int i = 0; i < 20; i++) {
        put(&p, 20);
        for (int part = 0; part < 4; part++) {
            CHECK_EQ(epoll_wait(ep, ev, 4, -1), 1);
            CHECK_EQ(read(p.us, buf, 5), 5);
            check_next(&p, buf, 5);
        }
        CHECK_EQ(epoll_wait(ep, ev, 4, 0), 0);
    }
    close(ep);
    pair_close(&p);
}

static void test_level_empty_times_out(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_open_warm();
    struct epoll_event ev;

    add(ep, p.us, EPOLLIN, 7);
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        int64_t start = now_ms();

        CHECK_EQ(calls[c](ep, &ev, 1, 30), 0);
        CHECK(now_ms() - start >= 29);
    }
    close(ep);
    pair_close(&p);
}

static void test_level_taken_in_while_on_another_is_reported(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair other = pair_open_warm(), p = pair_open_warm();
    struct epoll_event ev[4];

    add(ep, p.us, EPOLLIN, 7);
    for (int i = 0; i < 20; i++) {
        put(&p, 5);
        sleep_on_other(&other);
        CHECK_EQ(epoll_wait(ep, ev, 4, -1), 1);
        CHECK_EQ(ev[0].events, EPOLLIN);
        CHECK_EQ(ev[0].data.u64, 7);
        take(&p, 5);
        CHECK_EQ(epoll_wait(ep, ev, 4, 0), 0);
    }
    close(ep);
    pair_close(&p);
    pair_close(&other);
}

static void test_level_many_sockets_each_is_reported(void)
{
    static struct pair all[50];
    struct epoll_event ev[50];
    int ep = MUST(epoll_create1(0));

    for (uint64_t i = 0; i < 50; i++) {
        all[i] = pair_open_warm();
        add(ep, all[i].us, EPOLLIN, i);
    }
    for (int round = 1; round <= 20; round++) {
        uint64_t seen = 0, wanted = 0;

        for (int i = 0; i < 50; i++) {
            if (i % round == 0) {
                put(&all[i], 3);
                wanted |= 1ULL << i;
            }
        }
        while (seen != wanted) {
            int n = epoll_wait(ep, ev, 50, 5000);

            CHECK(n > 0);
            for (int i = 0; i < n; i++) {
                uint64_t bit = 1ULL << ev[i].data.u64;

                CHECK(wanted & bit && !(seen & bit));
                take(&all[ev[i].data.u64], 3);
                seen |= bit;
            }
        }
        CHECK_EQ(epoll_wait(ep, ev, 50, 0), 0);
    }
    for (int i = 0; i < 50; i++)
        pair_close(&all[i]);
    close(ep);
}

static void test_level_out_and_in_are_told_together(void)
{
    for (int where = 0; where < WHERES; where++) {
        int ep = MUST(epoll_create1(0));
        struct pair p = pair_open_with(where, 20);
        struct epoll_event ev[2];

        add(ep, p.us, EPOLLIN | EPOLLOUT | EPOLLRDNORM, 7);
        CHECK_EQ(epoll_wait(ep, ev, 2, -1), 1);
        CHECK_EQ(ev[0].events, EPOLLIN | EPOLLOUT | EPOLLRDNORM);
        take(&p, 20);
        CHECK_EQ(epoll_wait(ep, ev, 2, -1), 1);
        CHECK_EQ(ev[0].events, EPOLLOUT);
        ev[0] = (struct epoll_event){.events = EPOLLOUT};
        MUST(epoll_ctl(ep, EPOLL_CTL_MOD, p.us, &ev[0]));
        put(&p, 5);
        CHECK_EQ(epoll_wait(ep, ev, 2, -1), 1);
        CHECK_EQ(ev[0].events, EPOLLOUT);
        take(&p, 5);
        close(ep);
        pair_close(&p);
    }
}

static void test_level_signal_is_eintr_also_with_restart(void)
{
    for (size_t c = 0; c < COUNT_OF(calls); c++) {
        for (int restart = 0; restart < 2; restart++) {
            int ep = MUST(epoll_create1(0));
            struct pair p = pair_open_warm();
            struct later_kill lk;
            struct epoll_event ev;

            add(ep, p.us, EPOLLIN, 7);
            catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
            later_kill(&lk, SIGUSR1);
            CHECK_ERR(calls[c](ep, &ev, 1, -1), EINTR);
            CHECK_EQ(caught, 1);
            later_join(&lk.l);
            close(ep);
            pair_close(&p);
        }
    }
}

static void test_pwait_mask_lets_a_pending_signal_in(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_open_warm();
    struct epoll_event ev;
    sigset_t usr1, before;

    add(ep, p.us, EPOLLIN, 7);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    catch_signal(SIGUSR1, 0);
    MUST0(pthread_sigmask(SIG_BLOCK, &usr1, &before));
    raise(SIGUSR1);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    CHECK_EQ(caught, 0);
    CHECK_ERR(epoll_pwait(ep, &ev, 1, 1000, &before), EINTR);
    CHECK_EQ(caught, 1);
    close(ep);
    pair_close(&p);
}

static void test_wait_bad_arguments(void)
{
    int ep = MUST(epoll_create1(0));
    struct pair p = pair_open_held(20);
    struct epoll_event ev;
    int (*volatile wait)(int ep, struct epoll_event *ev, int n, int ms) = epoll_wait;

    add(ep, p.us, EPOLLIN, 7);
    CHECK_ERR(wait(ep, &ev, 0, 0), EINVAL);
    CHECK_ERR(wait(ep, &ev, -1, 0), EINVAL);
    CHECK_ERR(wait(p.us, &ev, 1, 0), EINVAL);
    CHECK_ERR(wait(999, &ev, 1, 0), EBADF);
    CHECK_ERR(wait(ep, (void *)8, 1, 0), EFAULT);
    CHECK_EQ(wait(ep, &ev, 1, 0), 1);
    CHECK_ERR(epoll_create(0), EINVAL);
    CHECK_ERR(epoll_create1(1), EINVAL);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, p.us, &ev), EEXIST);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, p.peer, &ev), ENOENT);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_DEL, p.peer, NULL), ENOENT);
    CHECK_ERR(epoll_ctl(ep, 9, p.us, &ev), EINVAL);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &ev), EINVAL);
    CHECK_ERR(epoll_ctl(ep, EPOLL_CTL_MOD, p.us, NULL), EFAULT);
    CHECK_ERR(epoll_ctl(p.us, EPOLL_CTL_ADD, p.peer, &ev), EINVAL);
    take(&p, 20);
    CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    close(ep);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_level_bytes_waiting_is_reported_until_taken),
    CASE(test_level_blocked_is_woken_by_bytes),
    CASE(test_level_part_read_is_reported_again),
    CASE(test_level_empty_times_out),
    CASE(test_level_taken_in_while_on_another_is_reported),
    CASE_ONCE(test_level_many_sockets_each_is_reported),
    CASE(test_level_out_and_in_are_told_together),
    CASE(test_level_signal_is_eintr_also_with_restart),
    CASE(test_pwait_mask_lets_a_pending_signal_in),
    CASE(test_wait_bad_arguments),
    CASES_END,
};

/*
 * poll and ppoll: a socket is readable as long as a receive would not block, wherever its bytes
 * are, beside descriptors of every other kind.
 */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                size_t size);

static uint8_t buf[4096];

static int by_poll(struct pollfd *fds, nfds_t n, int ms)
{
    return poll(fds, n, ms);
}

static int by_poll_chk(struct pollfd *fds, nfds_t n, int ms)
{
    return __poll_chk(fds, n, ms, n * sizeof(*fds));
}

static struct timespec *timespec_of(int ms, struct timespec *ts)
{
    *ts = (struct timespec){ms / 1000, ms % 1000 * 1000000L};
    return ms < 0 ? NULL : ts;
}

static int by_ppoll(struct pollfd *fds, nfds_t n, int ms)
{
    struct timespec ts;

    return ppoll(fds, n, timespec_of(ms, &ts), NULL);
}

static int by_ppoll_chk(struct pollfd *fds, nfds_t n, int ms)
{
    struct timespec ts;

    return __ppoll_chk(fds, n, timespec_of(ms, &ts), NULL, n * sizeof(*fds));
}

static int (*const calls[])(struct pollfd *fds, nfds_t n, int ms) = {by_poll, by_poll_chk, by_ppoll,
                                                                     by_ppoll_chk};

#define FOR_EACH_CALL(c) for (size_t c = 0; c < COUNT_OF(calls); c++)

static void test_poll_bytes_waiting_is_readable_until_taken(void)
{
    FOR_EACH_CALL(c)
    {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 50);
            struct pollfd pfd = {.fd = p.us, .events = POLLIN};

            for (int i = 0; i < 10; i++) {
                pfd.revents = 0x7fff;
                CHECK_EQ(calls[c](&pfd, 1, -1), 1);
                CHECK_EQ(pfd.revents, POLLIN);
                CHECK_EQ(calls[c](&pfd, 1, 0), 1);
                take(&p, 5);
            }
            CHECK_EQ(calls[c](&pfd, 1, 0), 0);
            CHECK_EQ(pfd.revents, 0);
            pair_close(&p);
        }
    }
}

static void test_poll_empty_times_out(void)
{
    FOR_EACH_CALL(c)
    {
        struct pair p = pair_open_warm();
        struct pollfd pfd = {.fd = p.us, .events = POLLIN | POLLPRI | POLLRDHUP};
        int64_t start = now_ms();

        CHECK_EQ(calls[c](&pfd, 1, 30), 0);
        CHECK(now_ms() - start >= 29);
        pair_close(&p);
    }
}

static void test_poll_blocked_is_woken_by_bytes(void)
{
    struct pair p = pair_open();

    for (int i = 0; i < 40; i++) {
        struct pollfd pfd = {.fd = p.us, .events = POLLIN};
        struct later_put lp;

        later_put(&lp, &p, 9);
        CHECK_EQ(calls[i % 4](&pfd, 1, i % 8 < 4 ? -1 : 10000), 1);
        CHECK_EQ(pfd.revents, POLLIN);
        CHECK_EQ(recv(p.us, buf, 100, MSG_DONTWAIT), 9);
        check_next(&p, buf, 9);
        later_join(&lp.l);
    }
    pair_close(&p);
}

static void test_poll_mariadbs_way_is_right(void)
{
    struct pair p = pair_open_warm();

    /* recv(4) EAGAIN, poll, recv(4), recv(body) */
    for (int i = 0; i < 200; i++) {
        struct pollfd pfd = {.fd = p.us, .events = POLLIN};
        struct later_put lp;

        CHECK_ERR(recv(p.us, buf, 4, MSG_DONTWAIT), EAGAIN);
        later_put(&lp, &p, 4 + (size_t)i);
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        CHECK_EQ(recv(p.us, buf, 4, MSG_WAITALL), 4);
        check_next(&p, buf, 4);
        take(&p, (size_t)i);
        later_join(&lp.l);
    }
    pair_close(&p);
}

static void test_poll_interest_decides_what_is_told(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 50);

        CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
        CHECK_EQ(poll_now(p.us, POLLRDNORM), POLLRDNORM);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDNORM), POLLIN | POLLRDNORM);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLOUT), POLLIN | POLLOUT);
        CHECK_EQ(poll_now(p.us, POLLOUT | POLLWRNORM), POLLOUT | POLLWRNORM);
        CHECK_EQ(poll_now(p.us, 0), 0);
        CHECK_EQ(poll_now(p.us, POLLPRI), 0);
        CHECK_EQ(poll_now(p.us, POLLRDBAND | POLLWRBAND | POLLMSG), 0);
        CHECK_EQ(poll_now(p.us, POLLRDHUP), 0);
        take(&p, 50);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLOUT), POLLOUT);
        pair_close(&p);
    }
}

static void test_poll_many_kinds_counts_each(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20), q = pair_open_warm();
        int listener = MUST(listener_open(AF_INET));
        int knocking = connect_to(listener);
        int ends[2];
        struct pollfd fds[8];

        MUST(pipe(ends));
        CHECK_EQ(write(ends[1], "x", 1), 1);
        fds[0] = (struct pollfd){.fd = q.us, .events = POLLIN, .revents = 99};
        fds[1] = (struct pollfd){.fd = p.us, .events = POLLIN};
        fds[2] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = 99};
        fds[3] = (struct pollfd){.fd = ends[0], .events = POLLIN};
        fds[4] = (struct pollfd){.fd = listener, .events = POLLIN};
        fds[5] = (struct pollfd){.fd = 999, .events = POLLIN};
        fds[6] = (struct pollfd){.fd = p.us, .events = POLLIN | POLLOUT};
        fds[7] = (struct pollfd){.fd = ends[1], .events = POLLOUT};
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(poll(fds, 8, -1), 6);
            CHECK_EQ(fds[0].revents, 0);
            CHECK_EQ(fds[1].revents, POLLIN);
            CHECK_EQ(fds[2].revents, 0);
            CHECK_EQ(fds[3].revents, POLLIN);
            CHECK_EQ(fds[4].revents, POLLIN);
            CHECK_EQ(fds[5].revents, POLLNVAL);
            CHECK_EQ(fds[6].revents, POLLIN | POLLOUT);
            CHECK_EQ(fds[7].revents, POLLOUT);
        }
        close(ends[0]);
        close(ends[1]);
        close(knocking);
        close(listener);
        pair_close(&p);
        pair_close(&q);
    }
}

static void act_write_pipe(void *arg)
{
    CHECK_EQ(write(*(int *)arg, "x", 1), 1);
}

static void test_poll_other_kind_wakes_beside_an_empty_socket(void)
{
    struct pair p = pair_open_warm();

    for (int i = 0; i < 20; i++) {
        int ends[2];
        struct pollfd fds[2];
        struct later l;

        MUST(pipe(ends));
        fds[0] = (struct pollfd){.fd = p.us, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = ends[0], .events = POLLIN};
        later(&l, act_write_pipe, &ends[1]);
        CHECK_EQ(poll(fds, 2, -1), 1);
        CHECK_EQ(fds[0].revents, 0);
        CHECK_EQ(fds[1].revents, POLLIN);
        later_join(&l);
        close(ends[0]);
        close(ends[1]);
    }
    pair_close(&p);
}

static void test_poll_many_sockets_each_wakes(void)
{
    static struct pair all[50];
    struct pollfd fds[50];

    for (int i = 0; i < 50; i++) {
        all[i] = pair_open_warm();
        fds[i] = (struct pollfd){.fd = all[i].us, .events = POLLIN};
    }
    for (int i = 0; i < 50; i++) {
        int n = i * 17 % 50;
        struct later_put lp;

        later_put(&lp, &all[n], 5);
        CHECK_EQ(poll(fds, 50, -1), 1);
        CHECK_EQ(fds[n].revents, POLLIN);
        take(&all[n], 5);
        later_join(&lp.l);
    }
    for (int i = 0; i < 50; i++)
        pair_close(&all[i]);
}

static void test_poll_taken_in_while_on_another_is_readable(void)
{
    struct pair other = pair_open_warm(), p = pair_open_warm();
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};

    for (int i = 0; i < 20; i++) {
        put(&p, 5);
        sleep_on_other(&other);
        CHECK_EQ(poll(&pfd, 1, -1), 1);
        CHECK_EQ(pfd.revents, POLLIN);
        take(&p, 5);
        CHECK_EQ(poll(&pfd, 1, 0), 0);
    }
    pair_close(&p);
    pair_close(&other);
}

static void test_poll_end_of_stream_bits(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);

        peer_fin(&p);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
        CHECK_EQ(poll_now(p.us, POLLOUT), POLLOUT);
        take(&p, 20);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
        CHECK_EQ(recv(p.us, buf, 1, 0), 0);
        CHECK_EQ(poll_now(p.us, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
        pair_close(&p);
    }
}

static void test_poll_dup_is_as_readable(void)
{
    struct pair p = pair_open_held(20);
    int dupped = MUST(dup(p.us));

    CHECK_EQ(poll_now(dupped, POLLIN), POLLIN);
    CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
    take(&p, 20);
    CHECK_EQ(poll_now(dupped, POLLIN), 0);
    close(dupped);
    pair_close(&p);
}

static void test_poll_signal_is_eintr_also_with_restart(void)
{
    for (int restart = 0; restart < 2; restart++) {
        struct pair p = pair_open_warm();
        struct pollfd pfd = {.fd = p.us, .events = POLLIN};
        struct later_kill lk;

        catch_signal(SIGUSR1, restart ? SA_RESTART : 0);
        later_kill(&lk, SIGUSR1);
        CHECK_ERR(poll(&pfd, 1, -1), EINTR);
        CHECK_EQ(caught, 1);
        later_join(&lk.l);
        put(&p, 1);
        take(&p, 1);
        pair_close(&p);
    }
}

static void test_ppoll_mask_lets_a_pending_signal_in(void)
{
    struct pair p = pair_open_warm();
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};
    struct timespec second = {1, 0};
    sigset_t usr1, before;

    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    catch_signal(SIGUSR1, 0);
    MUST0(pthread_sigmask(SIG_BLOCK, &usr1, &before));
    raise(SIGUSR1);
    CHECK_EQ(caught, 0);
    CHECK_EQ(poll(&pfd, 1, 0), 0);
    CHECK_ERR(ppoll(&pfd, 1, &second, &before), EINTR);
    CHECK_EQ(caught, 1);
    CHECK_EQ(second.tv_sec, 1);
    put(&p, 1);
    CHECK_EQ(ppoll(&pfd, 1, &second, &before), 1);
    pair_close(&p);
}

static void test_poll_bad_arguments(void)
{
    struct pair p = pair_open_held(20);
    struct pollfd pfd = {.fd = p.us, .events = POLLIN};
    struct timespec bad = {0, 2000000000};
    int (*volatile call)(struct pollfd * fds, nfds_t n, int ms) = poll;

    CHECK_ERR(call((void *)8, 1, 0), EFAULT);
    CHECK_ERR(ppoll(&pfd, 1, &bad, NULL), EINVAL);
    CHECK_EQ(call(NULL, 0, 0), 0);
    CHECK_EQ(call(NULL, 0, 10), 0);
    take(&p, 20);
    close(p.us);
    CHECK_EQ(poll(&pfd, 1, -1), 1);
    CHECK_EQ(pfd.revents, POLLNVAL);
    close(p.peer);
}

const struct test_case test_cases[] = {
    CASE(test_poll_bytes_waiting_is_readable_until_taken),
    CASE(test_poll_empty_times_out),
    CASE(test_poll_blocked_is_woken_by_bytes),
    CASE(test_poll_mariadbs_way_is_right),
    CASE(test_poll_interest_decides_what_is_told),
    CASE(test_poll_many_kinds_counts_each),
    CASE(test_poll_other_kind_wakes_beside_an_empty_socket),
    CASE_ONCE(test_poll_many_sockets_each_wakes),
    CASE(test_poll_taken_in_while_on_another_is_readable),
    CASE(test_poll_end_of_stream_bits),
    CASE(test_poll_dup_is_as_readable),
    CASE(test_poll_signal_is_eintr_also_with_restart),
    CASE(test_ppoll_mask_lets_a_pending_signal_in),
    CASE(test_poll_bad_arguments),
    CASES_END,
};

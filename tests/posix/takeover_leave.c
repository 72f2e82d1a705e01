/*
 * A loop that was alone with its instance, and then is not: a second waiter, instances within
 * instances, one-shot and exclusive members, forks, threads that end. No event and no byte is lost
 * on the way.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"

static const uint32_t triggers[] = {0, EPOLLET};

/* Two members of a loop in full swing: q is empty, of p `n` bytes are unread, half of them seen. */
struct swing {
    int ep;
    uint32_t trigger;
    struct pair p, q;
};

static struct swing swing(uint32_t trigger, size_t n)
{
    struct swing s = {.ep = MUST(epoll_create1(0)), .trigger = trigger};

    s.p = ep_pair(s.ep, EPOLLIN | trigger, 1);
    s.q = ep_pair(s.ep, EPOLLIN | trigger, 2);
    for (int i = 0; i < 3; i++) {
        put(&s.q, 5);
        check_event(s.ep, 2, EPOLLIN);
        CHECK_EQ(read_all(&s.q, 7), 5);
    }
    if (n) {
        put(&s.p, n / 2 + 1);
        check_event(s.ep, 1, EPOLLIN);
        take(&s.p, 1);
        put(&s.p, n - n / 2);
    }
    return s;
}

static void swing_close(struct swing *s)
{
    pair_close(&s->p);
    pair_close(&s->q);
    check_quiet(s->ep, false);
    close(s->ep);
}

/* All is as it should be: what is unread of p is told and read, then new bytes of both. */
static void goes_on(struct swing *s, size_t unread)
{
    if (unread)
        check_event(s->ep, 1, EPOLLIN);
    CHECK_EQ(read_all(&s->p, 7), unread);
    check_quiet(s->ep, s->trigger);
    for (int i = 0; i < 3; i++) {
        struct later_put lp;

        put(&s->p, 9);
        check_event(s->ep, 1, EPOLLIN);
        CHECK_EQ(read_all(&s->p, 4), 9);
        later_put(&lp, &s->q, 9);
        check_event(s->ep, 2, EPOLLIN);
        later_join(&lp.l);
        settle(s->q.us, s->q.sent);
        CHECK_EQ(read_all(&s->q, 4), 9);
        check_quiet(s->ep, s->trigger);
    }
}

struct second {
    int ep, n;
    struct epoll_event ev;
};

static void *wait_second(void *arg)
{
    struct second *s = arg;

    s->n = epoll_wait(s->ep, &s->ev, 1, 10000);
    return NULL;
}

/* Another thread waits, once, and goes; or sleeps until there is something. */
static void test_second_waiter_is_told_too(void)
{
    for (int i = 0; i < 12; i++) {
        struct swing s = swing(triggers[i & 1], i & 2 ? 40 : 0);
        struct second other = {.ep = s.ep};
        struct worker w;

        worker_start(&w, wait_second, &other);
        if (!(i & 2)) {
            wait_asleep(w.tid);
            put(&s.p, 40);
        }
        worker_join(&w);
        CHECK_EQ(other.n, 1);
        CHECK_EQ(other.ev.data.u64, 1);
        CHECK_EQ(other.ev.events, EPOLLIN);
        CHECK_EQ(read_all(&s.p, 7), 40);
        goes_on(&s, 0);
        swing_close(&s);
    }
}

/* The first one sleeps when the second comes; whoever is woken, somebody is, and for each. */
static void test_second_waiter_comes_while_the_first_sleeps(void)
{
    for (int i = 0; i < 12; i++) {
        struct swing s = swing(triggers[i & 1], 0);
        struct second other = {.ep = s.ep};
        struct epoll_event ev;
        struct worker w;
        uint64_t seen = 0;

        /* Main is the one that the instance knows: it comes second to the call, not to the set. */
        worker_start(&w, wait_second, &other);
        wait_asleep(w.tid);
        CHECK_EQ(epoll_wait(s.ep, &ev, 1, 0), 0);
        put(i & 2 ? &s.p : &s.q, 9);
        worker_join(&w);
        CHECK_EQ(other.n, 1);
        CHECK_EQ(other.ev.data.u64, i & 2 ? 1 : 2);
        if (!s.trigger) {
            CHECK_EQ(epoll_wait(s.ep, &ev, 1, 0), 1);
            CHECK_EQ(ev.data.u64, i & 2 ? 1 : 2);
        }
        put(i & 2 ? &s.q : &s.p, 9);
        if (s.trigger)
            seen = UINT64_C(1) << other.ev.data.u64;
        while (seen != 6) {
            CHECK_EQ(epoll_wait(s.ep, &ev, 1, 5000), 1);
            seen |= UINT64_C(1) << ev.data.u64;
        }
        CHECK_EQ(read_all(&s.p, 4), 9);
        CHECK_EQ(read_all(&s.q, 4), 9);
        goes_on(&s, 0);
        swing_close(&s);
    }
}

struct sleeper {
    struct swing *s;
    atomic_bool in_swing;
    int n;
    struct epoll_event ev;
};

static void *loop_sleeps(void *arg)
{
    struct sleeper *l = arg;

    *l->s = swing(l->s->trigger, 0);
    l->in_swing = true;
    l->n = epoll_wait(l->s->ep, &l->ev, 1, 10000);
    return NULL;
}

/* A loop that began all this in its own thread and sleeps; what main does meanwhile is `how`. */
enum meanwhile { WAIT_TOO, NEST, POLL_IT, JOIN_TWO, ONESHOT, FORK, MEANWHILES };

static void disturb(struct swing *s, enum meanwhile how, int *other)
{
    struct epoll_event ev;
    pid_t pid;

    switch (how) {
    case WAIT_TOO:
        CHECK_EQ(epoll_wait(s->ep, &ev, 1, 0), 0);
        break;
    case NEST:
        *other = MUST(epoll_create1(0));
        ep_ctl(*other, EPOLL_CTL_ADD, s->ep, EPOLLIN, 77);
        check_quiet(*other, false);
        break;
    case POLL_IT:
        CHECK_EQ(poll_now(s->ep, POLLIN), 0);
        break;
    case JOIN_TWO:
        *other = MUST(epoll_create1(0));
        ep_ctl(*other, EPOLL_CTL_ADD, s->p.us, EPOLLIN, 78);
        check_quiet(*other, false);
        break;
    case ONESHOT:
        ep_ctl(s->ep, EPOLL_CTL_MOD, s->p.us, EPOLLIN | EPOLLONESHOT | s->trigger, 1);
        break;
    default:
        pid = MUST(fork());
        if (!pid)
            _exit(0);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        break;
    }
}

static void test_sleeping_loop_is_disturbed_and_woken(void)
{
    for (int i = 0; i < 4 * MEANWHILES; i++) {
        struct swing s = {.trigger = triggers[i & 1]};
        enum meanwhile how = (enum meanwhile)(i / 4);
        struct sleeper l = {.s = &s};
        int other = -1;
        struct worker w;

        worker_start(&w, loop_sleeps, &l);
        CHECK_SOON(l.in_swing, 10000);
        wait_asleep(w.tid);
        disturb(&s, how, &other);
        put(&s.p, 30);
        worker_join(&w);
        CHECK_EQ(l.n, 1);
        CHECK_EQ(l.ev.data.u64, 1);
        CHECK_EQ(l.ev.events, EPOLLIN);
        if (how == JOIN_TWO)
            check_event(other, 78, EPOLLIN);
        if (how == NEST && !s.trigger)
            check_event(other, 77, EPOLLIN);
        if (how == ONESHOT) {
            check_quiet(s.ep, false);
            ep_ctl(s.ep, EPOLL_CTL_MOD, s.p.us, EPOLLIN | s.trigger, 1);
            check_event(s.ep, 1, EPOLLIN);
        }
        CHECK_EQ(read_all(&s.p, 7), 30);
        goes_on(&s, 0);
        swing_close(&s);
        if (other >= 0)
            close(other);
    }
}

/* The same between two sleeps, by the loop's own thread, with bytes unread. */
static void test_loop_disturbs_itself_with_bytes_unread(void)
{
    for (int i = 0; i < 2 * MEANWHILES; i++) {
        enum meanwhile how = (enum meanwhile)(i / 2);
        struct swing s = swing(triggers[i & 1], 40);
        int other = -1;
        struct epoll_event ev;

        if (how == FORK || how == ONESHOT) {
            disturb(&s, how, &other);
        } else if (how == NEST) {
            other = MUST(epoll_create1(0));
            ep_ctl(other, EPOLL_CTL_ADD, s.ep, EPOLLIN, 77);
            check_event(other, 77, EPOLLIN);
        } else if (how == POLL_IT) {
            CHECK_EQ(poll_now(s.ep, POLLIN), POLLIN);
        } else if (how == JOIN_TWO) {
            other = MUST(epoll_create1(0));
            ep_ctl(other, EPOLL_CTL_ADD, s.p.us, EPOLLIN, 78);
            check_event(other, 78, EPOLLIN);
        }
        check_event(s.ep, 1, EPOLLIN);
        if (how == ONESHOT) {
            CHECK_EQ(epoll_wait(s.ep, &ev, 1, 0), 0);
            ep_ctl(s.ep, EPOLL_CTL_MOD, s.p.us, EPOLLIN | s.trigger, 1);
            check_event(s.ep, 1, EPOLLIN);
        }
        CHECK_EQ(read_all(&s.p, 7), 40);
        goes_on(&s, 0);
        if (how == NEST)
            check_quiet(other, false);
        put(&s.p, 5);
        if (how == NEST)
            check_event(other, 77, EPOLLIN);
        goes_on(&s, 5);
        swing_close(&s);
        if (other >= 0)
            close(other);
    }
}

static void *loop_ends(void *arg)
{
    struct swing *s = arg;

    *s = swing(s->trigger, 40);
    return NULL;
}

static void test_loops_thread_ends_and_another_goes_on(void)
{
    for (int i = 0; i < 8; i++) {
        struct swing s = {.trigger = triggers[i & 1]};
        struct worker w;

        worker_start(&w, loop_ends, &s);
        worker_join(&w);
        if (i & 2) /* unread when it ended: told again to a level-triggered one */
            put(&s.p, 10);
        if (s.trigger && !(i & 2)) {
            CHECK_EQ(read_all(&s.p, 7), 40);
            goes_on(&s, 0);
        } else {
            goes_on(&s, i & 2 ? 50 : 40);
        }
        swing_close(&s);
    }
}

/* The child has the instance, too. */
static void test_child_waits_on_the_inherited_instance(void)
{
    for (int i = 0; i < 4; i++) {
        struct swing s = swing(triggers[i & 1], 0);
        int status;
        pid_t pid = MUST(fork());

        if (!pid) {
            struct epoll_event ev;

            _exit(epoll_wait(s.ep, &ev, 1, 10000) == 1 && ev.data.u64 == 1 ? 0 : 1);
        }
        wait_asleep(pid);
        put(&s.p, 9);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        if (!s.trigger)
            check_event(s.ep, 1, EPOLLIN);
        CHECK_EQ(read_all(&s.p, 4), 9);
        goes_on(&s, 0);
        swing_close(&s);
    }
}

const struct test_case test_cases[] = {
    CASE(test_second_waiter_is_told_too),
    CASE(test_second_waiter_comes_while_the_first_sleeps),
    CASE(test_sleeping_loop_is_disturbed_and_woken),
    CASE(test_loop_disturbs_itself_with_bytes_unread),
    CASE(test_loops_thread_ends_and_another_goes_on),
    CASE(test_child_waits_on_the_inherited_instance),
    CASES_END,
};

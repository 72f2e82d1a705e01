/*
 * Handlers that jump out of a call that the kernel was left with: a set with a pipe in it, a wait on a
 * mixed instance, a receive on a socket that was never read from. Nobody is in it afterwards: what is
 * received, watched and closed then is as if the call had never been.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "asleep.h"
#include "loop.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[16];
static __thread sigjmp_buf jump;

static void jump_out(int sig)
{
    siglongjmp(jump, sig);
}

enum left { LEFT_POLL, LEFT_SELECT, LEFT_EPOLL, LEFT_RECV, LEFT_PEEK, LEFTS };

static void leave_by_jump(enum left how, struct pair *p, int ep, int pipe_end)
{
    struct pollfd set[2] = {{.fd = p->us, .events = POLLIN}, {.fd = pipe_end, .events = POLLIN}};
    struct epoll_event ev;
    struct later_kill *lk = malloc(sizeof(*lk));
    fd_set rd;

    if (sigsetjmp(jump, 1) == 0) {
        later_kill(lk, SIGUSR1);
        FD_ZERO(&rd);
        FD_SET(p->us, &rd);
        FD_SET(pipe_end, &rd);
        if (how == LEFT_POLL)
            poll(set, 2, -1);
        else if (how == LEFT_SELECT)
            select((p->us > pipe_end ? p->us : pipe_end) + 1, &rd, NULL, NULL, NULL);
        else if (how == LEFT_EPOLL)
            epoll_wait(ep, &ev, 1, -1);
        else
            recv(p->us, buf, 1, how == LEFT_PEEK ? MSG_PEEK : 0);
        FAIL("the call returned");
    }
    CHECK(later_join(&lk->l));
    free(lk);
}

static void test_siglongjmp_out_of_a_real_call_then_all_goes_on(void)
{
    struct sigaction sa = {.sa_handler = jump_out};

    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (volatile int i = 0; i < 2 * LEFTS; i++) {
        enum left how = (enum left)(i / 2);
        static struct pair p, q;
        static int ep, ends[2];
        static struct later_put lp;

        p = i % 2 ? pair_open_warm() : pair_open();
        q = pair_open_warm();
        ep = MUST(epoll_create1(0));
        MUST(pipe(ends));
        ep_ctl(ep, EPOLL_CTL_ADD, p.us, EPOLLIN, 1);
        ep_ctl(ep, EPOLL_CTL_ADD, ends[0], EPOLLIN, 2);
        for (volatile int k = 0; k < 3; k++)
            leave_by_jump(how, &p, ep, ends[0]);
        warm_up(&p);
        for (volatile int k = 0; k < 3; k++) {
            put(&p, 30);
            CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
            take(&p, 7);
            check_event(ep, 1, EPOLLIN);
            take(&p, 23);
            check_quiet(ep, false);
            later_put(&lp, &p, 10);
            check_event(ep, 1, EPOLLIN);
            later_join(&lp.l);
            take(&p, 10);
            check_empty(p.us);
            later_put(&lp, &q, 10);
            take(&q, 10);
            later_join(&lp.l);
        }
        pair_close(&q);
        MUST(close(p.us));
        CHECK_PEER_SEES(p.peer, SEEN_FIN);
        close(p.peer);
        close(ep);
        close(ends[0]);
        close(ends[1]);
    }
}

struct leaver {
    struct pair p;
    enum left how;
    int ep, ends[2], stage;
};

static void *leave_and_stay_away(void *arg)
{
    struct leaver *l = arg;

    if (l->how != LEFT_RECV)
        warm_up(&l->p);
    if (l->how == LEFT_EPOLL) {
        ep_ctl(l->ep, EPOLL_CTL_ADD, l->p.us, EPOLLIN, 1);
        ep_ctl(l->ep, EPOLL_CTL_ADD, l->ends[0], EPOLLIN | EPOLLEXCLUSIVE, 2);
    }
    leave_by_jump(l->how, &l->p, l->ep, l->ends[0]);
    __atomic_store_n(&l->stage, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&l->stage, __ATOMIC_ACQUIRE) != 2)
        test_yield();
    return NULL;
}

static void test_siglongjmp_out_of_a_real_call_then_another_thread_closes(void)
{
    struct sigaction sa = {.sa_handler = jump_out};

    MUST(sigaction(SIGUSR1, &sa, NULL));
    for (int how = 0; how < LEFTS; how++) {
        struct leaver l = {.p = pair_open(), .how = (enum left)how, .ep = MUST(epoll_create1(0))};
        struct worker w;

        MUST(pipe(l.ends));
        worker_start(&w, leave_and_stay_away, &l);
        CHECK_SOON(__atomic_load_n(&l.stage, __ATOMIC_ACQUIRE) == 1, 5000);
        MUST(close(l.p.us));
        CHECK_PEER_SEES(l.p.peer, SEEN_FIN);
        __atomic_store_n(&l.stage, 2, __ATOMIC_RELEASE);
        worker_join(&w);
        close(l.p.peer);
        close(l.ep);
        close(l.ends[0]);
        close(l.ends[1]);
    }
}

const struct test_case test_cases[] = {
    CASE(test_siglongjmp_out_of_a_real_call_then_all_goes_on),
    CASE(test_siglongjmp_out_of_a_real_call_then_another_thread_closes),
    CASES_END,
};

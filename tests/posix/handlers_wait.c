/*
 * Signal handlers that run while their thread sleeps in a receive or a wait, and that receive,
 * wait, close, fork, execute or jump out themselves. The call ends as the kernel has it end, and
 * the connection goes on from where the handler left it.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

/* What the thread sleeps on and the handler deals with. */
static struct shared *s;
static struct pair held; /* another connection with bytes unread */
static int ep = -1;
static sigjmp_buf jump;
static volatile pid_t child;

static ssize_t in_recv(void)
{
    return recv(s->p.us, buf, 4, 0);
}

static ssize_t in_waitall(void)
{
    return recv(s->p.us, buf, 4, MSG_WAITALL);
}

static ssize_t in_poll(void)
{
    struct pollfd pfd = {.fd = s->p.us, .events = POLLIN};

    return poll(&pfd, 1, 10000);
}

static ssize_t in_select(void)
{
    struct timeval tv = {10, 0};
    fd_set set;

    FD_ZERO(&set);
    FD_SET(s->p.us, &set);
    return select(s->p.us + 1, &set, NULL, NULL, &tv);
}

static ssize_t in_epoll(void)
{
    struct epoll_event ev;

    return epoll_wait(ep, &ev, 1, 10000);
}

struct sleep {
    const char *name;
    ssize_t (*call)(void);
    uint32_t events; /* epoll's */
    bool restarts;   /* with SA_RESTART */
};

static const struct sleep sleeps[] = {
    {"recv", in_recv, 0, true},
    {"recv of all", in_waitall, 0, true},
    {"poll", in_poll, 0, false},
    {"select", in_select, 0, false},
    {"epoll_wait", in_epoll, EPOLLIN, false},
    {"epoll_wait by edge", in_epoll, EPOLLIN | EPOLLET, false},
};

/* Deeds of handlers. `left` bytes are unread when the handler has ended. */
static void receives(void)
{
    put(&s->p, 10);
    take(&s->p, 4);
    take(&held, 1);
}

static void looks(void)
{
    struct epoll_event ev;

    CHECK_EQ(poll_now(s->p.us, POLLIN), 0);
    CHECK_EQ(poll_now(held.us, POLLIN), POLLIN);
    if (ep >= 0)
        CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
    put(&s->p, 6);
    CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN);
    CHECK_EQ(recv(s->p.us, buf + 100, 100, MSG_PEEK), 6);
}

static void forks(void)
{
    child = MUST(fork());
    if (child == 0)
        _exit(0);
    check_child(child);
    put(&s->p, 6);
}

static void forks_a_reader(void)
{
    put(&s->p, 10);
    child = MUST(fork());
    if (child == 0) {
        take(&s->p, 4);
        _exit(0);
    }
    check_child(child);
}

static void forks_and_executes(void)
{
    put(&s->p, 10);
    child = MUST(fork());
    if (child == 0) {
        execv(test_self, reader_args("exact", s->p.us, &s->p, 4));
        _exit(9);
    }
    check_child(child);
    s->p.got += 4;
}

static void spawns(void)
{
    put(&s->p, 6);
    CHECK_EQ(system("exit 3"), 3 << 8);
}

/* Blocks in another call of the same kind, on another connection. */
static void waits_itself(void)
{
    struct later_put lp;
    struct pollfd pfd = {.fd = held.us, .events = POLLIN};

    take(&held, 30);
    later_put(&lp, &held, 30);
    CHECK_EQ(poll(&pfd, 1, -1), 1);
    later_join(&lp.l);
    put(&s->p, 6);
}

struct deed {
    const char *name;
    void (*run)(void);
};

static const struct deed deeds[] = {
    {"receives", receives},
    {"looks", looks},
    {"forks", forks},
    {"forks a reader", forks_a_reader},
    {"forks and executes", forks_and_executes},
    {"runs a command", spawns},
    {"waits itself", waits_itself},
};
#define LEFT 6

static void (*deed)(void);

static void handler(int sig)
{
    int saved = errno;

    (void)sig;
    deed();
    errno = saved;
    caught++;
}

static void set_scene(const struct sleep *sl, const struct deed *d, int flags)
{
    struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};
    struct epoll_event ev = {.events = sl->events};

    s = pair_share(pair_open_warm());
    held = pair_open_held(30);
    ep = -1;
    if (sl->events) {
        ep = MUST(epoll_create1(0));
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s->p.us, &ev));
        /* So that whoever waits on it has had practice. */
        for (int i = 0; i < 20; i++) {
            put(&s->p, 2);
            CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
            take(&s->p, 2);
        }
    }
    deed = d ? d->run : NULL;
    caught = 0;
    MUST(sigaction(SIGUSR1, &sa, NULL));
}

/* Everything works as before, and nothing is lost. */
static void clear_scene(const struct sleep *sl)
{
    struct epoll_event ev;

    take(&s->p, s->p.sent - s->p.got);
    for (int i = 0; i < 3; i++) {
        put(&s->p, 8);
        if (ep >= 0)
            CHECK_EQ(epoll_wait(ep, &ev, 1, 10000), 1);
        else if (!sl->restarts)
            CHECK_EQ(sl->call(), 1);
        take(&s->p, 8);
    }
    check_empty(s->p.us);
    take(&held, held.sent - held.got);
    check_empty(held.us);
    if (ep >= 0)
        close(ep);
    ep = -1;
    MUST(close(s->p.us));
    CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
    s->p.us = -1;
    shared_close(s);
    pair_close(&held);
}

static void interrupt(const struct sleep *sl, const struct deed *d, int flags)
{
    struct later_kill lk;
    ssize_t r;

    set_scene(sl, d, flags);
    later_kill(&lk, SIGUSR1);
    errno = 0;
    r = sl->call();
    if (sl->restarts && flags & SA_RESTART) {
        if (r != 4)
            FAIL("%s while the handler %s: wanted 4, got %zd (errno %d)", sl->name, d->name, r,
                 errno);
        check_next(&s->p, buf, 4);
    } else if (r != -1 || errno != EINTR) {
        FAIL("%s while the handler %s: wanted EINTR, got %zd (errno %d)", sl->name, d->name, r,
             errno);
    } else {
        CHECK_EQ(s->p.sent - s->p.got, LEFT);
        CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN);
    }
    CHECK_EQ(caught, 1);
    later_join(&lk.l);
    clear_scene(sl);
}

static void test_handler_does_what_it_likes_the_call_is_eintr(void)
{
    for (size_t i = 0; i < COUNT_OF(sleeps); i++)
        for (size_t k = 0; k < COUNT_OF(deeds); k++)
            interrupt(&sleeps[i], &deeds[k], 0);
}

static void test_handler_with_restart_receives_go_on_waits_do_not(void)
{
    for (size_t i = 0; i < COUNT_OF(sleeps); i++)
        for (size_t k = 0; k < COUNT_OF(deeds); k++)
            interrupt(&sleeps[i], &deeds[k], SA_RESTART);
}

static void closes(void)
{
    MUST(close(s->p.us));
}

static void puts_another_in_its_place(void)
{
    MUST(dup2(held.us, s->p.us));
}

static void test_handler_closes_what_is_waited_for(void)
{
    for (size_t i = 0; i < COUNT_OF(sleeps); i++) {
        for (int moved = 0; moved < 2; moved++) {
            struct deed d = {"closes", moved ? puts_another_in_its_place : closes};
            struct later_kill lk;
            uint8_t byte;

            set_scene(&sleeps[i], &d, 0);
            later_kill(&lk, SIGUSR1);
            errno = 0;
            if (sleeps[i].call() != -1 || errno != EINTR)
                FAIL("%s: errno %d", sleeps[i].name, errno);
            later_join(&lk.l);
            CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
            if (moved) {
                CHECK_EQ(recv(s->p.us, &byte, 1, 0), 1);
                check_next(&held, &byte, 1);
                MUST(close(s->p.us));
            } else {
                CHECK_ERR(recv(s->p.us, &byte, 1, 0), EBADF);
            }
            take(&held, held.sent - held.got);
            check_empty(held.us);
            if (ep >= 0)
                close(ep);
            s->p.us = -1;
            shared_close(s);
            pair_close(&held);
        }
    }
}

static void jumps(void)
{
    put(&s->p, LEFT);
    siglongjmp(jump, 1);
}

static void jumps_from_the_child_too(void)
{
    child = MUST(fork());
    if (child)
        check_child(child);
    put(&s->p, child ? 4 : 2);
    siglongjmp(jump, 1);
}

static void jump_out(const struct sleep *sl, void (*run)(void))
{
    static struct later_kill lk;
    const struct deed d = {"jumps", run};

    set_scene(sl, &d, 0);
    child = -1;
    if (sigsetjmp(jump, 1) == 0) {
        later_kill(&lk, SIGUSR1);
        sl->call();
        FAIL("%s returned", sl->name);
    }
    if (child == 0) {
        take(&s->p, 1);
        _exit(0);
    }
    CHECK_EQ(s->p.sent - s->p.got, run == jumps ? LEFT : LEFT - 1);
    CHECK_EQ(poll_now(s->p.us, POLLIN), POLLIN);
    later_join(&lk.l);
    clear_scene(sl);
}

static void test_handler_jumps_out_the_thread_goes_on(void)
{
    for (size_t i = 0; i < COUNT_OF(sleeps); i++)
        for (int k = 0; k < 3; k++)
            jump_out(&sleeps[i], jumps);
}

static void test_handler_forks_and_both_jump_out(void)
{
    for (size_t i = 0; i < COUNT_OF(sleeps); i++)
        jump_out(&sleeps[i], jumps_from_the_child_too);
}

/* Children that end while their parent serves: SIGCHLD at any moment, its handler waits for them. */
static void reap(int sig)
{
    int saved = errno;

    (void)sig;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        caught++;
    errno = saved;
}

static void test_children_end_while_their_parent_receives(void)
{
    enum { CHILDREN = 40 };
    struct sigaction sa = {.sa_handler = reap, .sa_flags = SA_RESTART | SA_NOCLDSTOP};
    struct pair p = pair_open_warm();

    caught = 0;
    MUST(sigaction(SIGCHLD, &sa, NULL));
    for (int i = 0; i < CHILDREN; i++) {
        struct later_put lp;
        pid_t pid = MUST(fork());

        if (pid == 0)
            _exit(0);
        later_put(&lp, &p, 20);
        take(&p, 20);
        later_join(&lp.l);
    }
    CHECK_SOON(caught == CHILDREN, 5000);
    check_empty(p.us);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_handler_does_what_it_likes_the_call_is_eintr),
    CASE(test_handler_with_restart_receives_go_on_waits_do_not),
    CASE(test_handler_closes_what_is_waited_for),
    CASE(test_handler_jumps_out_the_thread_goes_on),
    CASE(test_handler_forks_and_both_jump_out),
    CASE(test_children_end_while_their_parent_receives),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}

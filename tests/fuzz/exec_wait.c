/* Observing readiness: poll, select, epoll. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "exec.h"

#define SET_MAX 8

/* set=f0:IN|RDHUP,f1:OUT */
struct set {
    int n, var[SET_MAX];
    struct pollfd p[SET_MAX];
};

static void read_set(struct set *set, const struct fz_op *op)
{
    const char *at = fz_str(op, "set", "");

    set->n = 0;
    while (*at && set->n < SET_MAX) {
        char name[8] = "";
        const char *colon = at + strcspn(at, ":,");
        int var;

        memcpy(name, at, (size_t)(colon - at) < 7 ? (size_t)(colon - at) : 7);
        var = fz_ref(name, 'f', FZ_FDS);
        set->var[set->n] = var;
        set->p[set->n].fd = var < 0 ? -1 : fz_fds[var].num;
        set->p[set->n].revents = 0x7fff;
        set->p[set->n++].events = *colon == ':' ? (short)fz_flags(colon + 1, fz_poll_bits) : POLLIN;
        at += strcspn(at, ",");
        if (*at)
            at++;
    }
}

static struct timespec *limit_of(long ms, struct timespec *ts)
{
    ts->tv_sec = ms / 1000;
    ts->tv_nsec = ms % 1000 * 1000000;
    return ms < 0 ? NULL : ts;
}

static void do_poll(struct fz_slot *s, const struct fz_op *op, bool ppoll_call)
{
    long ms = fz_num(op, "timeout", 0);
    struct timespec ts;
    struct set set;
    sigset_t none;
    int ret;

    read_set(&set, op);
    sigemptyset(&none);
    if (ppoll_call)
        ret = ppoll(set.p, (nfds_t)set.n, limit_of(ms, &ts), fz_num(op, "mask", 0) ? &none : NULL);
    else
        ret = poll(set.p, (nfds_t)set.n, (int)ms);
    fz_result(s, ret, errno);
    for (int i = 0; i < set.n && ret >= 0; i++) {
        fz_text(s, " f%d:", set.var[i]);
        fz_flags_text(s->text, sizeof(s->text), (unsigned short)set.p[i].revents, fz_poll_bits);
    }
}

/* IN, OUT and PRI stand for the three sets. */
static void do_select(struct fz_slot *s, const struct fz_op *op, bool pselect_call)
{
    static const short bit[3] = {POLLIN, POLLOUT, POLLPRI};
    long ms = fz_num(op, "timeout", 0);
    fd_set in[3];
    struct timespec ts;
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    bool used[3] = {false, false, false};
    struct set set;
    int top = -1, ret;

    read_set(&set, op);
    for (int k = 0; k < 3; k++) {
        FD_ZERO(&in[k]);
        for (int i = 0; i < set.n; i++) {
            if (!(set.p[i].events & bit[k]) || set.p[i].fd < 0)
                continue;
            FD_SET(set.p[i].fd, &in[k]);
            used[k] = true;
            if (set.p[i].fd > top)
                top = set.p[i].fd;
        }
    }
#define SET(k) (used[k] ? &in[k] : NULL)
    if (pselect_call)
        ret = pselect(top + 1, SET(0), SET(1), SET(2), limit_of(ms, &ts), NULL);
    else
        ret = select(top + 1, SET(0), SET(1), SET(2), ms < 0 ? NULL : &tv);
    fz_result(s, ret, errno);
    for (int i = 0; i < set.n && ret >= 0; i++) {
        fz_text(s, " f%d:", set.var[i]);
        for (int k = 0; k < 3; k++)
            if (set.p[i].fd >= 0 && used[k] && FD_ISSET(set.p[i].fd, &in[k]))
                fz_text(s, "%c", "rwx"[k]);
    }
}

static void do_epctl(struct fz_slot *s, const struct fz_op *op)
{
    static const struct fz_name what[] = {
        {"ADD", EPOLL_CTL_ADD}, {"MOD", EPOLL_CTL_MOD}, {"DEL", EPOLL_CTL_DEL}, {NULL, 0}};
    int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS), conn;
    struct epoll_event ev = {.events = (uint32_t)fz_flags(fz_str(op, "ev", "IN"), fz_epoll_bits)};
    int ret;

    ev.data.u64 = 0xabcdef0000000000u | (unsigned)fz_num(op, "key", 0);
    ret = epoll_ctl(e < 0 ? -1 : fz_eps[e], (int)fz_flags(fz_word(op, 1), what),
                    fz_fd_of(op, 2, &conn), &ev);
    fz_result(s, ret, errno);
}

/* epnest eN ADD|DEL eM: an instance in another; epdup eN eM: eN is a second name for eM */
static void do_epnest(struct fz_slot *s, const struct fz_op *op)
{
    int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS), in = fz_ref(fz_word(op, 2), 'e', FZ_EPOLLS);
    struct epoll_event ev = {.events = EPOLLIN,
                             .data.u64 = 0xabcdef0000000000u | (unsigned)fz_num(op, "key", 0)};
    int ret = epoll_ctl(e < 0 ? -1 : fz_eps[e],
                        strcmp(fz_word(op, 1), "DEL") ? EPOLL_CTL_ADD : EPOLL_CTL_DEL,
                        in < 0 ? -1 : fz_eps[in], &ev);

    fz_result(s, ret, errno);
}

static void do_epdup(struct fz_slot *s, const struct fz_op *op)
{
    int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS), of = fz_ref(fz_word(op, 1), 'e', FZ_EPOLLS);
    int ret = dup(of < 0 ? -1 : fz_eps[of]);

    fz_result(s, ret, errno);
    if (e >= 0)
        fz_eps[e] = ret;
}

static int by_key(const void *a, const void *b)
{
    uint32_t x = ((const struct fz_event *)a)->key, y = ((const struct fz_event *)b)->key;

    return x < y ? -1 : x > y;
}

static void keep_event(struct fz_slot *s, const struct epoll_event *ev)
{
    uint32_t key = (uint32_t)ev->data.u64;

    if (ev->data.u64 >> 40 != 0xabcdef)
        fz_text(s, " data %#llx is none of ours", (unsigned long long)ev->data.u64);
    for (int i = 0; i < s->nev; i++) {
        if (s->ev[i].key == key) {
            s->ev[i].bits |= ev->events;
            return;
        }
    }
    if (s->nev < FZ_EVENTS)
        s->ev[s->nev++] = (struct fz_event){key, ev->events};
}

/*
 * rounds= asks again without waiting and unites the answers: what must be the same with a small
 * max= is who gets reported in a few rounds, not the order. The driver prints the events.
 */
static void do_epwait(struct fz_slot *s, const struct fz_op *op)
{
    const char *kind = fz_str(op, "kind", "epoll_wait");
    int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS), max = (int)fz_num(op, "max", 8), ret = 0;
    long ms = fz_num(op, "timeout", 0), rounds = fz_num(op, "rounds", 1);
    struct epoll_event ev[FZ_EVENTS];
    struct timespec ts;

    e = e < 0 ? -1 : fz_eps[e];
    if (max > FZ_EVENTS)
        max = FZ_EVENTS;
    for (long i = 0; i < rounds; i++) {
        if (!strcmp(kind, "epoll_pwait2"))
            ret = epoll_pwait2(e, ev, max, limit_of(ms, &ts), NULL);
        else if (!strcmp(kind, "epoll_pwait"))
            ret = epoll_pwait(e, ev, max, (int)ms, NULL);
        else
            ret = epoll_wait(e, ev, max, (int)ms);
        for (int k = 0; k < ret; k++)
            keep_event(s, &ev[k]);
        if (ret > max)
            fz_text(s, " %d events where %d were asked for", ret, max);
        if (ret <= 0)
            break;
        ms = 0;
    }
    fz_result(s, rounds > 1 && ret > 0 ? 0 : ret, errno);
    qsort(s->ev, (size_t)s->nev, sizeof(s->ev[0]), by_key);
}

bool fz_exec_wait(struct fz_slot *s, const struct fz_op *op)
{
    const char *kind = fz_str(op, "kind", "poll");

    if (!strcmp(op->verb, "epcreate")) {
        int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS), ep;

        ep = epoll_create1(fz_num(op, "cloexec", 0) ? EPOLL_CLOEXEC : 0);
        fz_result(s, ep, errno);
        if (e >= 0)
            fz_eps[e] = ep;
    } else if (!strcmp(op->verb, "epclose")) {
        int e = fz_ref(fz_word(op, 0), 'e', FZ_EPOLLS);
        int ret = close(e < 0 ? -1 : fz_eps[e]);

        fz_result(s, ret, errno);
        if (e >= 0)
            fz_eps[e] = -1;
    } else if (!strcmp(op->verb, "epnest"))
        do_epnest(s, op);
    else if (!strcmp(op->verb, "epdup"))
        do_epdup(s, op);
    else if (!strcmp(op->verb, "epctl"))
        do_epctl(s, op);
    else if (!strcmp(op->verb, "epwait"))
        do_epwait(s, op);
    else if (strcmp(op->verb, "poll"))
        return false;
    else if (strstr(kind, "select"))
        do_select(s, op, kind[0] == 'p');
    else
        do_poll(s, op, !strcmp(kind, "ppoll"));
    return true;
}

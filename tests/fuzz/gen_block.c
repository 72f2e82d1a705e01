/* Calls that sleep, and all that can end them. Every scenario leaves its threads idle. */
#include "gen.h"

#include <string.h>

enum sleep_kind { IN_RECV, IN_POLL, IN_EPOLL };

struct nap {
    int c, f, t; /* connection, descriptor, sleeping thread */
    int other;   /* a thread that is awake, or -1 */
    int but;     /* a connection that it must not watch, or -1 */
    enum sleep_kind kind;
    long need; /* bytes that end it */
    bool calm; /* nothing has been taken yet, so a signal ends it with EINTR */
    struct fz_rx rx;
};

static bool may_sleep_on(const struct fz_mconn *m)
{
    /* with bytes taken already, SO_RCVLOWAT counts only those that come after them */
    return m->up && m->peer && (m->lowat == 1 || !m->unread) && !m->odd && !fz_over(m) &&
           !m->shutwr && !m->timeo;
}

static bool nap_recv(struct fz_gen *g, struct nap *n)
{
    struct fz_mconn *m = &g->conn[n->c];

    for (int i = 0; i < 8; i++) {
        fz_compose_recv(g, n->c, n->f, true, &n->rx);
        if (!n->rx.sleeps || (n->rx.waitall && (n->rx.total > 60000 || m->unread > 16000)))
            continue;
        /* a PEEK that takes nothing, a length of 0: they end with the first byte */
        n->need = n->rx.waitall ? n->rx.total - m->unread : m->lowat - m->unread;
        if (n->need < 1)
            n->need = 1;
        n->calm = !n->rx.waitall || !m->unread;
        EMIT(g, "t%d& %s", n->t, n->rx.text);
        return true;
    }
    return false;
}

static bool nap_poll(struct fz_gen *g, struct nap *n)
{
    static const char *const kinds[] = {"poll", "ppoll", "select", "pselect"};
    struct fz_mconn *m = &g->conn[n->c];
    int kind = (int)fz_rand(g, 4);
    char set[128] = "";

    if (m->unread || (kind < 2 && !HAS(g, poll)) || (kind >= 2 && !HAS(g, select)))
        return false;
    fz_poll_set(g, n->f, true, kind >= 2, n->but, set, sizeof(set));
    EMIT(g, "t%d& poll kind=%s set=%s timeout=%d", n->t, kinds[kind], set,
         fz_chance(g, 50) ? -1 : 15000);
    n->need = m->lowat;
    n->calm = true;
    return true;
}

/* May find something at once: then the join that follows has nothing to do. */
static bool nap_epoll(struct fz_gen *g, struct nap *n)
{
    int e = (int)fz_rand(g, 2);

    if (!HAS(g, epoll) || !g->ep[e].open || !(g->ep[e].in >> n->f & 1))
        return false;
    for (int f = 0; f < g->nfd; f++)
        if ((g->ep[e].ever >> f & 1) && (g->fd[f].conn == n->but || g->fd[f].was == n->but + 1))
            return false;
    EMIT(g, "t%d epwait e%d max=16", n->t, e);
    EMIT(g, "t%d& epwait e%d kind=%s max=16 timeout=%d", n->t, e,
         fz_chance(g, 70) ? "epoll_wait" : "epoll_pwait", fz_chance(g, 50) ? -1 : 15000);
    n->need = g->conn[n->c].lowat > g->conn[n->c].unread ? g->conn[n->c].lowat : 1;
    n->calm = true;
    return true;
}

/* Sends what ends it, in one piece: a receive that is woken takes what is there. */
static void end_by_send(struct fz_gen *g, struct nap *n)
{
    long len = n->need + (fz_chance(g, 50) ? (long)fz_rand(g, 3000) : 0);
    struct fz_mconn *m = &g->conn[n->c];

    if (n->rx.waitall && n->need > 4 && fz_chance(g, 40)) {
        fz_peer_sends(g, n->c, n->need / 2);
        len -= n->need / 2;
    }
    EMIT(g, "p send c%d len=%ld", n->c, len);
    m->unread += len;
    m->biggest = len;
    m->chunks++;
    EMIT(g, "d join t%d", n->t);
    if (n->kind == IN_RECV && !strstr(n->rx.text, "PEEK"))
        fz_consumed(m, n->rx.total);
}

/* What the nap holds already when something other than bytes ends it. */
static void take_partial(struct fz_gen *g, struct nap *n)
{
    if (n->kind == IN_RECV && !strstr(n->rx.text, "PEEK"))
        fz_consumed(&g->conn[n->c], n->rx.total);
}

static void end_by_signal(struct fz_gen *g, struct nap *n)
{
    const char *name = fz_chance(g, 50) ? "USR1" : "USR2";
    bool restart = fz_chance(g, 50), jump = HAS(g, jump) && n->calm && fz_chance(g, 25);
    char act[32] = "count";

    if (jump)
        strcpy(act, "jump");
    else if (HAS(g, handler) && fz_chance(g, 50)) {
        int c = fz_any_conn(g);

        snprintf(act, sizeof(act), "recv:f%d:%d", fz_fd_for(g, c), 1 + (int)fz_rand(g, 60));
        /* it may take what is there; what it leaves is not known exactly */
        if (c != n->c && g->conn[c].unread)
            g->conn[c].odd = true;
    }
    /* the handler must be in place before the call sleeps */
    if (g->out->n < FZ_MAX_LINES - 1) {
        char *nap = g->out->line[g->out->n - 1];

        EMIT(g, "t0 sigact %s restart=%d act=%s", name, restart, act);
        g->out->line[g->out->n - 2] = g->out->line[g->out->n - 1];
        g->out->line[g->out->n - 1] = nap;
    }
    EMIT(g, "d sig t%d %s", n->t, name);
    if (jump) {
        EMIT(g, "d join t%d", n->t);
        return;
    }
    if (n->kind == IN_RECV && restart && n->calm)
        end_by_send(g, n);
    else {
        EMIT(g, "d join t%d", n->t);
        take_partial(g, n);
    }
}

static void end_by_stop(struct fz_gen *g, struct nap *n)
{
    EMIT(g, "d stop");
    EMIT(g, "d cont");
    if (n->kind == IN_RECV && !n->calm) {
        /* the bytes it has are given back as a short count, or it sleeps on: either is the
           kernel's to say, and a join after enough bytes is right for both */
        EMIT(g, "p send c%d len=%ld", n->c, n->need);
        EMIT(g, "d join t%d", n->t);
        g->conn[n->c].odd = true;
        return;
    }
    end_by_send(g, n);
}

static void end_by_close(struct fz_gen *g, struct nap *n)
{
    int other = n->other, way = (int)fz_rand(g, 4), f2 = -1;
    struct fz_mconn *m = &g->conn[n->c];
    /* Not a byte more than the sleeper takes: what is left over when it lets go of a socket whose
     * last number another thread has closed ends in a FIN under the library (a listed limit). */
    long len = n->need;

    if (way == 0) {
        EMIT(g, "t%d shutdown f%d %s", other, n->f, fz_chance(g, 60) ? "RD" : "RDWR");
        m->shutrd = m->shutwr = true;
        EMIT(g, "d join t%d", n->t);
        take_partial(g, n);
        return;
    }
    for (int i = 0; i < g->nfd; i++)
        if (g->fd[i].open && g->fd[i].conn != n->c)
            f2 = i;
    /* a request that was called back and not yet ended: limits/closed_under_third_thread.script */
    for (int t = 0; t < FZ_THREADS; t++)
        if (g->thread[t] && t != n->t && t != other)
            EMIT(g, "t%d poll kind=poll set= timeout=0", t);
    /* poll and select look the number up again when woken, and would sleep on */
    if (way == 1 && f2 >= 0 && n->kind == IN_RECV) {
        EMIT(g, "t%d dup f%d f%d kind=dup2", other, n->f, f2);
        g->fd[n->f].was = n->c + 1;
        g->fd[n->f].conn = g->fd[f2].conn;
    } else {
        EMIT(g, "t%d close f%d", other, n->f);
        g->fd[n->f].open = false;
    }
    for (int e = 0; e < 2; e++)
        g->ep[e].in &= ~(1u << n->f);
    if (fz_fds_open(g, n->c)) {
        end_by_send(g, n);
        return;
    }
    EMIT(g, "p send c%d len=%ld", n->c, len);
    EMIT(g, "d join t%d", n->t);
    EMIT(g, "p end c%d", n->c);
    m->up = false;
}

static void end_by_cancel(struct fz_gen *g, struct nap *n)
{
    EMIT(g, "t0 cancel t%d", n->t);
    EMIT(g, "d join t%d", n->t);
    EMIT(g, "t0 tjoin t%d", n->t);
    g->thread[n->t] = false;
}

/* Life goes on elsewhere while it sleeps: that must neither end it nor take its bytes. */
static void meanwhile(struct fz_gen *g, struct nap *n)
{
    int c = fz_any_conn(g), other = n->other;
    struct fz_mconn *m = &g->conn[c];

    if (c == n->c || m->odd || m->nonblock || m->lowat > 1 || n->kind != IN_RECV || other < 0)
        return;
    if (!m->unread && !fz_peer_sends(g, c, 1 + (long)fz_rand(g, 500)))
        return;
    EMIT(g, "t%d recv f%d kind=recv len=%d", other, fz_fd_for(g, c), 10);
    fz_consumed(m, 10);
}

bool fz_act_block(struct fz_gen *g)
{
    struct nap n = {.c = fz_any_conn(g), .but = -1};
    struct fz_mconn *m;
    bool done = false;

    if (n.c < 0 || !may_sleep_on(&g->conn[n.c]))
        return false;
    m = &g->conn[n.c];
    n.f = fz_fd_for(g, n.c);
    n.t = fz_thread_for(g, n.c);
    n.other = n.t ? 0 : -1;
    if (HAS(g, closeblocked) || HAS(g, cancel))
        n.other = fz_other_thread(g, n.t);
    for (int i = 0; i < 4 && !done; i++) {
        n.kind = (enum sleep_kind)fz_rand(g, 3);
        if (n.kind == IN_RECV && !m->nonblock)
            done = nap_recv(g, &n);
        else if (n.kind == IN_POLL)
            done = nap_poll(g, &n);
        else if (n.kind == IN_EPOLL)
            done = nap_epoll(g, &n);
    }
    if (!done)
        return false;
    switch (fz_rand(g, 9)) {
    case 0:
        if (HAS(g, signal) && n.t == 0 && n.kind != IN_EPOLL)
            return end_by_signal(g, &n), true;
        break;
    case 1:
        if (HAS(g, signal) && n.t != 0)
            return end_by_signal(g, &n), true;
        break;
    case 2:
        /* what has some of MSG_WAITALL's bytes: limits/stop_in_rest_of_waitall.script */
        if (HAS(g, stop) && (n.calm || n.kind != IN_RECV))
            return end_by_stop(g, &n), true;
        break;
    case 3:
    case 4:
        /* what leaves bytes behind: limits/closed_under_*.script, waitall_closed_under.script */
        if (HAS(g, closeblocked) && n.kind != IN_EPOLL && fz_fds_open(g, n.c) == 1 &&
            !(n.kind == IN_RECV && (n.rx.waitall || n.rx.peek || !n.rx.total)))
            return end_by_close(g, &n), true;
        break;
    case 5:
        if (HAS(g, cancel) && n.t != 0 && n.calm)
            return end_by_cancel(g, &n), true;
        break;
    case 6:
        if (!HAS(g, rst) && !HAS(g, fin))
            break;
        EMIT(g, "p %s c%d", !HAS(g, fin) || (HAS(g, rst) && fz_chance(g, 50)) ? "rst" : "shut",
             n.c);
        m->fin = true;
        if (!strncmp(g->out->line[g->out->n - 1], "p rst", 5)) {
            m->rst = true;
            m->peer = false;
        }
        EMIT(g, "d join t%d", n.t);
        take_partial(g, &n);
        return true;
    default:
        meanwhile(g, &n);
        break;
    }
    end_by_send(g, &n);
    return true;
}

/* One thread only observes a socket while another receives from its own. */
bool fz_act_observe(struct fz_gen *g)
{
    int c1 = fz_any_conn(g), c2 = fz_any_conn(g), t1, t2;
    struct nap seen = {.c = c1, .kind = IN_POLL, .but = c2};
    struct nap got = {.c = c2, .kind = IN_RECV, .but = -1};

    if (c1 < 0 || c1 == c2 || !may_sleep_on(&g->conn[c1]) || !may_sleep_on(&g->conn[c2]) ||
        g->conn[c1].unread || g->conn[c2].nonblock)
        return false;
    t2 = fz_thread_for(g, c2);
    t1 = fz_other_thread(g, t2);
    seen.t = t1;
    got.t = t2;
    seen.f = fz_fd_for(g, c1);
    got.f = fz_fd_for(g, c2);
    if (!(fz_chance(g, 50) ? nap_epoll(g, &seen) : nap_poll(g, &seen)))
        return false;
    if (nap_recv(g, &got))
        end_by_send(g, &got);
    end_by_send(g, &seen);
    return true;
}

/* A child that receives what was sent after it was born, from a socket that was empty then. */
bool fz_act_fork(struct fz_gen *g)
{
    int c = fz_any_conn(g), k = g->forks, t;
    struct fz_rx rx;

    if (c < 0 || k >= 1 || g->nconn == 0 || g->kid[k])
        return false;
    for (int i = 0; i < g->nconn; i++)
        if (g->conn[i].unread || g->conn[i].odd)
            return false;
    if (!may_sleep_on(&g->conn[c]) || g->conn[c].lowat > 1)
        return false;
    t = fz_thread_for(g, c);
    EMIT(g, "t%d fork k%d", t, k);
    fz_peer_sends(g, c, 1 + (long)fz_rand(g, 3000));
    fz_compose_recv(g, c, fz_fd_for(g, c), true, &rx);
    if (!rx.sleeps) {
        EMIT(g, "k%d %s", k, rx.text);
        fz_consumed(&g->conn[c], rx.takes);
    }
    EMIT(g, "k%d %s", k, fz_chance(g, 50) ? "exit" : "_exit");
    EMIT(g, "t%d kwait k%d", t, k);
    g->forks++;
    return true;
}

/* A thread takes a part and goes; the rest is for those who stay. */
bool fz_act_texit(struct fz_gen *g)
{
    int c = fz_any_conn(g), t = 1 + (int)fz_rand(g, 2);
    struct fz_mconn *m;

    if (c < 0 || !HAS(g, threads) || g->conn[c].odd || g->conn[c].rst)
        return false;
    m = &g->conn[c];
    if (m->unread < 2 || m->unread < m->lowat)
        return false;
    if (!g->thread[t])
        EMIT(g, "t0 spawn t%d", t);
    EMIT(g, "t%d recv f%d kind=recv len=%ld", t, fz_fd_for(g, c), m->unread / 2);
    fz_consumed(m, m->unread / 2);
    EMIT(g, "t%d texit", t);
    EMIT(g, "t0 tjoin t%d", t);
    g->thread[t] = false;
    return true;
}

/* The single steps of a script. Each returns false if there is nothing it could be done to. */
#include "gen.h"

#include <string.h>

bool fz_act_connect(struct fz_gen *g)
{
    int c = g->nconn, f = g->nfd;
    bool six = HAS(g, ipv6) && fz_chance(g, 25);
    struct fz_mconn *m;

    if (c >= FZ_CONNS - 2 || f >= FZ_FDS - 4)
        return false;
    m = &g->conn[c];
    if (HAS(g, client) && fz_chance(g, 30)) {
        EMIT(g, "t0 connect f%d c%d family=%d", f, c, six ? 6 : 4);
        EMIT(g, "p accept c%d family=%d", c, six ? 6 : 4);
    } else {
        int l = six;

        if (!g->listen_family[l]) {
            EMIT(g, "t0 listen l%d family=%d", l, six ? 6 : 4);
            g->listen_family[l] = 1;
            g->nlisten += !l;
        }
        EMIT(g, "p connect c%d l%d", c, l);
        m->nonblock = HAS(g, nonblock) && fz_chance(g, 15);
        if (fz_chance(g, 50) || m->nonblock) {
            g->fd[f].cloexec = fz_chance(g, 50);
            EMIT(g, "t0 accept f%d l%d c%d kind=accept4 nonblock=%d cloexec=%d", f, l, c,
                 m->nonblock, g->fd[f].cloexec);
        } else
            EMIT(g, "t0 accept f%d l%d c%d", f, l, c);
    }
    m->up = m->peer = true;
    m->lowat = 1;
    m->home = (int)fz_rand(g, (uint64_t)g->threads);
    g->fd[f].conn = c;
    g->fd[f].open = true;
    g->nfd++;
    g->nconn++;
    if (fz_chance(g, 70))
        fz_peer_sends(g, c, fz_send_size(g));
    return true;
}

static bool act_psend(struct fz_gen *g)
{
    int c = fz_any_conn(g);

    return c >= 0 && fz_peer_sends(g, c, fz_send_size(g));
}

static bool act_urgent(struct fz_gen *g)
{
    int c = fz_any_conn(g), t;

    if (c < 0 || fz_chance(g, 60))
        return false;
    t = fz_thread_for(g, c);
    if (fz_chance(g, 50) && g->conn[c].odd) {
        EMIT(g, "t%d recv f%d kind=recv len=1 flags=OOB|DONTWAIT", t, fz_fd_for(g, c));
        EMIT(g, "t%d get f%d ATMARK", t, fz_fd_for(g, c));
        return true;
    }
    if (!fz_peer_sends(g, c, 1 + (long)fz_rand(g, 50)))
        return false;
    EMIT(g, "p send c%d len=%d oob=1", c, 1 + (int)fz_rand(g, 5));
    g->conn[c].odd = true;
    return true;
}

static bool act_fin(struct fz_gen *g)
{
    int c = fz_any_conn(g);

    if (c < 0 || !g->conn[c].peer || g->conn[c].fin || g->conn[c].rst || fz_chance(g, 60))
        return false;
    g->conn[c].fin = true;
    if (fz_chance(g, 60))
        EMIT(g, "p shut c%d", c);
    else {
        EMIT(g, "p close c%d", c);
        g->conn[c].peer = false;
    }
    return true;
}

static bool act_rst(struct fz_gen *g)
{
    int c = fz_any_conn(g);

    if (c < 0 || !g->conn[c].peer || g->conn[c].rst || fz_chance(g, 60))
        return false;
    EMIT(g, "p rst c%d", c);
    g->conn[c].rst = true;
    g->conn[c].peer = false;
    return true;
}

static bool act_send(struct fz_gen *g)
{
    static const char *const kinds[] = {"send", "write", "writev", "sendto", "sendmsg", "sendmmsg"};
    int c = fz_any_conn(g), t;
    long len = 1 + (long)fz_rand(g, fz_chance(g, 80) ? 200 : 20000);
    const char *kind = kinds[fz_rand(g, 6)];
    struct fz_mconn *m;

    if (c < 0)
        return false;
    m = &g->conn[c];
    t = fz_thread_for(g, c);
    EMIT(g, "t%d send f%d kind=%s len=%ld%s", t, fz_fd_for(g, c), kind, len,
         kind[0] == 's' && fz_chance(g, 40) ? " flags=NOSIGNAL" : "");
    if (m->shutwr || m->rst)
        return true;
    if (m->peer)
        EMIT(g, "p recv c%d len=%ld", c, len);
    else {
        /* nobody is there: the peer's kernel answers with a reset */
        EMIT(g, "p waitstate c%d", c);
        m->rst = true;
    }
    return true;
}

static const char *poll_bits(struct fz_gen *g, bool quiet, bool only_in)
{
    static const char *const any[] = {"IN",     "IN|RDHUP",     "IN|OUT",    "OUT",
                                      "RDHUP",  "IN|RDNORM",    "OUT|RDHUP", "0",
                                      "RDNORM", "IN|OUT|RDHUP", "IN",        "IN"};
    static const char *const still[] = {"IN", "IN|RDHUP", "RDNORM", "IN|RDNORM|RDHUP"};

    if (only_in)
        return "IN";
    return quiet ? still[fz_rand(g, 4)] : any[fz_rand(g, 12)];
}

/* quiet: only what is not ready now, so that the wait sleeps; must: a descriptor that is in it;
   but: a connection that is not */
void fz_poll_set(struct fz_gen *g, int must, bool quiet, bool only_in, int but, char *out,
                 size_t size)
{
    const char *sep = "";
    int n = (int)fz_rand(g, 3) + (must < 0);

    if (must >= 0) {
        fz_cat(out, size, "f%d:%s", must, poll_bits(g, quiet, only_in));
        sep = ",";
    }
    for (int i = 0; i < n; i++) {
        int f = g->nfd ? (int)fz_rand(g, (uint64_t)g->nfd) : 0;
        const struct fz_mconn *m = &g->conn[g->fd[f].conn];

        if (f == must || g->fd[f].conn == but ||
            (quiet && (!g->fd[f].open || m->unread || m->odd || fz_over(m))))
            continue;
        fz_cat(out, size, "%sf%d:%s", sep, f, poll_bits(g, quiet, only_in));
        sep = ",";
    }
}

static bool observe(struct fz_gen *g, const char *kind)
{
    char set[128] = "";
    int t = fz_thread_for(g, g->nconn ? (int)fz_rand(g, (uint64_t)g->nconn) : 0);

    fz_poll_set(g, -1, false, false, -1, set, sizeof(set));
    if (fz_chance(g, 5) && g->timed < 2) {
        EMIT(g, "t%d~ poll kind=%s set=%s timeout=15 limit=0", t, kind, set);
        g->timed++;
    } else
        EMIT(g, "t%d poll kind=%s set=%s timeout=0", t, kind, set);
    return true;
}

bool fz_act_poll(struct fz_gen *g)
{
    return observe(g, fz_chance(g, 60) ? "poll" : "ppoll");
}

static bool act_select(struct fz_gen *g)
{
    /* a closed number in a set is EBADF for the call: seldom of use */
    for (int i = 0; i < g->nfd; i++)
        if (!g->fd[i].open && fz_chance(g, 80))
            return false;
    return observe(g, fz_chance(g, 60) ? "select" : "pselect");
}

static const char *epoll_ev(struct fz_gen *g, bool *in)
{
    static const char *const ev[] = {"IN",    "IN|RDHUP", "IN|OUT",   "IN|OUT|RDHUP",
                                     "RDHUP", "OUT",      "RDNORM|IN"};
    int k = (int)fz_rand(g, 7);

    *in = k < 4 || k == 6;
    return ev[k];
}

static bool epoll_change(struct fz_gen *g, int e, int t)
{
    int f = (int)fz_rand(g, (uint64_t)g->nfd), what = (int)fz_rand(g, 10);
    const char *call = what < 6 ? "ADD" : what < 8 ? "MOD" : "DEL";
    bool in, et = HAS(g, et) && fz_chance(g, 50), once = HAS(g, oneshot) && fz_chance(g, 15);
    const char *ev = epoll_ev(g, &in);

    if (!g->fd[f].open && fz_chance(g, 90))
        return false;
    EMIT(g, "t%d epctl e%d %s f%d ev=%s%s%s key=%d", t, e, call, f, ev, et ? "|ET" : "",
         once ? "|ONESHOT" : "", fz_key(e, f));
    if (what < 6 && g->ep[e].any >> f & 1)
        return true; /* EEXIST: all stays as it was */
    if (what >= 6 && !(g->ep[e].any >> f & 1))
        return true;
    g->ep[e].any |= 1u << f;
    g->ep[e].ever |= 1u << f;
    g->ep[e].in &= ~(1u << f);
    if (what >= 8)
        g->ep[e].any &= ~(1u << f);
    else if (in && !once)
        g->ep[e].in |= 1u << f;
    return true;
}

static bool act_epoll(struct fz_gen *g)
{
    static const char *const kinds[] = {"epoll_wait", "epoll_pwait", "epoll_pwait2"};
    int e = (int)fz_rand(g, 2), t, members;

    if (!g->nfd)
        return false;
    t = fz_thread_for(g, g->fd[0].conn);
    if (!g->ep[e].open) {
        g->ep[e].cloexec = fz_chance(g, 50);
        EMIT(g, "t%d epcreate e%d cloexec=%d", t, e, g->ep[e].cloexec);
        g->ep[e].open = true;
        for (int i = 0; i < 3; i++)
            epoll_change(g, e, t);
    }
    if (fz_chance(g, 25))
        return epoll_change(g, e, t);
    members = __builtin_popcount(g->ep[e].any);
    if (fz_chance(g, 20) && members > 1)
        EMIT(g, "t%d epwait e%d kind=%s max=%d rounds=%d", t, e, kinds[fz_rand(g, 3)],
             1 + (int)fz_rand(g, 2), members * 2 + 2);
    else if (fz_chance(g, 3) && g->timed < 2) {
        EMIT(g, "t%d~ epwait e%d kind=%s max=16 timeout=15", t, e, kinds[fz_rand(g, 3)]);
        g->timed++;
    } else
        EMIT(g, "t%d epwait e%d kind=%s max=16", t, e, kinds[fz_rand(g, 3)]);
    return true;
}

static bool act_dup(struct fz_gen *g)
{
    static const char *const kinds[] = {"dup", "dupfd", "dupfd_cloexec", "dup2", "dup3"};
    int c = fz_any_conn(g), f, n = g->nfd, kind = (int)fz_rand(g, 5);

    if (c < 0 || n >= FZ_FDS - 3)
        return false;
    f = fz_fd_for(g, c);
    if (kind >= 3) {
        /* over another descriptor of ours, open or closed */
        int over = (int)fz_rand(g, (uint64_t)n);

        if (over == f || !g->fd[over].open)
            return false;
        if (g->fd[over].conn != c && fz_fds_open(g, g->fd[over].conn) == 1 && fz_chance(g, 50))
            return false;
        EMIT(g, "t%d dup f%d f%d kind=%s", fz_thread_for(g, c), over, f, kinds[kind]);
        for (int e = 0; e < 2; e++) {
            g->ep[e].in &= ~(1u << over);
            g->ep[e].any &= ~(1u << over);
        }
        g->fd[over].was = g->fd[over].conn + 1;
        g->fd[over].conn = c;
        g->fd[over].cloexec = kind == 4;
        return true;
    }
    EMIT(g, "t%d dup f%d f%d kind=%s min=%d", fz_thread_for(g, c), n, f, kinds[kind],
         fz_chance(g, 50) ? 20 : 0);
    g->fd[n].conn = c;
    g->fd[n].open = true;
    g->fd[n].cloexec = kind == 2;
    g->nfd++;
    return true;
}

static bool act_close(struct fz_gen *g)
{
    int c = fz_any_conn(g), f;

    if (c < 0 || (fz_fds_open(g, c) == 1 && fz_chance(g, 65)))
        return false;
    f = fz_fd_for(g, c);
    EMIT(g, "t%d close f%d", fz_thread_for(g, c), f);
    g->fd[f].open = false;
    for (int e = 0; e < 2; e++)
        g->ep[e].in &= ~(1u << f);
    if (!g->conn[c].peer)
        return true;
    /* quiet: what should not have come would mostly have come by now */
    EMIT(g, "p %s c%d", fz_fds_open(g, c) ? "quiet" : "end", c);
    return true;
}

static bool act_close_range(struct fz_gen *g)
{
    int c = fz_any_conn(g), f;

    if (c < 0 || fz_chance(g, 85))
        return false;
    f = fz_fd_for(g, c);
    EMIT(g, "t%d close_range f%d f%d", fz_thread_for(g, c), f, f);
    g->fd[f].open = false;
    for (int e = 0; e < 2; e++)
        g->ep[e].in &= ~(1u << f);
    if (g->conn[c].peer)
        EMIT(g, "p %s c%d", fz_fds_open(g, c) ? "quiet" : "end", c);
    return true;
}

static bool act_shutdown(struct fz_gen *g)
{
    static const char *const how[] = {"RD", "WR", "RDWR"};
    int c = fz_any_conn(g), k = (int)fz_rand(g, 3);

    if (c < 0 || fz_chance(g, 60))
        return false;
    EMIT(g, "t%d shutdown f%d %s", fz_thread_for(g, c), fz_fd_for(g, c), how[k]);
    g->conn[c].shutrd |= k != 1;
    g->conn[c].shutwr |= k != 0;
    if (k && g->conn[c].peer)
        EMIT(g, "p end c%d", c);
    return true;
}

static bool act_option(struct fz_gen *g)
{
    static const char *const get[] = {"FIONREAD", "SIOCINQ", "FIONREAD", "ERROR", "ERROR",
                                      "TIMEO",    "LOWAT",   "FL",       "TYPE"};
    int c = fz_any_conn(g), f, t, what = (int)fz_rand(g, 9);
    struct fz_mconn *m;

    if (c < 0 || (what < 3 && !HAS(g, fionread)) || (what >= 3 && !HAS(g, soerror)))
        return false;
    m = &g->conn[c];
    f = fz_fd_for(g, c);
    t = fz_thread_for(g, c);
    if (fz_chance(g, 60)) {
        EMIT(g, "t%d get f%d %s", t, f, get[what]);
        return true;
    }
    if (HAS(g, nonblock) && fz_chance(g, 60)) {
        m->nonblock = !m->nonblock;
        EMIT(g, "t%d set f%d NONBLOCK value=%d via=%s", t, f, m->nonblock,
             fz_chance(g, 50) ? "fcntl" : "ioctl");
    } else if (HAS(g, timeo) && fz_chance(g, 70)) {
        m->timeo = m->timeo ? 0 : 20;
        EMIT(g, "t%d set f%d TIMEO value=%d", t, f, m->timeo);
    } else if (HAS(g, lowat) && !m->unread && fz_chance(g, 40)) {
        /* with bytes unread: limits/held_then_lowat.script */
        m->lowat = m->lowat > 1 ? 1 : 2 + (int)fz_rand(g, 30);
        EMIT(g, "t%d set f%d LOWAT value=%d", t, f, m->lowat);
    } else if (HAS(g, oobinline) && fz_chance(g, 20))
        EMIT(g, "t%d set f%d OOBINLINE value=%d", t, f, fz_chance(g, 50));
    else
        return false;
    return true;
}

const struct fz_act fz_acts[] = {
    {fz_act_recv, -1, 40},
    {act_psend, -1, 24},
    {fz_act_connect, -1, 2},
    {fz_act_poll, FZ_CAT_poll, 8},
    {act_select, FZ_CAT_select, 4},
    {act_epoll, FZ_CAT_epoll, 14},
    {act_dup, FZ_CAT_dup, 3},
    {act_close, FZ_CAT_close, 4},
    {act_close_range, FZ_CAT_closerange, 2},
    {act_shutdown, FZ_CAT_shutdown, 2},
    {act_fin, FZ_CAT_fin, 4},
    {act_rst, FZ_CAT_rst, 3},
    {act_option, -1, 10},
    {act_send, FZ_CAT_send, 6},
    {act_urgent, FZ_CAT_oob, 2},
    {fz_act_block, FZ_CAT_block, 10},
    {fz_act_observe, FZ_CAT_observe, 4},
    {fz_act_fork, FZ_CAT_fork, 1},
    {fz_act_texit, FZ_CAT_texit, 1},
    {fz_act_errors, FZ_CAT_errors, 2},
    {fz_act_loop, FZ_CAT_loop, 12},
    {fz_act_stall, FZ_CAT_stall, 6},
    {fz_act_proc, FZ_CAT_proc, 12},
    {fz_act_flood, FZ_CAT_flood, 20},
    {NULL, 0, 0},
};

/*
 * Event loops: one instance with all that is open in it, waited on and read from again and again,
 * while its members change and others join in: a second waiter, a second number, an instance around
 * it, a fork.
 */
#include "gen.h"

#define OUTER                                                                                      \
    (FZ_EPOLLS - 1) /* e0 and e1 are loops, e2 is a second name of one, e3 is around them */

static bool fit(const struct fz_mconn *m)
{
    return m->up && m->peer && m->lowat == 1 && !m->odd && !fz_over(m) && !m->shutwr && !m->timeo;
}

/* a member that can be sent to and read from, or -1 */
static int member(struct fz_gen *g, int e)
{
    int start = (int)fz_rand(g, (uint64_t)g->nfd);

    for (int i = 0; i < g->nfd; i++) {
        int f = (start + i) % g->nfd;

        if ((g->ep[e].in >> f & 1) && g->fd[f].open && fit(&g->conn[g->fd[f].conn]))
            return f;
    }
    return -1;
}

static int name(struct fz_gen *g, int e)
{
    return g->ep[e].twin && fz_chance(g, 50) ? 2 : e;
}

static void set_member(struct fz_gen *g, int e, int t, const char *how, int f)
{
    static const char *const ev[] = {"IN", "IN", "IN|RDHUP", "IN|OUT", "RDHUP", "0"};
    int k = (int)fz_rand(g, how[0] == 'A' ? 4 : 6);

    /* The member of what the number stood for before may live on, and two of one key cannot be told
     * apart: the library does not merge them. */
    if (how[0] == 'A' && g->fd[f].was)
        return;
    EMIT(g, "t%d epctl e%d %s f%d ev=%s%s key=%d", t, name(g, e), how, f, ev[k],
         HAS(g, et) && fz_chance(g, 50) ? "|ET" : "", fz_key(e, f));
    if ((how[0] == 'A') == (g->ep[e].any >> f & 1))
        return; /* refused */
    g->ep[e].in &= ~(1u << f);
    if (how[0] == 'D') {
        g->ep[e].any &= ~(1u << f);
        return;
    }
    g->ep[e].any |= 1u << f;
    g->ep[e].ever |= 1u << f;
    if (k < 4)
        g->ep[e].in |= 1u << f;
}

static void change_member(struct fz_gen *g, int e, int t)
{
    int f = (int)fz_rand(g, (uint64_t)g->nfd);

    if (!g->fd[f].open)
        return;
    if (!(g->ep[e].any >> f & 1))
        set_member(g, e, t, "ADD", f);
    else if (fz_chance(g, 65))
        set_member(g, e, t, "MOD", f);
    else {
        set_member(g, e, t, "DEL", f);
        if (fz_chance(g, 60))
            set_member(g, e, t, "ADD", f);
    }
}

static const char *wait_kind(struct fz_gen *g)
{
    static const char *const kinds[] = {"epoll_wait", "epoll_pwait", "epoll_pwait2"};

    return kinds[fz_rand(g, 3)];
}

static void wait_now(struct fz_gen *g, int e, int t)
{
    int n = __builtin_popcount(g->ep[e].any);

    if (n > 1 && fz_chance(g, 25))
        EMIT(g, "t%d epwait e%d kind=%s max=%d rounds=%d", t, name(g, e), wait_kind(g),
             1 + (int)fz_rand(g, 2), n * 4 + 4);
    else
        EMIT(g, "t%d epwait e%d kind=%s max=16", t, name(g, e), wait_kind(g));
}

/* Asleep until something comes for one of them; it may find something at once. */
static void wait_asleep(struct fz_gen *g, int e, int t)
{
    int f = member(g, e);

    if (f < 0)
        return;
    wait_now(g, e, t);
    EMIT(g, "t%d& epwait e%d kind=%s max=16 timeout=%d", t, name(g, e), wait_kind(g),
         fz_chance(g, 50) ? -1 : 15000);
    if (!fz_peer_sends(g, g->fd[f].conn, 1 + (long)fz_rand(g, 300)))
        EMIT(g, "p shut c%d", g->fd[f].conn), g->conn[g->fd[f].conn].fin = true;
    EMIT(g, "d join t%d", t);
}

static void read_members(struct fz_gen *g, int e, int t)
{
    for (int f = 0; f < g->nfd; f++) {
        struct fz_mconn *m = &g->conn[g->fd[f].conn];
        long len;

        if (!(g->ep[e].any >> f & 1) || !g->fd[f].open || m->odd || fz_chance(g, 30))
            continue;
        len = fz_chance(g, 70) ? 130000 : 1 + (long)fz_rand(g, 200);
        EMIT(g, "t%d recv f%d kind=recv len=%ld flags=DONTWAIT", t, f, len);
        fz_consumed(m, len);
        if (len == 130000 && fz_chance(g, 60))
            EMIT(g, "t%d recv f%d kind=recv len=5 flags=DONTWAIT", t, f);
    }
}

/* Somebody else has to do with the instance. */
static void joined(struct fz_gen *g, int e, int t)
{
    switch (fz_rand(g, 5)) {
    case 0:
        if (HAS(g, threads))
            wait_now(g, e, fz_other_thread(g, t));
        break;
    case 1:
        if (!HAS(g, dup) || g->ep[2].open)
            break;
        EMIT(g, "t%d epdup e2 e%d", t, e);
        g->ep[2].open = g->ep[e].twin = true;
        break;
    case 2:
        if (!g->ep[OUTER].open)
            EMIT(g, "t%d epcreate e%d", t, OUTER);
        g->ep[OUTER].open = true;
        EMIT(g, "t%d epnest e%d %s e%d key=%d", t, OUTER, g->ep[e].nested ? "DEL" : "ADD", e,
             60 + e);
        g->ep[e].nested = !g->ep[e].nested;
        break;
    case 3:
        if (HAS(g, fork))
            fz_act_fork(g);
        break;
    default:
        if (HAS(g, threads))
            change_member(g, e, fz_other_thread(g, t));
        break;
    }
}

bool fz_act_loop(struct fz_gen *g)
{
    int e = (int)fz_rand(g, 2), t, rounds = 1 + (int)fz_rand(g, 4);

    if (!g->nfd || !HAS(g, epoll))
        return false;
    t = fz_thread_for(g, g->fd[0].conn);
    if (!g->ep[e].open) {
        while (g->nconn < 5 && fz_chance(g, 75) && fz_act_connect(g))
            ;
        EMIT(g, "t%d epcreate e%d", t, e);
        g->ep[e].open = true;
        for (int f = 0; f < g->nfd; f++)
            if (g->fd[f].open && fz_chance(g, 85))
                set_member(g, e, t, "ADD", f);
        read_members(g, e, t);
    }
    for (int i = 0; i < rounds && g->out->n < 110; i++) {
        for (int k = (int)fz_rand(g, 4); k > 0; k--) {
            int f = member(g, e);

            if (f >= 0)
                fz_peer_sends(g, g->fd[f].conn, 1 + (long)fz_rand(g, 600));
        }
        if (fz_chance(g, 30))
            wait_asleep(g, e, t);
        else
            wait_now(g, e, t);
        if (g->ep[e].nested && fz_chance(g, 60))
            EMIT(g, "t%d epwait e%d max=16", t, OUTER);
        if (fz_chance(g, 3) && g->timed < 2) {
            EMIT(g, "t%d~ epwait e%d kind=%s max=16 timeout=15", t, e, wait_kind(g));
            g->timed++;
        }
        read_members(g, e, t);
        if (fz_chance(g, 30))
            change_member(g, e, t);
        if (fz_chance(g, 10))
            joined(g, e, t);
    }
    return true;
}

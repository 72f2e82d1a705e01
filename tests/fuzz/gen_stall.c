/*
 * Connections that nobody reads for long: they are sent hundreds of KiB, in pieces large and small,
 * while others are read by the same thread; then they are looked at, read, or closed as they are.
 * And floods: all that a thread reads are sent to before it looks again, more than it can be told of at a
 * time.
 */
#include "gen.h"

/* One that bytes may be left on, or -1. */
static int candidate(struct fz_gen *g)
{
    int start = g->nconn ? (int)fz_rand(g, (uint64_t)g->nconn) : 0;

    for (int i = 0; i < g->nconn; i++) {
        int c = (start + i) % g->nconn;
        const struct fz_mconn *m = &g->conn[c];

        if (m->up && m->peer && fz_fds_open(g, c) && !m->odd && !fz_over(m) && !m->shutwr &&
            m->lowat == 1)
            return c;
    }
    return -1;
}

/* Another one, of which little is unread, for a call that sleeps; or -1. */
static int companion(struct fz_gen *g, int but)
{
    for (int tries = 0; tries < 6; tries++) {
        int c = candidate(g);

        if (c >= 0 && c != but && g->conn[c].unread < 20000 && !g->conn[c].nonblock &&
            !g->conn[c].timeo)
            return c;
    }
    return -1;
}

static void read_exactly(struct fz_gen *g, int t, int c, long len)
{
    EMIT(g, "t%d recv f%d kind=recv len=%ld flags=WAITALL", t, fz_fd_for(g, c), len);
    fz_consumed(&g->conn[c], len);
}

/* The thread goes to the kernel for something else, and so brings in what has come. */
static void go_on(struct fz_gen *g, int t, int but)
{
    int o = companion(g, but), f;
    long len = 1 + (long)fz_rand(g, 900);

    if (o < 0) {
        fz_act_connect(g);
        return;
    }
    f = fz_fd_for(g, o);
    if (g->conn[o].unread)
        read_exactly(g, t, o, g->conn[o].unread);
    switch (fz_rand(g, 4)) {
    case 0:
        if (fz_peer_sends(g, o, len))
            read_exactly(g, t, o, len);
        return;
    case 1:
        EMIT(g, "t%d& poll kind=poll set=f%d:IN timeout=-1", t, f);
        break;
    case 2:
        EMIT(g, "t%d& recv f%d kind=read len=%ld", t, f, len);
        EMIT(g, "p send c%d len=%ld", o, len);
        EMIT(g, "d join t%d", t);
        return;
    default:
        EMIT(g, "t%d recv f%d kind=recv len=9 flags=DONTWAIT", t, f);
        EMIT(g, "t%d& recv f%d kind=recv len=1 flags=PEEK", t, f);
    }
    EMIT(g, "p send c%d len=%ld", o, len);
    EMIT(g, "d join t%d", t);
    g->conn[o].unread = len;
    g->conn[o].biggest = len;
    g->conn[o].chunks = 1;
    read_exactly(g, t, o, len);
}

/* Many small segments, or few large ones. */
static void instalment(struct fz_gen *g, int c)
{
    struct fz_mconn *m = &g->conn[c];
    long len = 2000 + (long)fz_rand(g, 30000);

    if (fz_chance(g, 50))
        fz_peer_sends(g, c, 20000 + (long)fz_rand(g, 100000));
    else if (fz_chance(g, 30))
        fz_peer_sends(g, c, fz_send_size(g));
    else if (m->unread + len < FZ_ROOM_STALL) {
        EMIT(g, "p send c%d len=%ld piece=%ld", c, len, len / 1000 + 1 + (long)fz_rand(g, 700));
        m->unread += len;
        m->biggest = len;
        m->chunks += 2;
    }
}

static void close_unread(struct fz_gen *g, int t, int c)
{
    int f = fz_fd_for(g, c);

    if (fz_fds_open(g, c) != 1)
        return;
    EMIT(g, "t%d close f%d", t, f);
    g->fd[f].open = false;
    for (int e = 0; e < 2; e++)
        g->ep[e].in &= ~(1u << f);
    if (g->conn[c].peer)
        EMIT(g, "p end c%d", c);
}

/* What may happen to one that has been left alone. */
static void look(struct fz_gen *g, int t, int c)
{
    struct fz_mconn *m = &g->conn[c];
    int f = fz_fd_for(g, c);

    if (f < 0 || m->rst)
        return;
    switch (fz_rand(g, 12)) {
    case 0 ... 1:
        EMIT(g, "t%d get f%d FIONREAD", t, f);
        break;
    case 2:
        EMIT(g, "t%d poll kind=%s set=f%d:IN timeout=0", t, fz_chance(g, 50) ? "poll" : "select",
             f);
        break;
    case 3 ... 4:
        EMIT(g, "t%d recv f%d kind=recv len=%d flags=PEEK|DONTWAIT", t, f,
             fz_chance(g, 50) ? 130000 : 1 + (int)fz_rand(g, 70000));
        break;
    case 5 ... 8:
        if (m->unread)
            read_exactly(g, t, c,
                         m->unread < 130000 ? m->unread
                         : fz_chance(g, 40) ? 1 + (long)fz_rand(g, 3000)
                                            : 130000);
        break;
    case 9:
        if (HAS(g, threads) && m->unread > 1)
            read_exactly(g, fz_other_thread(g, t), c, 1 + (long)fz_rand(g, 3000) % m->unread);
        break;
    case 10:
        if (!m->peer || m->fin)
            break;
        if (HAS(g, rst) && fz_chance(g, 50)) {
            EMIT(g, "p rst c%d", c);
            m->rst = true;
            m->peer = false;
        } else if (HAS(g, fin)) {
            EMIT(g, "p shut c%d", c);
            m->fin = true;
        }
        break;
    default:
        if (HAS(g, close))
            close_unread(g, t, c);
    }
}

/*
 * More than fits between the two kernels' ends: what is on its way cannot be known, so that only
 * others are looked at until all of it is read.
 */
static void push(struct fz_gen *g, int t, int c)
{
    long left = 0, len;

    for (int i = 3 + (int)fz_rand(g, 4); i > 0; i--) {
        len = 100000 + (long)fz_rand(g, 160000);
        EMIT(g, "p push c%d len=%ld", c, len);
        left += len;
        go_on(g, t, c);
    }
    g->conn[c].unread += left;
    for (left = g->conn[c].unread; left; left -= len) {
        len = left < 130000 ? left : 130000;
        read_exactly(g, t, c, len);
    }
}

bool fz_act_stall(struct fz_gen *g)
{
    int c = candidate(g), t, looks = 1 + (int)fz_rand(g, 5);

    if (c < 0 || g->out->n > 70)
        return false;
    t = fz_thread_for(g, c);
    if (!g->conn[c].unread && !g->conn[c].nonblock && fz_peer_sends(g, c, 30))
        read_exactly(g, t, c, 20);
    if (!g->conn[c].nonblock && !g->conn[c].timeo && fz_chance(g, 20)) {
        push(g, t, c);
        return true;
    }
    for (int i = 2 + (int)fz_rand(g, 5); i > 0; i--) {
        instalment(g, c);
        go_on(g, t, c);
    }
    for (int i = 0; i < looks; i++) {
        look(g, t, c);
        if (fz_chance(g, 40))
            go_on(g, t, c);
    }
    return true;
}

#define FLOODED 6 /* connections, as far as there are so many */

/* Read empty by t, which is served of it from then on; false: it is none for that. */
static bool lay_dry(struct fz_gen *g, int t, int c)
{
    struct fz_mconn *m = &g->conn[c];

    if (!m->up || !m->peer || !fz_fds_open(g, c) || m->odd || fz_over(m) || m->shutwr ||
        m->lowat != 1 || m->nonblock || m->timeo || !fz_peer_sends(g, c, 2))
        return false;
    read_exactly(g, t, c, m->unread - 1);
    read_exactly(g, t, c, 1);
    return true;
}

/* How one of them may be looked at first, by whoever. */
static void look_at_flooded(struct fz_gen *g, int t, int c)
{
    struct fz_mconn *m = &g->conn[c];
    int f = fz_fd_for(g, c);

    switch (fz_rand(g, 6)) {
    case 0:
        EMIT(g, "t%d get f%d FIONREAD", t, f);
        break;
    case 1:
        EMIT(g, "t%d recv f%d kind=recv len=%ld flags=PEEK|DONTWAIT", t, f, m->unread);
        break;
    case 2:
        EMIT(g, "t%d poll kind=%s set=f%d:IN timeout=0", t, fz_chance(g, 50) ? "poll" : "select",
             f);
        break;
    case 3:
        if (HAS(g, threads))
            read_exactly(g, fz_other_thread(g, t), c, 1 + (long)fz_rand(g, (uint64_t)m->unread));
        break;
    case 4:
        go_on(g, t, c);
        break;
    default:
        read_exactly(g, t, c, 1 + (long)fz_rand(g, (uint64_t)m->unread));
    }
}

bool fz_act_flood(struct fz_gen *g)
{
    int c[FLOODED], n = 0, t, rounds = 2 + (int)fz_rand(g, 2);

    if (g->out->n > 50)
        return false;
    while (g->nconn < FLOODED && fz_act_connect(g))
        ;
    t = fz_thread_for(g, 0);
    for (int i = 0; i < g->nconn && n < FLOODED; i++)
        if (lay_dry(g, t, i))
            c[n++] = i;
    if (n < 3)
        return false;
    while (rounds--) {
        for (int i = 0; i < n; i++)
            fz_peer_sends(g, c[i], 1500 + (long)fz_rand(g, 3000));
        for (int i = 0; i < n; i++)
            if (g->conn[c[i]].unread && fz_chance(g, 60))
                look_at_flooded(g, t, c[i]);
        for (int i = 0; i < n; i++)
            if (g->conn[c[i]].unread && (rounds || fz_chance(g, 70)))
                read_exactly(g, t, c[i], g->conn[c[i]].unread);
    }
    return true;
}

/*
 * Processes: children that share what their parent has open and take turns with it, line by line;
 * images that replace the one that has read so far; programs that read a part; descriptors that
 * are passed on. All children have ended when the act has.
 */
#include "gen.h"

#include <string.h>

#define PARENT (-1)

/* Who acts: the parent by a thread of its own, or a child. */
static const char *actor(struct fz_gen *g, int who, int c)
{
    static char name[16];

    if (who == PARENT)
        snprintf(name, sizeof(name), "t%d", fz_thread_for(g, c));
    else
        snprintf(name, sizeof(name), "k%d", who);
    return name;
}

static bool has_open(const struct fz_gen *g, int who, int f)
{
    return who == PARENT ? g->fd[f].open : g->fd[f].kid >> who & 1;
}

static void set_open(struct fz_gen *g, int who, int f, bool open)
{
    if (who == PARENT)
        g->fd[f].open = open;
    else if (open)
        g->fd[f].kid |= 1 << who;
    else
        g->fd[f].kid &= ~(1 << who);
}

static bool holds(const struct fz_gen *g, int who, int c)
{
    for (int f = 0; f < g->nfd; f++)
        if (g->fd[f].conn == c && has_open(g, who, f))
            return true;
    return false;
}

/*
 * Bytes are held by a process that alone has the connection. Processes that there were before do not find
 * them, a listed limit; nor does an image that did not have it.
 */
static void note_finders(struct fz_gen *g)
{
    for (int c = 0; c < g->nconn; c++) {
        int n = 0, last = 0;

        for (int who = PARENT; who < FZ_KIDS; who++)
            if (holds(g, who, c)) {
                last = 1 << (who + 1);
                n++;
            }
        if (n == 1)
            g->conn[c].finders = last;
    }
}

static void set_finder(struct fz_gen *g, int who, int c, bool finds)
{
    if (finds)
        g->conn[c].finders |= 1 << (who + 1);
    else
        g->conn[c].finders &= ~(1 << (who + 1));
}

static bool finds(const struct fz_gen *g, int who, int c)
{
    return g->conn[c].finders >> (who + 1) & 1;
}

/* A descriptor that it has open, or -1. */
static int any_fd(struct fz_gen *g, int who)
{
    int start = g->nfd ? (int)fz_rand(g, (uint64_t)g->nfd) : 0;

    for (int i = 0; i < g->nfd; i++) {
        int f = (start + i) % g->nfd;

        if (has_open(g, who, f) && g->conn[g->fd[f].conn].up)
            return f;
    }
    return -1;
}

/* Somebody who is alive. */
static int anybody(struct fz_gen *g)
{
    int who = (int)fz_rand(g, FZ_KIDS + 1) - 1;

    return who == PARENT || g->kid[who] ? who : PARENT;
}

/* After numbers of c have gone: what the peer hears of it. */
static void look_at_peer(struct fz_gen *g, int c)
{
    if (g->conn[c].peer)
        EMIT(g, "p %s c%d", fz_holders(g, c) ? "quiet" : "end", c);
}

static void step_recv(struct fz_gen *g, int who)
{
    int f = any_fd(g, who), c;
    struct fz_mconn *m;
    struct fz_rx rx;
    const char *by;

    if (f < 0)
        return;
    c = g->fd[f].conn;
    m = &g->conn[c];
    fz_compose_recv(g, c, f, false, &rx);
    if (m->odd || (rx.sleeps &&
                   (m->unread || m->lowat > 1 || m->timeo || m->shutwr || rx.waitall || !m->peer)))
        return;
    by = actor(g, who, c);
    if (!rx.sleeps) {
        EMIT(g, "%s %s", by, rx.text);
        fz_consumed(m, rx.takes);
        return;
    }
    EMIT(g, "%s& %s", by, rx.text);
    fz_peer_sends(g, c, 1 + (long)fz_rand(g, 600));
    EMIT(g, "d join %s", by);
    fz_consumed(m, rx.peek ? 0 : rx.total);
}

static void step_look(struct fz_gen *g, int who)
{
    static const char *const get[] = {"FIONREAD", "SIOCINQ", "ERROR", "FL"};
    static const char *const kinds[] = {"poll", "ppoll", "select", "pselect"};
    int f = any_fd(g, who), kind = (int)fz_rand(g, 6);
    const char *by;

    if (f < 0)
        return;
    by = actor(g, who, g->fd[f].conn);
    if (kind < 4)
        EMIT(g, "%s poll kind=%s set=f%d:IN%s timeout=0", by, kinds[kind], f,
             fz_chance(g, 40) ? "|RDHUP" : "");
    else
        EMIT(g, "%s get f%d %s", by, f, get[fz_rand(g, 4)]);
}

/* A thread whose request was called back while it was elsewhere ends it at its next call: with several
 * holders an end is late until then, a listed limit. */
static void let_all_call(struct fz_gen *g)
{
    for (int t = 0; t < FZ_THREADS; t++)
        if (!t || g->thread[t])
            EMIT(g, "t%d poll kind=poll set= timeout=0", t);
}

static void step_close(struct fz_gen *g, int who)
{
    int f = any_fd(g, who), c;

    if (f < 0 || (fz_holders(g, g->fd[f].conn) == 1 && fz_chance(g, 70)))
        return;
    c = g->fd[f].conn;
    let_all_call(g);
    EMIT(g, "%s close f%d", actor(g, who, c), f);
    set_open(g, who, f, false);
    if (who == PARENT)
        for (int e = 0; e < 2; e++)
            g->ep[e].in &= ~(1u << f);
    look_at_peer(g, c);
}

/* What is close-on-exec has gone; the other threads too. */
static void forget_cloexec(struct fz_gen *g, int who)
{
    for (int f = 0; f < g->nfd; f++) {
        if (!g->fd[f].cloexec || !has_open(g, who, f))
            continue;
        set_open(g, who, f, false);
        for (int e = 0; e < 2 && who == PARENT; e++)
            g->ep[e].in &= ~(1u << f);
        if (!fz_holders(g, g->fd[f].conn))
            look_at_peer(g, g->fd[f].conn);
    }
    if (who != PARENT)
        return;
    for (int t = 1; t < FZ_THREADS; t++)
        g->thread[t] = false;
    for (int e = 0; e < 2; e++) {
        if (!g->ep[e].cloexec)
            continue;
        g->ep[e].open = false;
        g->ep[e].in = g->ep[e].any = 0;
    }
}

static void step_exec(struct fz_gen *g, int who)
{
    static const char *const via[] = {"execv",   "execve",   "execvp", "execl",
                                      "fexecve", "execveat", "bad",    "execv"};
    int way = (int)fz_rand(g, 8);

    /* epoll instances that the next image would go on with */
    for (int e = 0; e < FZ_EPOLLS && who == PARENT; e++)
        if (g->ep[e].open && !HAS(g, procep) && (!g->ep[e].cloexec || g->ep[e].twin || e > 1))
            return;
    EMIT(g, "%c%d exec via=%s", who == PARENT ? 't' : 'k', who == PARENT ? 0 : who, via[way]);
    if (way == 6)
        return;
    note_finders(g);
    forget_cloexec(g, who);
    for (int c = 0; c < g->nconn; c++)
        set_finder(g, who, c, finds(g, who, c) && holds(g, who, c));
}

static void step_feed(struct fz_gen *g, int who)
{
    static const char *const how[] = {"fork", "vfork", "spawn", "system", "popen"};
    int f = any_fd(g, who);
    struct fz_mconn *m;
    long len;

    if (f < 0)
        return;
    m = &g->conn[g->fd[f].conn];
    if (!m->unread || m->odd || m->lowat > 1 || m->rst)
        return;
    len = 1 + (long)fz_rand(g, (uint64_t)m->unread);
    EMIT(g, "%s feed f%d how=%s len=%ld", actor(g, who, g->fd[f].conn), f, how[fz_rand(g, 5)], len);
    fz_consumed(m, len);
}

/* One sends, another one or itself receives; the number that was sent may be closed in between. */
static void step_pass(struct fz_gen *g, int who)
{
    int f = any_fd(g, who), to = anybody(g), n = g->nfd, c;

    if (f < 0 || !g->way || n >= FZ_FDS - 3)
        return;
    c = g->fd[f].conn;
    note_finders(g);
    if (!finds(g, to, c))
        to = who;
    EMIT(g, "%s sendfd f%d", actor(g, who, c), f);
    if (fz_chance(g, 40)) {
        EMIT(g, "%s close f%d", actor(g, who, c), f);
        set_open(g, who, f, false);
        for (int e = 0; e < 2 && who == PARENT; e++)
            g->ep[e].in &= ~(1u << f);
    }
    if (fz_chance(g, 30))
        step_recv(g, anybody(g));
    g->fd[n].cloexec = fz_chance(g, 30);
    EMIT(g, "%s recvfd f%d cloexec=%d", actor(g, to, c), n, g->fd[n].cloexec);
    g->fd[n].conn = c;
    g->fd[n].kid = 0;
    g->nfd++;
    set_open(g, to, n, true);
}

static void step_fork(struct fz_gen *g, int who, int *parent_of)
{
    static const char *const how[] = {"fork", "fork", "_Fork", "number", "clone"};
    int k = 0;

    while (k < FZ_KIDS && g->kid[k])
        k++;
    if (k == FZ_KIDS)
        return;
    EMIT(g, "%s fork k%d how=%s", actor(g, who, 0), k, how[fz_rand(g, 5)]);
    g->kid[k] = true;
    parent_of[k] = who;
    note_finders(g);
    for (int c = 0; c < g->nconn; c++)
        set_finder(g, k, c, finds(g, who, c));
    for (int f = 0; f < g->nfd; f++)
        set_open(g, k, f, has_open(g, who, f));
}

static void end_kid(struct fz_gen *g, int k, int *parent_of)
{
    EMIT(g, "k%d %s", k, fz_chance(g, 50) ? "exit" : "_exit");
    if (parent_of[k] == PARENT)
        EMIT(g, "t0 kwait k%d", k);
    else if (parent_of[k] != k && g->kid[parent_of[k]])
        EMIT(g, "k%d kwait k%d", parent_of[k], k);
    else
        EMIT(g, "d reap k%d", k);
    g->kid[k] = false;
    for (int i = 0; i < FZ_KIDS; i++)
        if (parent_of[i] == k)
            parent_of[i] = i; /* an orphan: of nobody here */
    for (int f = 0; f < g->nfd; f++) {
        if (!(g->fd[f].kid >> k & 1))
            continue;
        g->fd[f].kid &= ~(1 << k);
        if (!fz_holders(g, g->fd[f].conn))
            look_at_peer(g, g->fd[f].conn);
    }
}

/* The parent's own life goes on: an act that makes and loses no number. */
static void step_other(struct fz_gen *g)
{
    static const int cats[] = {-1,          FZ_CAT_poll, FZ_CAT_select, FZ_CAT_epoll,
                               FZ_CAT_send, FZ_CAT_fin,  FZ_CAT_rst};
    int n = 0, pick;

    while (fz_acts[n].run)
        n++;
    pick = (int)fz_rand(g, (uint64_t)n);
    for (size_t i = 0; i < sizeof(cats) / sizeof(*cats); i++)
        if (fz_acts[pick].cat == cats[i] && (cats[i] < 0 || g->cats >> cats[i] & 1))
            fz_acts[pick].run(g);
}

static void one_step(struct fz_gen *g, int *parent_of)
{
    int who = anybody(g), c;

    switch (fz_rand(g, 20)) {
    case 0 ... 6:
        step_recv(g, who);
        break;
    case 7 ... 8:
        step_look(g, who);
        break;
    case 9 ... 11:
        c = g->nconn ? (int)fz_rand(g, (uint64_t)g->nconn) : -1;
        if (c >= 0)
            fz_peer_sends(g, c, fz_send_size(g));
        break;
    case 12:
        step_close(g, who);
        break;
    case 13:
        step_exec(g, who);
        break;
    case 14:
        step_feed(g, who);
        break;
    case 15:
        step_pass(g, who);
        break;
    case 16:
        step_fork(g, who, parent_of);
        break;
    case 17:
        if (who != PARENT)
            end_kid(g, who, parent_of);
        break;
    case 18:
        if (who != PARENT && HAS(g, procep) && g->ep[0].open)
            EMIT(g, "k%d epwait e0 max=16", who);
        break;
    default:
        step_other(g);
    }
}

bool fz_act_proc(struct fz_gen *g)
{
    int parent_of[FZ_KIDS] = {PARENT, PARENT}, steps = 3 + (int)fz_rand(g, 14);

    if (!g->nfd)
        return false;
    if (HAS(g, pass) && !g->way && fz_chance(g, 40)) {
        EMIT(g, "t0 way");
        g->way = true;
    }
    if (fz_chance(g, 80))
        step_fork(g, PARENT, parent_of);
    for (int i = 0; i < steps && g->out->n < 120; i++)
        one_step(g, parent_of);
    for (int k = 0; k < FZ_KIDS; k++)
        if (g->kid[k])
            end_kid(g, k, parent_of);
    return true;
}

/* Receives of every kind, and what they are asked for wrongly. */
#include "gen.h"

#include <string.h>

/* Lengths around what is there, which is where mistakes live; within the runner's memory. */
static long pick_len(struct fz_gen *g, long unread)
{
    if (unread > FZ_ROOM)
        unread = FZ_ROOM;
    switch (fz_rand(g, 10)) {
    case 0 ... 2:
        return 1 + (long)fz_rand(g, 8);
    case 3:
        return 1 + (long)fz_rand(g, 100);
    case 4:
        return unread > 1 ? unread - 1 : 1;
    case 5:
        return unread ? unread : 16;
    case 6:
        return unread + 1;
    case 7:
        return HAS(g, zero) && fz_chance(g, 40) ? 0 : 4096;
    case 8:
        return 1 + (long)fz_rand(g, (uint64_t)unread + 1);
    default:
        return 1 + (long)fz_rand(g, 120000);
    }
}

static const char *pick_kind(struct fz_gen *g)
{
    static const char *const iov[] = {"readv", "recvfrom", "recvmsg", "preadv2"};

    if (HAS(g, mmsg) && fz_chance(g, 8))
        return "recvmmsg";
    if (HAS(g, iov) && fz_chance(g, 40))
        return iov[fz_rand(g, 4)];
    return fz_chance(g, 50) ? "recv" : "read";
}

static bool takes_iov(const char *kind)
{
    return !strcmp(kind, "readv") || !strcmp(kind, "recvmsg") || !strcmp(kind, "preadv2") ||
           !strcmp(kind, "recvmmsg");
}

/* Returns the last piece's length. */
static long add_lens(struct fz_gen *g, const char *kind, bool one, struct fz_rx *rx)
{
    int max = !strcmp(kind, "recvmmsg") ? 3 : 8;
    int n = takes_iov(kind) && !one ? 1 + (int)fz_rand(g, (uint64_t)max) : 1;
    long left = rx->total, len = 0, sum = 0;

    fz_cat(rx->text, sizeof(rx->text), " len=");
    for (int i = 0; i < n; i++) {
        len = i == n - 1 ? left : (long)fz_rand(g, (uint64_t)left + 1);
        if (!strcmp(kind, "recvmmsg") && !len)
            len = 1;
        fz_cat(rx->text, sizeof(rx->text), "%s%ld", i ? "," : "", len);
        left -= len < left ? len : left;
        sum += len;
    }
    rx->total = sum;
    return len;
}

/*
 * The last piece is bad, all of it or from some byte on. Only where one segment waits: with
 * several, how much was copied before the fault depends on how the kernel had merged them.
 */
static void add_bad(struct fz_gen *g, const struct fz_mconn *m, long last, struct fz_rx *rx)
{
    static const char *const bad[] = {"null", "hole", "readonly", "kernel"};
    long reaches = m->unread - (rx->total - last), part = 0;
    int which = (int)fz_rand(g, 4);

    if (fz_chance(g, 40) && last > 1 && last < 60000) {
        part = 1 + (long)fz_rand(g, (uint64_t)(last < 4096 ? last : 4096));
        if (fz_chance(g, 30) && reaches > 0 && reaches < 4096)
            part = reaches;
        fz_cat(rx->text, sizeof(rx->text), " ptr=part:%ld", part);
        if (reaches > part && last > part)
            rx->takes = 0;
        return;
    }
    fz_cat(rx->text, sizeof(rx->text), " ptr=%s", bad[which]);
    if (reaches > 0 || which == 3)
        rx->takes = 0;
}

static bool sleeps(const struct fz_mconn *m, bool rw, bool dontwait, const struct fz_rx *rx)
{
    long target = rx->waitall ? rx->total : m->lowat < rx->total ? m->lowat : rx->total;

    if (rw && !rx->total)
        return false;
    if (!target)
        target = 1;
    return !(dontwait || m->nonblock || fz_over(m)) && m->unread < target;
}

void fz_compose_recv(struct fz_gen *g, int c, int f, bool calm, struct fz_rx *rx)
{
    struct fz_mconn *m = &g->conn[c];
    const char *kind = pick_kind(g);
    bool rw = !strncmp(kind, "read", 4) || !strcmp(kind, "preadv2");
    bool dontwait = false, peek = false, trunc = false, plain_chunk, one;
    char flags[64] = "";
    long last;

    memset(rx, 0, sizeof(*rx));
    rx->total = pick_len(g, m->unread);
    if (!strcmp(kind, "recvmmsg") && rx->total < 3)
        rx->total = 3;
    if (!rw) {
        peek = HAS(g, peek) && fz_chance(g, 15);
        dontwait = HAS(g, dontwait) && !calm && fz_chance(g, 25);
        rx->waitall = HAS(g, waitall) && !peek && fz_chance(g, 15);
        rx->peek = peek;
        trunc = HAS(g, trunc) && strcmp(kind, "recvmmsg") && fz_chance(g, 8);
        if (m->odd && !calm)
            dontwait = true;
        if (!strcmp(kind, "recvmmsg") && !dontwait)
            fz_cat(flags, sizeof(flags), "|WAITFORONE");
        fz_cat(flags, sizeof(flags), "%s%s%s%s", peek ? "|PEEK" : "", dontwait ? "|DONTWAIT" : "",
               rx->waitall ? "|WAITALL" : "", trunc ? "|TRUNC" : "");
    }
    one = !strcmp(kind, "recvmmsg") && (peek || rx->waitall);
    snprintf(rx->text, sizeof(rx->text), "recv f%d kind=%s", f, kind);
    last = add_lens(g, kind, one, rx);
    if (flags[0])
        fz_cat(rx->text, sizeof(rx->text), " flags=%s", flags + 1);
    if (!strcmp(kind, "recvfrom") && fz_chance(g, 50))
        fz_cat(rx->text, sizeof(rx->text), " addr=%d", fz_chance(g, 50) ? 128 : 4);
    if (!strcmp(kind, "recvmsg") && fz_chance(g, 50))
        fz_cat(rx->text, sizeof(rx->text), " addr=64 ctl=64");
    if (!strcmp(kind, "preadv2") && !calm && (m->odd || fz_chance(g, 30))) {
        fz_cat(rx->text, sizeof(rx->text), " nowait=1");
        dontwait = true;
    }
    rx->takes = peek ? 0 : rx->total < m->unread ? rx->total : m->unread;
    plain_chunk = m->chunks == 1 && m->biggest <= 16000 && m->unread > 0 && !m->odd;
    if (HAS(g, badptr) && !calm && plain_chunk && !rx->waitall && !trunc && !peek &&
        strcmp(kind, "recvmmsg") && last > 0 && fz_chance(g, 15))
        add_bad(g, m, last, rx);
    else if (fz_chance(g, 10))
        fz_cat(rx->text, sizeof(rx->text), " ptr=edge");
    rx->sleeps = sleeps(m, rw, dontwait, rx);
}

bool fz_act_recv(struct fz_gen *g)
{
    int c = fz_any_conn(g), f, t;
    struct fz_mconn *m;
    struct fz_rx rx;

    if (c < 0)
        return false;
    m = &g->conn[c];
    f = fz_fd_for(g, c);
    fz_compose_recv(g, c, f, false, &rx);
    if (m->odd && !m->nonblock && !fz_over(m) && !strstr(rx.text, "DONTWAIT") &&
        !strstr(rx.text, "nowait"))
        return false;
    if (rx.sleeps && (!m->timeo || g->timed >= 2))
        return false;
    t = fz_thread_for(g, c);
    if (rx.sleeps) {
        EMIT(g, "t%d~ %s limit=%d", t, rx.text, m->timeo);
        g->timed++;
    } else
        EMIT(g, "t%d %s", t, rx.text);
    fz_consumed(m, rx.takes);
    return true;
}

/* What no program should ask for: the kernel's answer is the right one, and no byte is lost. */
bool fz_act_errors(struct fz_gen *g)
{
    int c = fz_any_conn(g), f;

    switch (fz_rand(g, 5)) {
    case 0:
        EMIT(g, "t0 recv f%d kind=%s len=10", FZ_FDS - 1, fz_chance(g, 50) ? "recv" : "read");
        return true;
    case 1:
        if (!g->nlisten)
            return false;
        EMIT(g, "t0 recv l0 kind=recv len=10");
        return true;
    case 2:
        for (int i = 0; i < g->nfd; i++) {
            if (g->fd[i].open)
                continue;
            EMIT(g, "t0 recv f%d kind=recv len=10 flags=DONTWAIT|PEEK", i);
            return true;
        }
        return false;
    default:
        if (c < 0 || !g->conn[c].unread || g->conn[c].odd || g->conn[c].unread < g->conn[c].lowat ||
            g->conn[c].unread > FZ_ROOM)
            return false;
        f = fz_fd_for(g, c);
        EMIT(g, "t%d recv f%d kind=%s len=%s", fz_thread_for(g, c), f,
             fz_chance(g, 50) ? "recv" : "read", fz_chance(g, 50) ? "4294967297" : "2147483648");
        /* the arena holds 256 KiB, more than may lie unread */
        fz_consumed(&g->conn[c], g->conn[c].unread);
        return true;
    }
}

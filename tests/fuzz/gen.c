#include "gen.h"

#include <string.h>

static const char *const names[FZ_CAT_COUNT] = {
#define X(name) #name,
    FZ_CATEGORIES(X)
#undef X
};

uint64_t fz_categories(const char *list)
{
    uint64_t mask = 0;

    while (*list) {
        size_t len = strcspn(list, ",");
        int i = 0;

        while (i < FZ_CAT_COUNT && (strlen(names[i]) != len || strncmp(names[i], list, len)))
            i++;
        if (i == FZ_CAT_COUNT) {
            fprintf(stderr, "no such category: %.*s\n", (int)len, list);
            return 0;
        }
        mask |= 1ull << i;
        list += len + (list[len] == ',');
    }
    return mask;
}

void fz_categories_print(FILE *out)
{
    for (int i = 0; i < FZ_CAT_COUNT; i++)
        fprintf(out, "%s%s", i ? "," : "", names[i]);
    fprintf(out, "\n");
}

uint64_t fz_rand(struct fz_gen *g, uint64_t below)
{
    uint64_t x = g->state += 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (x ^ x >> 31) % below;
}

bool fz_chance(struct fz_gen *g, int percent)
{
    return fz_rand(g, 100) < (uint64_t)percent;
}

int fz_fds_open(const struct fz_gen *g, int c)
{
    int n = 0;

    for (int i = 0; i < g->nfd; i++)
        n += g->fd[i].open && g->fd[i].conn == c;
    return n;
}

int fz_holders(const struct fz_gen *g, int c)
{
    int n = fz_fds_open(g, c);

    for (int i = 0; i < g->nfd; i++)
        n += g->fd[i].conn == c && g->fd[i].kid;
    return n;
}

int fz_fd_for(struct fz_gen *g, int c)
{
    int n = fz_fds_open(g, c), pick = n ? (int)fz_rand(g, (uint64_t)n) : -1;

    for (int i = 0; i < g->nfd; i++)
        if (g->fd[i].open && g->fd[i].conn == c && pick-- == 0)
            return i;
    return -1;
}

int fz_any_conn(struct fz_gen *g)
{
    int start = g->nconn ? (int)fz_rand(g, (uint64_t)g->nconn) : 0;

    for (int i = 0; i < g->nconn; i++) {
        int c = (start + i) % g->nconn;

        if (g->conn[c].up && fz_fds_open(g, c))
            return c;
    }
    return -1;
}

static int make_thread(struct fz_gen *g, int t)
{
    if (!g->thread[t])
        EMIT(g, "t0 spawn t%d", t);
    g->thread[t] = true;
    return t;
}

int fz_other_thread(struct fz_gen *g, int t)
{
    int other = t ? 0 : 1 + (int)fz_rand(g, 2);

    return make_thread(g, other);
}

/* style 0: one thread; 1: a home for each connection, seldom left; 2: whoever comes */
int fz_thread_for(struct fz_gen *g, int c)
{
    if (!HAS(g, threads) || g->style == 0)
        return 0;
    if (g->style == 1 && !fz_chance(g, 4))
        return make_thread(g, g->conn[c].home);
    return make_thread(g, (int)fz_rand(g, (uint64_t)g->threads));
}

bool fz_over(const struct fz_mconn *c)
{
    return c->fin || c->rst || c->shutrd;
}

long fz_send_size(struct fz_gen *g)
{
    switch (fz_rand(g, 10)) {
    case 0:
        return 1;
    case 1 ... 4:
        return 1 + (long)fz_rand(g, 64);
    case 5 ... 6:
        return 1 + (long)fz_rand(g, 2000);
    case 7 ... 8:
        return 1 + (long)fz_rand(g, 16000);
    default:
        return HAS(g, big) ? 1 + (long)fz_rand(g, 100000) : 4096;
    }
}

bool fz_peer_sends(struct fz_gen *g, int c, long len)
{
    struct fz_mconn *m = &g->conn[c];

    long room = HAS(g, stall) ? FZ_ROOM_STALL : FZ_ROOM;

    if (!m->peer || m->fin || m->rst || m->shutwr || !fz_holders(g, c) || m->unread + len > room)
        return false;
    EMIT(g, "p send c%d len=%ld", c, len);
    m->unread += len;
    m->biggest = len;
    m->chunks++;
    return true;
}

void fz_consumed(struct fz_mconn *c, long n)
{
    c->unread -= n < c->unread ? n : c->unread;
    if (!c->unread)
        c->chunks = 0;
}

/* Some connections are brought to an end and looked at; the others meet the exit as they are. */
static void epilogue(struct fz_gen *g)
{
    for (int c = 0; c < g->nconn; c++) {
        struct fz_mconn *m = &g->conn[c];
        int f = fz_fd_for(g, c), t;

        if (!m->up || f < 0 || fz_chance(g, 40))
            continue;
        t = fz_thread_for(g, c);
        if (fz_chance(g, 50))
            fz_peer_sends(g, c, fz_send_size(g));
        if (m->peer && !m->fin && !m->rst) {
            EMIT(g, "p %s c%d", fz_chance(g, 70) ? "shut" : "rst", c);
            m->fin = true;
        }
        for (int i = 0; i < 3 && !m->nonblock; i++)
            EMIT(g, "t%d recv f%d kind=read len=%d", t, f, i ? 7 : 130000);
        for (int i = 0; i < g->nfd && fz_chance(g, 80); i++) {
            if (!g->fd[i].open || g->fd[i].conn != c)
                continue;
            EMIT(g, "t%d close f%d", t, i);
            g->fd[i].open = false;
        }
        if (m->peer && !fz_fds_open(g, c))
            EMIT(g, "p end c%d", c);
    }
}

void fz_generate(uint64_t seed, const struct fz_choice *choice, struct fz_script *out)
{
    struct fz_gen gen, *g = &gen;
    int total = 0, steps;

    memset(g, 0, sizeof(*g));
    g->state = seed * 0x632be59bd9b4e019u + 1;
    g->out = out;
    out->n = 0;
    for (int i = 0; i < FZ_CAT_COUNT; i++)
        if (choice->only ? choice->only >> i & 1 : i < FZ_CAT_NOT_DRAWN && fz_chance(g, 55))
            g->cats |= 1ull << i;
    /* Not drawn: without it a seed gives the script that it gave before there was this category. */
    if (!choice->only && seed % 2)
        g->cats |= 1ull << FZ_CAT_stall;
    g->cats = (g->cats | choice->with) & ~choice->without;
    g->thread[0] = true;
    g->threads = 2 + (int)fz_rand(g, 2);
    g->style = (int)fz_rand(g, 3);
    for (int i = 0; fz_acts[i].run; i++)
        if (fz_acts[i].cat < 0 || g->cats >> fz_acts[i].cat & 1)
            total += fz_acts[i].weight;
    steps = 4 + (int)fz_rand(g, 36);
    for (int i = 0, n = 1 + (int)fz_rand(g, 3); i < n; i++)
        fz_act_connect(g);
    for (int done = 0, tries = 0; done < steps && tries < 400 && out->n < 90; tries++) {
        int pick = (int)fz_rand(g, (uint64_t)total);

        for (int i = 0; fz_acts[i].run; i++) {
            if (fz_acts[i].cat >= 0 && !(g->cats >> fz_acts[i].cat & 1))
                continue;
            pick -= fz_acts[i].weight;
            if (pick < 0) {
                done += fz_acts[i].run(g);
                break;
            }
        }
    }
    epilogue(g);
}

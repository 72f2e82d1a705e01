/* Groups of buffers that one socket has for itself: made, taken away, given back. */
#include "ring.h"

#include <errno.h>
#include <utlist.h>

#include "conf.h"
#include "mem.h"

#define TOTAL 16U /* buffers: no more than a shared group lends, with the default sizes */
#define SWEEP 8U  /* so many groups, and as many again as are in use, before a look at all */

static int make(struct pbs_ring *r, struct pbs_pbuf *g)
{
    unsigned total = r->pool.total < TOTAL ? r->pool.total : TOTAL;
    struct io_uring_buf_reg reg = {.ring_entries = total};
    int bgid = pbs_bgids_get(&r->bgids), err;

    if (bgid < 0)
        return bgid;
    err = pbs_pbuf_init(g, total, r->pool.size, r->pool.inc, bgid);
    if (err)
        goto out_id;
    err = -EDQUOT;
    if (!pbs_ring_charge(pbs_pbuf_pinned(total)))
        goto out_pbuf;
    reg.bgid = (uint16_t)bgid;
    reg.ring_addr = (uintptr_t)g->br;
    err = io_uring_register_buf_ring(&r->uring, &reg, g->inc ? IOU_PBUF_RING_INC : 0);
    if (!err)
        return 0;
    pbs_ring_uncharge(pbs_pbuf_pinned(total));
out_pbuf:
    pbs_pbuf_destroy(g);
out_id:
    pbs_bgids_put(&r->bgids, (uint32_t)bgid);
    return err;
}

struct pbs_pbuf *pbs_group_get(struct pbs_ring *r, struct pbs_sock *s)
{
    struct pbs_pbuf *g = pbs_mem_used_up() ? NULL : pbs_mem_get(sizeof(*g));

    if (!g || make(r, g) != 0) {
        if (g)
            pbs_mem_put(g, sizeof(*g));
        pbs_count(r->owner, group_refusals);
        return NULL;
    }
    g->sock = s;
    g->life = s->life;
    s->group = g;
    r->ngroups++;
    r->group_news = true;
    pbs_lock(&r->lock);
    DL_APPEND(r->groups, g);
    pbs_unlock(&r->lock);
    pbs_count(r->owner, own_groups);
    return g;
}

static void drop(struct pbs_ring *r, struct pbs_pbuf *g)
{
    pbs_bgids_put(&r->bgids, (uint32_t)g->bgid);
    pbs_lock(&r->lock);
    DL_DELETE(r->groups, g);
    pbs_unlock(&r->lock);
    if (g->thirsty)
        LL_DELETE2(r->thirsty, g, next_thirsty);
    r->ngroups--;
    pbs_ring_uncharge(pbs_pbuf_pinned(g->total));
    pbs_pbuf_destroy(g);
    pbs_mem_put(g, sizeof(*g));
}

static void give_back(struct pbs_ring *r, struct pbs_pbuf *g)
{
    io_uring_unregister_buf_ring(&r->uring, g->bgid);
    drop(r, g);
}

/* Its socket is another one by now, or adopted no more. s locked. */
static bool left(const struct pbs_pbuf *g, struct pbs_sock *s)
{
    return s->life != g->life || s->group != g || s->state != PBS_ADOPTED || !s->file.nfds;
}

/* Ends the request that has used it, which is armed still, so that the next one is for the shared group. */
static void take_away(struct pbs_ring *r, struct pbs_pbuf *g, struct pbs_sock *s)
{
    if (!pbs_ring_cancel_sqe(r, s->rid))
        return;
    g->leaving = true;
    s->tally.crowded = 0;
    pbs_count(r->owner, cancels);
    r->owner->stats.cancel[PBS_WHY_idle]++;
}

/* One of them. True: nobody can have anything of it. */
static bool look(struct pbs_ring *r, struct pbs_pbuf *g, bool idle)
{
    struct pbs_sock *s = g->sock;
    bool mine, armed;

    if (!s)
        return !g->out;
    pbs_lock(&s->file.lock);
    mine = s->life == g->life && s->group == g;
    armed = mine && s->armed;
    if (!armed && (g->leaving || left(g, s))) {
        if (mine)
            s->group = NULL;
        g->sock = NULL;
    } else if (idle && armed && !g->leaving && !g->busy && pbs_conf.groups == PBS_GROUPS_AUTO) {
        take_away(r, g, s);
    }
    pbs_unlock(&s->file.lock);
    if (idle && (g->busy || g->leaving)) /* there will be more to see at the next tick */
        r->group_news = true;
    if (idle)
        g->busy = false;
    return !g->sock && !g->out;
}

void pbs_group_sweep(struct pbs_ring *r, bool idle)
{
    struct pbs_pbuf *g, *tmp;

    DL_FOREACH_SAFE(r->groups, g, tmp) {
        if (look(r, g, idle))
            give_back(r, g);
    }
    r->sweep_at = SWEEP + 2 * r->ngroups;
}

void pbs_group_end(struct pbs_ring *r)
{
    struct pbs_pbuf *g, *tmp;

    DL_FOREACH_SAFE(r->groups, g, tmp) {
        struct pbs_sock *s = g->sock;

        if (s) {
            pbs_lock(&s->file.lock);
            if (s->life == g->life && s->group == g)
                s->group = NULL;
            pbs_unlock(&s->file.lock);
        }
        drop(r, g);
    }
}

#include "stats.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base.h"
#include "conf.h"

#define ERRNOS 140

static struct pbs_lock lock;
static struct pbs_stats sum; /* guarded by lock */
static atomic_uint ring_error[ERRNOS];
static atomic_bool written;

static void add(struct pbs_stats *to, const struct pbs_stats *s)
{
    for (unsigned i = 0; i < PBS_COUNTERS; i++)
        to->n[i] += s->n[i];
    for (unsigned i = 0; i < PBS_REASONS; i++) {
        to->pass[i] += s->pass[i];
        to->cancel[i] += s->cancel[i];
    }
}

void pbs_stats_merge(const struct pbs_stats *s)
{
    pbs_lock(&lock);
    add(&sum, s);
    pbs_unlock(&lock);
}

void pbs_stats_ring_error(int err)
{
    if (err > 0 && err < ERRNOS)
        atomic_fetch_add_explicit(&ring_error[err], 1, memory_order_relaxed);
}

void pbs_stats_reset(void)
{
    pbs_unlock(&lock);
    memset(&sum, 0, sizeof(sum));
    for (unsigned i = 0; i < ERRNOS; i++)
        atomic_store_explicit(&ring_error[i], 0, memory_order_relaxed);
    atomic_store(&written, false);
}

struct out {
    char text[8192];
    size_t at;
};

static void line(struct out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(struct out *o, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(o->text + o->at, sizeof(o->text) - o->at, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < sizeof(o->text) - o->at)
        o->at += (size_t)n;
}

/* The pools of all rings, in their own words. */
static void write_pool(struct out *o, const struct pbs_stats *all,
                       const struct pbs_pool_stats *pool)
{
    unsigned long long home = all->n[PBS_STAT_recycled];
    /* In tenths: a locale's comma is not wanted, nor what printf needs for a floating-point number. */
    unsigned long long ratio = home ? (10 * all->n[PBS_STAT_completions] + home / 2) / home : 0;

    line(o, "pool_total %llu\n", (unsigned long long)pool->total);
    line(o, "pool_available %llu\n", (unsigned long long)pool->available);
    line(o, "pool_held %llu\n", (unsigned long long)pool->held);
    line(o, "pool_buf_size %u\n", pool->buf_size);
    line(o, "pool_exhaustions %llu\n",
         (unsigned long long)(all->n[PBS_STAT_enobufs] + all->pass[PBS_WHY_pool]));
    line(o, "pool_reuse_ratio %llu.%llu\n", ratio / 10, ratio % 10);
}

void pbs_stats_write(const struct pbs_stats *live, const struct pbs_pool_stats *pool)
{
#define NAME(name) #name,
    static const char *const counter_name[] = {PBS_COUNTER_LIST(NAME)};
    static const char *const reason_name[] = {PBS_REASON_LIST(NAME)};
    /* Used once; a process may end on a stack of a page or so, a handler's or a clone's. */
    static struct out o;
    struct pbs_stats all = {0};

    if (!pbs_conf.stats[0] || atomic_exchange(&written, true))
        return;
    o.at = 0;
    pbs_stats_merge(live);
    pbs_lock(&lock);
    add(&all, &sum);
    pbs_unlock(&lock);
    line(&o, "version %s\n", PBS_VERSION);
    for (unsigned i = 0; i < PBS_COUNTERS; i++)
        if (i != PBS_STAT_would_save || pbs_conf.policy == PBS_POLICY_NEVER)
            line(&o, "%s %llu\n", counter_name[i], (unsigned long long)all.n[i]);
    write_pool(&o, &all, pool);
    for (unsigned i = 0; i < PBS_REASONS; i++) {
        if (all.pass[i])
            line(&o, "pass_%s %llu\n", reason_name[i], (unsigned long long)all.pass[i]);
        if (all.cancel[i])
            line(&o, "cancel_%s %llu\n", reason_name[i], (unsigned long long)all.cancel[i]);
    }
    for (unsigned i = 0; i < ERRNOS; i++) {
        unsigned n = atomic_load_explicit(&ring_error[i], memory_order_relaxed);

        if (n)
            line(&o, "ring_errno_%u %u\n", i, n);
    }
    pbs_conf_write(pbs_conf.stats, o.text, o.at);
}

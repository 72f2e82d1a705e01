#include "proc.h"

#include <sys/mman.h>

#include "conf.h"
#include "ghost.h"
#include "life.h"
#include "mem.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* Holds 1 in the process that made it and, wiped by the kernel, 0 in a copy of that process. */
static atomic_uint *alive;

static void mark(void)
{
    atomic_store_explicit(alive, 1, memory_order_relaxed);
}

void pbs_proc_init(void)
{
    alive = pbs_mem_map(4096);
    if (!alive || pbs_sys3(SYS_madvise, alive, 4096, MADV_WIPEONFORK) != 0) {
        pbs_fdtab_size = 0; /* before Linux 4.14: an unannounced child would go unnoticed */
        return;
    }
    mark();
    pbs_fdtab_watch = alive;
    pbs_fdtab_on_stranger = pbs_proc_after_fork_child;
}

void pbs_proc_before_fork(void)
{
    if (!pbs_in_vfork_child)
        pbs_freeze(PBS_WHY_fork);
}

void pbs_proc_after_fork_parent(void)
{
    if (!pbs_in_vfork_child)
        pbs_thaw();
}

void pbs_proc_after_fork_child(void)
{
    if (!alive || pbs_in_vfork_child)
        return;
    mark();
    /* Locks that other threads of the parent may have held, and everything that was theirs. */
    pbs_fdtab_reset();
    pbs_mem_reset();
    pbs_sock_reset();
    pbs_item_reset();
    pbs_ghost_reset();
    pbs_ring_reset();
    pbs_thread_reset();
    pbs_stats_reset();
    if (pbs_self) {
        pbs_self->ring = NULL;
        pbs_self->ring_error = 0;
        pbs_self->broken = NULL;
        pbs_self->waiting = NULL;
    }
}

void pbs_proc_before_exec(void)
{
    if (!pbs_in_vfork_child)
        pbs_freeze(PBS_WHY_exec);
}

void pbs_proc_after_exec(void)
{
    if (!pbs_in_vfork_child)
        pbs_thaw();
}

void pbs_proc_end(void)
{
    struct pbs_stats live = {0};

    if (pbs_in_vfork_child || !alive)
        return;
    if (!atomic_load(alive)) /* a raw clone: nothing here is its own */
        return;
    pbs_close_process();
    if (!pbs_conf.stats[0])
        return;
    pbs_thread_sum(&live);
    pbs_stats_write(&live);
}

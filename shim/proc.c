#include "proc.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "conf.h"
#include "fork.h"
#include "ghost.h"
#include "ledger.h"
#include "life.h"
#include "mem.h"
#include "spill.h"
#include "user.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/*
 * Two words, wiped by the kernel in a copy of the process that made them. The first is 1 while each number
 * that the table knows is what it says, the second once a thread has a table of its own.
 */
static atomic_uint *alive;
#define parted (alive + 1)

static void mark(void)
{
    atomic_store_explicit(alive, 1, memory_order_relaxed);
}

/* A copy of this process: nothing here is its own. */
static void become_child(void)
{
    mark();
    pbs_host = 0;
    /* Locks that other threads of the parent may have held, and everything that was theirs. */
    pbs_fdtab_reset();
    pbs_ring_reset();
    pbs_mem_reset(); /* counts from nothing, and so behind the rings */
    pbs_sock_reset();
    pbs_item_reset();
    pbs_ledger_reset();
    pbs_spill_reset();
    pbs_legacy_reset();
    pbs_ghost_reset();
    pbs_thread_reset();
    pbs_stats_reset();
    if (pbs_self) {
        pbs_self->ring = NULL;
        pbs_self->ring_error = 0;
        pbs_self->broken = NULL;
        pbs_self->waiting = NULL;
    }
}

/* What the child of a fork that this thread is in comes into. */
static __thread struct pbs_legacy *coming __attribute__((tls_model("initial-exec")));

/* NULL: nothing is known of what it holds. */
static void arrive(struct pbs_legacy *legacy)
{
    struct pbs_thread *self;

    become_child();
    self = legacy ? pbs_thread_get() : NULL;
    if (self)
        pbs_legacy_enter(self, legacy);
    pbs_spill_sweep();
}

/* In a thread with a table of its own: the record only if bytes of that very socket were held. */
static struct pbs_file *known_apart(int fd, struct pbs_file *f)
{
    struct pbs_sock *s = (struct pbs_sock *)f;

    return f->kind == PBS_FILE_SOCK && s->spill && pbs_ask_cookie(fd) == s->spill->cookie ? f
                                                                                          : NULL;
}

/*
 * Or this is a copy that has not come back through the fork: it is still in it, in a handler of
 * pthread_atfork() or of a signal, or nobody announced it (a raw clone).
 */
static struct pbs_file *stranger(int fd, struct pbs_file *f)
{
    struct pbs_legacy *legacy = coming;

    if (atomic_load(parted))
        return pbs_in_vfork_child == PBS_APART ? known_apart(fd, f) : f;
    coming = NULL;
    arrive(legacy);
    return pbs_fdtab_load(fd);
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
    pbs_fdtab_on_stranger = stranger;
}

struct pbs_legacy *pbs_proc_before_fork(void)
{
    struct pbs_thread *self;

    if (pbs_guest() || !alive)
        return NULL;
    pbs_freeze(PBS_WHY_fork);
    self = pbs_thread_get();
    coming = self ? pbs_legacy_make(self) : NULL;
    return coming;
}

void pbs_proc_after_fork_parent(struct pbs_legacy *legacy, bool made)
{
    if (pbs_guest() || !alive)
        return;
    coming = NULL;
    if (!made)
        pbs_legacy_revoke(legacy);
    if (legacy)
        pbs_legacy_free(pbs_self, legacy);
    pbs_thaw();
}

void pbs_proc_after_fork_child(struct pbs_legacy *legacy)
{
    if (!alive || pbs_guest())
        return;
    if (!atomic_load(alive))
        arrive(legacy);
    else if (coming) /* a thread that a handler has made was here first, and knew nothing of it */
        legacy = NULL;
    coming = NULL;
    if (legacy && pbs_self)
        pbs_legacy_free(pbs_self, legacy);
}

void pbs_proc_bury(struct pbs_legacy *legacy)
{
    pbs_legacy_bury(legacy);
}

void pbs_proc_before_spawn(void)
{
    struct pbs_thread *self;

    if (pbs_guest() || !alive)
        return;
    pbs_freeze(PBS_WHY_fork);
    self = pbs_thread_get();
    if (self)
        pbs_legacy_lend(self, true);
}

/* What is held may be read by anybody, and nothing more is. */
static void hold_no_more(void)
{
    pbs_gate_forbid();
    pbs_proc_before_spawn();
    pbs_thaw();
}

void pbs_proc_host(void)
{
    if (!alive || pbs_guest())
        return;
    atomic_store(&pbs_host, (int)pbs_sys0(SYS_getpid));
    hold_no_more();
}

bool pbs_proc_before_parting(void)
{
    struct stat st;

    if (!alive || pbs_guest())
        return false;
    /* A directory for each thread, and two links of its own. */
    if (pbs_sys4(SYS_newfstatat, AT_FDCWD, "/proc/self/task", &st, 0) ? __libc_single_threaded
                                                                      : st.st_nlink <= 3)
        return false;
    hold_no_more();
    return true;
}

void pbs_proc_after_parting(void)
{
    pbs_in_vfork_child = PBS_APART;
    atomic_store(parted, 1);
    atomic_store(alive, 0);
}

void pbs_proc_after_spawn(void)
{
    if (!pbs_guest() && alive)
        pbs_thaw();
}

void pbs_proc_before_exec(void)
{
    struct pbs_thread *self;

    if (pbs_guest() || !alive)
        return;
    pbs_freeze(PBS_WHY_exec);
    self = pbs_thread_get();
    if (self)
        pbs_legacy_lend(self, false);
    if (self)
        pbs_ring_seal_others(self, true);
}

void pbs_proc_after_exec(void)
{
    if (pbs_guest() || !alive)
        return;
    if (pbs_self)
        pbs_ring_seal_others(pbs_self, false);
    pbs_thaw();
}

/* What is known here is this process's: it is no raw clone. */
static bool ours(void)
{
    return alive && (atomic_load(alive) || atomic_load(parted));
}

void pbs_proc_tell(void)
{
    struct pbs_stats live = {0};
    struct pbs_pool_stats pool = {0};

    if (!pbs_conf.stats[0] || pbs_user_confined || pbs_guest() || !ours())
        return;
    pbs_thread_sum(&live);
    pbs_ring_pool_sum(&pool);
    pbs_stats_write(&live, &pool);
}

void pbs_proc_end(void)
{
    if (pbs_guest() || !ours())
        return;
    pbs_close_process();
    pbs_proc_tell();
}

#include "ledger.h"

#include <sys/mman.h>

#define MOST (1U << 20) /* entries: 16 MiB of addresses, committed as they are touched */

struct entry {
    atomic_uint holders; /* 0: free */
    _Atomic(uint64_t) cookie;
};

static struct pbs_lock lock;
/* Shared. Its entry 0 is none: it counts where to look next, and has a word for all. */
static _Atomic(struct entry *) ledger;

static struct entry *get(void)
{
    struct entry *l = atomic_load_explicit(&ledger, memory_order_acquire);
    long p;

    if (l)
        return l;
    pbs_lock(&lock);
    l = ledger;
    if (!l) {
        p = pbs_sys6(SYS_mmap, 0, MOST * sizeof(*l), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        l = p < 0 && p > -4096 ? NULL : (struct entry *)p;
        atomic_store_explicit(&ledger, l, memory_order_release);
    }
    pbs_unlock(&lock);
    return l;
}

uint32_t pbs_ledger_open(uint64_t cookie)
{
    struct entry *l = get();

    if (!l)
        return 0;
    for (unsigned tries = 0; tries < MOST; tries++) {
        uint32_t at = atomic_fetch_add(&l[0].holders, 1) % (MOST - 1) + 1;
        unsigned none = 0;

        if (atomic_compare_exchange_strong(&l[at].holders, &none, 1)) {
            l[at].cookie = cookie;
            return at;
        }
    }
    return 0;
}

void pbs_ledger_join(uint32_t entry)
{
    atomic_fetch_add(&ledger[entry].holders, 1);
}

bool pbs_ledger_leave(uint32_t entry)
{
    return atomic_fetch_sub(&ledger[entry].holders, 1) == 1;
}

unsigned pbs_ledger_holders(uint32_t entry)
{
    return atomic_load(&ledger[entry].holders);
}

uint64_t pbs_ledger_cookie(uint32_t entry)
{
    return ledger[entry].cookie;
}

_Atomic(uint64_t) *pbs_ledger_word(void)
{
    struct entry *l = atomic_load_explicit(&ledger, memory_order_acquire);

    return l ? &l[0].cookie : NULL;
}

void pbs_ledger_reset(void)
{
    pbs_unlock(&lock);
}

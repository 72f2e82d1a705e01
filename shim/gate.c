#include "gate.h"

#include "ledger.h"

/* Counts forks begun and forks ended. */
static _Atomic(uint64_t) generation;
static atomic_uint forks_under_way;
static atomic_bool forbidden;

void pbs_gate_close(void)
{
    atomic_fetch_add(&forks_under_way, 1);
    atomic_fetch_add(&generation, 1);
}

void pbs_gate_open(void)
{
    atomic_fetch_add(&generation, 1);
    atomic_fetch_sub(&forks_under_way, 1);
}

void pbs_gate_forbid(void)
{
    atomic_store(&forbidden, true);
}

uint64_t pbs_gate_generation(void)
{
    return atomic_load(&generation);
}

void pbs_gate_born(struct pbs_file *f, uint64_t gen)
{
    if (atomic_load(&generation) != gen || atomic_load(&forks_under_way))
        f->shared = true;
}

bool pbs_gate_alone(struct pbs_file *f)
{
    uint32_t entry = f->entry;

    return !f->shared && (!entry || pbs_ledger_holders(entry) == 1);
}

bool pbs_gate_admits(struct pbs_file *f)
{
    return !atomic_load(&forks_under_way) && !atomic_load(&forbidden) && pbs_gate_alone(f);
}

void pbs_gate_share(struct pbs_file *f)
{
    if (!f->shared && f->entry)
        pbs_ledger_join(f->entry); /* and never leaves */
    f->shared = true;
}

bool pbs_gate_leave(struct pbs_file *f)
{
    bool last = !f->entry || pbs_ledger_leave(f->entry);

    last = last && !f->shared;
    f->entry = 0;
    f->shared = true;
    return last;
}

void pbs_gate_reset(void)
{
    atomic_store(&forks_under_way, 0);
}

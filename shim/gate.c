#include "gate.h"

/* Counts forks begun and forks ended. */
static _Atomic(uint64_t) generation;
static atomic_uint forks_under_way;

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

uint64_t pbs_gate_generation(void)
{
    return atomic_load(&generation);
}

bool pbs_gate_admits(const struct pbs_sock *s)
{
    return !atomic_load(&forks_under_way) && s->born == atomic_load(&generation);
}

void pbs_gate_reset(void)
{
    atomic_store(&forks_under_way, 0);
}

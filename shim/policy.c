#include "policy.h"

#include <errno.h>

#define SMALL 4096 /* bytes: above it one copy more costs what the entry saves */
#define WANTED 4   /* small full receives in a row before the first adoption */
#define MAX_BACKOFF 16
#define WINDOW 64 /* wake-ups after which the adoption is judged */
#define WORTH 2   /* receives a wake-up: below it the ring costs more than it saves */
#define CROWDS 4  /* times that it used up what it shares, before it gets buffers of its own */
#define RING 128  /* receives saved, about what making a ring and taking it down costs (35 us) */

bool pbs_policy_plain(struct pbs_tally *t, size_t asked, long got)
{
    bool saved = (t->last_full && got > 0) || got == -EAGAIN;

    t->last_full = got > 0 && (size_t)got == asked;
    if (t->last_full && asked <= SMALL)
        t->small_full++;
    else if (got > 0)
        t->small_full = 0;
    return saved;
}

bool pbs_policy_adopt(const struct pbs_tally *t, enum pbs_policy_name policy, bool blocking)
{
    switch (policy) {
    case PBS_POLICY_ALWAYS:
        return true;
    case PBS_POLICY_AUTO:
        return blocking && t->small_full >> t->backoff >= WANTED;
    default:
        return false;
    }
}

bool pbs_policy_ring(uint64_t saves, enum pbs_policy_name policy)
{
    return policy == PBS_POLICY_ALWAYS || saves >= RING;
}

void pbs_policy_crowded(struct pbs_tally *t, uint64_t lent)
{
    if (t->burst >= lent / 2 && t->crowded < CROWDS) /* its own bytes, not those of the others */
        t->crowded++;
}

bool pbs_policy_group(const struct pbs_tally *t, enum pbs_groups_name groups, unsigned others)
{
    return groups == PBS_GROUPS_SOCKET ||
           (groups == PBS_GROUPS_AUTO && others && t->crowded >= CROWDS);
}

bool pbs_policy_wakeup(struct pbs_tally *t, enum pbs_policy_name policy)
{
    bool worth;

    if (policy != PBS_POLICY_AUTO || ++t->wakeups < WINDOW)
        return false;
    worth = t->served >= WORTH * t->wakeups + t->bytes / SMALL;
    t->wakeups = 0;
    t->served = 0;
    t->bytes = 0;
    if (worth)
        return false;
    if (t->backoff < MAX_BACKOFF)
        t->backoff++;
    t->small_full = 0;
    return true;
}

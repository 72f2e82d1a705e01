#include "bgid.h"

#include <errno.h>

#include "mem.h"

#define NEXT_SIZE (PBS_BGIDS * sizeof(uint16_t))
#define LIVE_SIZE (PBS_BGIDS / 8)

int pbs_bgids_init(struct pbs_bgids *b, uint32_t limit)
{
    if (!limit || limit > PBS_BGIDS)
        return -EINVAL;
    *b = (struct pbs_bgids){.limit = limit};
    b->next = pbs_mem_map(NEXT_SIZE + LIVE_SIZE);
    if (!b->next)
        return -ENOMEM;
    b->live = (uint64_t *)(b->next + PBS_BGIDS);
    return 0;
}

void pbs_bgids_destroy(struct pbs_bgids *b)
{
    if (b->next)
        pbs_mem_unmap(b->next, NEXT_SIZE + LIVE_SIZE);
    *b = (struct pbs_bgids){0};
}

int pbs_bgids_get(struct pbs_bgids *b)
{
    uint32_t id;

    if (b->nfree) {
        id = b->head;
        b->head = b->next[id];
        b->nfree--;
    } else if (b->fresh < b->limit) {
        id = b->fresh++;
    } else {
        return -ENOSPC;
    }
    b->live[id / 64] |= UINT64_C(1) << id % 64;
    return (int)id;
}

int pbs_bgids_put(struct pbs_bgids *b, uint32_t id)
{
    if (id >= b->limit || !(b->live[id / 64] & UINT64_C(1) << id % 64))
        return 0;
    b->live[id / 64] &= ~(UINT64_C(1) << id % 64);
    b->next[id] = (uint16_t)b->head;
    b->head = id;
    b->nfree++;
    return 1;
}

#include "pieces.h"

#include <errno.h>
#include <sys/mman.h>

#include "mem.h"

static size_t table_size(unsigned most)
{
    return (most * sizeof(struct pbs_piece) + 4095) & ~(size_t)4095;
}

int pbs_pieces_init(struct pbs_pieces *p, unsigned most)
{
    *p = (struct pbs_pieces){.most = most};
    p->table = pbs_mem_reserve(table_size(most));
    return p->table ? 0 : -ENOMEM;
}

void pbs_pieces_destroy(struct pbs_pieces *p)
{
    if (p->table)
        pbs_mem_release(p->table, table_size(p->most));
    p->table = NULL;
}

void pbs_pieces_trim(struct pbs_pieces *p)
{
    if (p->nfree != p->fresh)
        return;
    pbs_sys3(SYS_madvise, p->table, table_size(p->fresh), MADV_DONTNEED);
    p->fresh = p->nfree = 0;
    p->free = NULL;
}

void pbs_pieces_return(struct pbs_pieces *p, struct pbs_piece *piece)
{
    struct pbs_piece *head = atomic_load_explicit(&p->returned, memory_order_relaxed);

    do
        piece->next = head;
    while (!atomic_compare_exchange_weak_explicit(&p->returned, &head, piece, memory_order_release,
                                                  memory_order_relaxed));
}

#include "fork.h"

#include <fcntl.h>

#include "item.h"
#include "ledger.h"
#include "mem.h"
#include "rx.h"

/* A record. */
struct heir {
    enum pbs_file_kind kind;
    uint32_t entry;
    bool shared, refused, tcp, listening, impatient, pass;
    bool known;      /* in the child: some number stands for it */
    unsigned nitems; /* of an instance; those of all follow each other */
    struct pbs_spill *spill;
    int spill_file;
    struct pbs_file *file; /* the parent's, and in the end the child's */
};

struct number {
    int fd;
    uint32_t heir;
};

struct member {
    int epfd, fd;
    bool ours; /* fd stood for the record that is the member */
    bool spent;
    uint32_t events;
    uint64_t data;
};

struct pbs_legacy {
    size_t size;
    struct pbs_spill_pen pen;
    bool reads; /* is a reader of the heirs' spills: none may end meanwhile */
    unsigned nnumbers, nheirs, nmembers;
    unsigned most_numbers, most_members;
    struct number *numbers;
    struct heir *heirs;
    struct member *members;
};

static struct pbs_lock making; /* one at a time: `place` is one for all */

static void count(unsigned *numbers, unsigned *members)
{
    unsigned lo = 0;

    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);
        struct pbs_epoll *set = (struct pbs_epoll *)f;

        ++*numbers;
        if (!f || f->kind != PBS_FILE_EPOLL)
            continue;
        pbs_lock(&f->lock);
        if (f->kind == PBS_FILE_EPOLL)
            *members += HASH_COUNT(set->by_key);
        pbs_unlock(&f->lock);
    }
}

/* Room for what sockets hold, in shared memory. False: there is nothing, or no room for it. */
static bool begin_spill(struct pbs_spill_pen *pen, bool image)
{
    unsigned lo = 0, socks = 0;
    size_t bytes = 0;

    pen->file = -1;
    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);
        size_t n =
            f && f->kind == PBS_FILE_SOCK ? pbs_rx_spill_size((struct pbs_sock *)f, image) : 0;

        bytes += n;
        socks += n > 0;
    }
    if (!socks || !pbs_spill_begin(pen, socks, bytes))
        return false;
    pbs_count(pbs_self, spills);
    return true;
}

static void end_spill(struct pbs_spill_pen *pen)
{
    if (pen->file >= 0)
        pbs_spill_leave(pen->file);
}

static struct pbs_legacy *room(void)
{
    unsigned numbers = 0, members = 0;
    struct pbs_legacy *l;
    size_t size;

    count(&numbers, &members);
    if (!numbers)
        return NULL;
    numbers += 64; /* other threads go on meanwhile */
    members += 64;
    size = sizeof(*l) + numbers * (sizeof(struct heir) + sizeof(struct number)) +
           members * sizeof(struct member);
    l = pbs_mem_map(size);
    if (!l)
        return NULL;
    l->size = size;
    l->most_numbers = numbers;
    l->most_members = members;
    l->heirs = (struct heir *)(l + 1);
    l->members = (struct member *)(l->heirs + numbers);
    l->numbers = (struct number *)(l->members + members);
    return l;
}

static void add_members(struct pbs_legacy *l, struct heir *h, struct pbs_epoll *set)
{
    struct pbs_item *it, *tmp;

    h->refused = set->refused;
    HASH_ITER(hh, set->by_key, it, tmp) {
        if (l->nmembers == l->most_members) {
            h->refused = true;
            return;
        }
        l->members[l->nmembers++] =
            (struct member){.epfd = it->epfd,
                            .fd = it->fd,
                            .ours = it->key.file && pbs_fdtab_is(it->fd, it->key.file),
                            .spent = it->spent,
                            .events = it->events,
                            .data = it->data};
        h->nitems++;
        /* The number that its membership is known by is gone, here as in the child. */
        if ((it->key.file && !pbs_fdtab_is(it->fd, it->key.file)) ||
            !pbs_fdtab_is(it->epfd, &set->file))
            h->refused = true;
    }
}

static void add_heir(struct pbs_legacy *l, int fd, struct pbs_file *f)
{
    struct pbs_sock *s = (struct pbs_sock *)f;
    struct heir *h = &l->heirs[l->nheirs];

    *h = (struct heir){.kind = f->kind, .file = f};
    if (!f->shared && !f->entry) {
        f->entry = pbs_ledger_open(f->kind == PBS_FILE_SOCK ? pbs_ask_cookie(fd) : 0);
        f->shared = !f->entry;
    }
    h->entry = f->entry;
    h->shared = f->shared;
    if (h->entry)
        pbs_ledger_join(h->entry);
    if (f->kind == PBS_FILE_EPOLL) {
        add_members(l, h, (struct pbs_epoll *)f);
    } else {
        h->tcp = s->tcp;
        h->listening = s->listening;
        h->impatient = s->impatient;
        h->pass = s->state == PBS_PASS;
        s->stale = true; /* the child may change how it behaves */
        if (l->pen.file >= 0)
            pbs_rx_spill(s, fd, &l->pen, false);
        h->spill = s->spill;
        h->spill_file = s->spill_file;
        if (h->spill) {
            h->spill->alone = false;
            pbs_spill_join(h->spill_file);
        }
    }
    f->place = l->nheirs++;
}

static void add_number(struct pbs_legacy *l, int fd)
{
    struct pbs_file *f = pbs_fdtab_find(fd);

    if (!f)
        return;
    pbs_lock(&f->lock);
    if (!pbs_fdtab_is(fd, f))
        goto out;
    if (l->nnumbers == l->most_numbers) {
        f->shared = true;
        goto out;
    }
    if (f->place >= l->nheirs || l->heirs[f->place].file != f)
        add_heir(l, fd, f);
    l->numbers[l->nnumbers++] = (struct number){fd, f->place};
out:
    pbs_unlock(&f->lock);
}

/* Out of memory: they are held by two, uncounted. */
static void share_all(void)
{
    unsigned lo = 0;

    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);

        if (f)
            f->shared = true;
    }
}

struct pbs_legacy *pbs_legacy_make(struct pbs_thread *self)
{
    struct pbs_legacy *l;
    unsigned lo = 0;

    pbs_crit_enter(self);
    pbs_lock(&making);
    l = room();
    if (l) {
        begin_spill(&l->pen, false);
        l->reads = true;
    } else {
        share_all();
    }
    for (int fd; l && (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1)
        add_number(l, fd);
    if (l)
        end_spill(&l->pen);
    pbs_unlock(&making);
    pbs_crit_leave(self);
    return l;
}

void pbs_legacy_revoke(struct pbs_legacy *l)
{
    for (unsigned i = 0; l && i < l->nheirs; i++)
        if (l->heirs[i].entry)
            pbs_ledger_leave(l->heirs[i].entry);
}

void pbs_legacy_bury(struct pbs_legacy *l)
{
    pbs_legacy_revoke(l);
}

static struct pbs_file *born(const struct heir *h)
{
    struct pbs_epoll *set;
    struct pbs_sock *s;

    if (h->kind == PBS_FILE_EPOLL) {
        set = pbs_epoll_get();
        if (!set)
            return NULL;
        set->refused = h->refused;
        return &set->file;
    }
    s = pbs_sock_get();
    if (!s)
        return NULL;
    s->tcp = h->tcp;
    s->listening = h->listening;
    s->impatient = h->impatient;
    s->state = h->pass ? PBS_PASS : PBS_WATCHED;
    s->spill = h->spill;
    s->spill_file = (uint8_t)h->spill_file;
    if (s->spill)
        pbs_spill_join(h->spill_file);
    return &s->file;
}

static void enter_member(struct pbs_thread *self, const struct member *m)
{
    struct epoll_event ev = {.events = m->events, .data.u64 = m->data};
    struct pbs_file *set = pbs_fdtab_find(m->epfd), *f = m->ours ? pbs_fdtab_find(m->fd) : NULL;
    struct pbs_item *it;

    if (!set || set->kind != PBS_FILE_EPOLL)
        return;
    if (!pbs_item_add(self, (struct pbs_epoll *)set, f, m->epfd, m->fd, &ev))
        ((struct pbs_epoll *)set)->refused = true;
    it = pbs_item_find((struct pbs_epoll *)set, f, m->fd);
    if (it)
        it->spent = m->spent;
}

/*
 * Another thread of the parent may have closed the number, and used it again, during the fork. Asked
 * now, and not when the bytes are read: by then a filter of system calls may kill for the question.
 */
static bool is_its(int fd, const struct pbs_file *f)
{
    struct pbs_spill *e = f->kind == PBS_FILE_SOCK ? pbs_sock_spill((struct pbs_sock *)f) : NULL;

    return !e || pbs_ask_cookie(fd) == e->cookie;
}

static void enter_number(int fd, struct heir *h)
{
    if (!h->file || !is_its(fd, h->file))
        return;
    h->known = true;
    pbs_fdtab_set(fd, h->file);
}

/* No number stands for it: nobody will read what it holds. */
static void forget(struct heir *h)
{
    if (h->file && h->kind == PBS_FILE_SOCK && !h->known)
        pbs_rx_unspill((struct pbs_sock *)h->file);
}

void pbs_legacy_enter(struct pbs_thread *self, struct pbs_legacy *l)
{
    pbs_crit_enter(self);
    l->reads = false; /* the parent does */
    for (unsigned i = 0; i < l->nheirs; i++) {
        struct heir *h = &l->heirs[i];

        h->file = born(h);
        if (!h->file)
            continue;
        h->file->entry = h->entry;
        h->file->shared = h->shared;
    }
    for (unsigned i = 0; i < l->nnumbers; i++)
        enter_number(l->numbers[i].fd, &l->heirs[l->numbers[i].heir]);
    for (unsigned i = 0; i < l->nheirs; i++)
        forget(&l->heirs[i]);
    for (unsigned i = 0; i < l->nmembers; i++)
        enter_member(self, &l->members[i]);
    pbs_crit_leave(self);
}

void pbs_legacy_free(struct pbs_thread *self, struct pbs_legacy *l)
{
    if (!l)
        return;
    pbs_crit_enter(self);
    for (unsigned i = 0; l->reads && i < l->nheirs; i++)
        if (l->heirs[i].spill)
            pbs_spill_leave(l->heirs[i].spill_file);
    pbs_mem_unmap(l, l->size);
    pbs_crit_leave(self);
}

static void lend(int fd, struct pbs_file *f, bool share, struct pbs_spill_pen *pen)
{
    struct pbs_sock *s = f->kind == PBS_FILE_SOCK ? (struct pbs_sock *)f : NULL;
    long flags = pbs_sys2(SYS_fcntl, fd, F_GETFD);

    if (share && flags >= 0 && !(flags & FD_CLOEXEC))
        pbs_gate_share(f);
    if (pen->file >= 0 && s)
        pbs_rx_spill(s, fd, pen, true);
    if (s && s->spill)
        s->spill->alone = !share && pbs_gate_alone(f);
}

void pbs_legacy_lend(struct pbs_thread *self, bool share)
{
    struct pbs_spill_pen pen;
    unsigned lo = 0;

    pbs_crit_enter(self);
    begin_spill(&pen, true);
    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);

        if (!f)
            continue;
        pbs_lock(&f->lock);
        if (pbs_fdtab_is(fd, f))
            lend(fd, f, share, &pen);
        pbs_unlock(&f->lock);
    }
    end_spill(&pen);
    pbs_crit_leave(self);
}

void pbs_legacy_reset(void)
{
    pbs_unlock(&making);
}

#include "spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "ghost.h"

#define OFTEN 32U /* files that are used in turn; the rest only if so many are read */
#define MOST 256U
#define MAGIC UINT64_C(0x314c4c4950534250) /* "PBSPILL1" */

/* What a file begins with; the entries follow, then the bytes. */
struct head {
    uint64_t magic, size;
    uint64_t entries;
};

static struct {
    struct head *_Atomic map;
    atomic_uint readers; /* 0: free */
    _Atomic(int) fd;     /* -1: memory alone */
    bool sent;           /* what is unread may be in flight in a message, with no reader here */
} files[MOST];

static struct pbs_lock lock; /* guards which of them are free, and `sent` */
static unsigned turns[2];    /* the ones to try first, guarded by it */
atomic_uint pbs_spill_numbers;

size_t pbs_spill_claim(struct pbs_spill *e, size_t n, const uint8_t **data)
{
    uint64_t at = atomic_load(&e->at), k;

    do {
        k = e->len - at < n ? e->len - at : n;
        *data = (const uint8_t *)e + e->off + at;
    } while (k && !atomic_compare_exchange_weak(&e->at, &at, at + k));
    return (size_t)k;
}

static void *map_shared(size_t size, int fd)
{
    long p = pbs_sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

    return p < 0 && p > -4096 ? NULL : (void *)p;
}

/* A memory file as high as the limit allows. -1: none is to be had. */
static int make_fd(size_t size)
{
    struct rlimit64 lim = {.rlim_cur = RLIM64_INFINITY};
    int fd = -1;
    long low;

    pbs_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &lim);
    if (size > lim.rlim_cur) /* memory files count, and SIGXFSZ would kill */
        return -1;
    low = pbs_sys2(SYS_memfd_create, "pbufshim", MFD_CLOEXEC);
    if (low < 0)
        return -1;
    if (pbs_sys2(SYS_ftruncate, low, size) == 0)
        fd = pbs_ghost_number((int)low);
    pbs_sys1(SYS_close, low);
    return fd;
}

static struct pbs_spill *entry(struct head *map, uint64_t i)
{
    return (struct pbs_spill *)(map + 1) + i;
}

static bool unread(struct head *map)
{
    for (uint64_t i = 0; i < map->entries; i++)
        if (pbs_spill_left(entry(map, i)) || entry(map, i)->error)
            return true;
    return false;
}

static void unmap(unsigned i)
{
    if (files[i].map)
        pbs_sys2(SYS_munmap, files[i].map, files[i].map->size);
    files[i].map = NULL;
}

static bool numbered(unsigned i)
{
    return files[i].map && files[i].fd >= 0;
}

/* In flight. lock held. */
static bool travels(unsigned i)
{
    return files[i].sent && files[i].map && unread(files[i].map);
}

/* Its last reader is gone. lock held. */
static void let_go(unsigned i)
{
    int fd = numbered(i) ? files[i].fd : -1;

    files[i].fd = -1; /* first: it may be the program's own at once */
    files[i].sent = false;
    if (fd < 0)
        return;
    pbs_sys1(SYS_close, fd);
    atomic_fetch_sub(&pbs_spill_numbers, 1);
}

/*
 * A free place, of the first few or of the rest. -1: all are taken. They are used in turn: what is at
 * one stays mapped until its turn comes again, for a thread that looks at a socket without its lock.
 */
static int free_place(bool rest, bool unread_too)
{
    unsigned lo = rest ? OFTEN : 0, n = rest ? MOST - OFTEN : OFTEN;

    for (unsigned i = 0; i < n; i++) {
        unsigned at = lo + (turns[rest] + i) % n;

        if (files[at].readers || (!unread_too && files[at].map && unread(files[at].map)))
            continue;
        turns[rest] = at - lo + 1;
        return (int)at;
    }
    return -1;
}

/* A place for a file. -1: all are taken. */
static int place(struct head *map, int fd)
{
    int found = -1;

    pbs_lock(&lock);
    /* What is in flight in a message is unread, and no reader counts it. */
    for (unsigned i = 0; i < 4 && found < 0; i++)
        found = free_place(i % 2, i / 2);
    for (unsigned i = 0; i < MOST; i++) /* received elsewhere, and read */
        if (files[i].sent && !files[i].readers && !travels(i))
            let_go(i);
    if (found >= 0) {
        let_go((unsigned)found);
        unmap((unsigned)found);
        files[found].map = map;
        files[found].fd = fd;
        files[found].readers = 1;
        if (fd >= 0)
            atomic_fetch_add(&pbs_spill_numbers, 1);
    }
    pbs_unlock(&lock);
    return found;
}

bool pbs_spill_begin(struct pbs_spill_pen *pen, unsigned socks, size_t bytes)
{
    size_t front = sizeof(struct head) + socks * sizeof(struct pbs_spill);
    size_t size = (front + bytes + 4095) & ~(size_t)4095;
    int fd = make_fd(size);
    struct head *map = map_shared(size, fd);

    pen->file = map ? place(map, fd) : -1;
    if (pen->file < 0) {
        if (map)
            pbs_sys2(SYS_munmap, map, size);
        if (fd >= 0)
            pbs_sys1(SYS_close, fd);
        return false;
    }
    *map = (struct head){.magic = MAGIC, .size = size};
    pen->next = (struct pbs_spill *)(map + 1);
    pen->bytes = (uint8_t *)map + front;
    pen->room = bytes;
    pen->left = socks;
    return true;
}

struct pbs_spill *pbs_spill_add(struct pbs_spill_pen *pen, uint64_t cookie, size_t len, int error,
                                uint8_t **data)
{
    struct pbs_spill *e = pen->next;

    if (!pen->left || pen->room < len)
        return NULL;
    e->cookie = cookie;
    e->off = (uint64_t)(pen->bytes - (uint8_t *)e);
    e->len = len;
    e->alone = false;
    atomic_init(&e->at, 0);
    atomic_init(&e->error, error);
    *data = pen->bytes;
    pen->next++;
    pen->left--;
    pen->bytes += len;
    pen->room -= len;
    files[pen->file].map->entries++;
    return e;
}

bool pbs_spill_lasts(int file)
{
    return files[file].fd >= 0;
}

void pbs_spill_join(int file)
{
    atomic_fetch_add(&files[file].readers, 1);
}

void pbs_spill_sent(int file)
{
    pbs_lock(&lock);
    files[file].sent = true;
    pbs_unlock(&lock);
}

void pbs_spill_leave(int file)
{
    pbs_lock(&lock);
    if (atomic_fetch_sub(&files[file].readers, 1) == 1 && !travels((unsigned)file))
        let_go((unsigned)file);
    pbs_unlock(&lock);
}

bool pbs_spill_any(void)
{
    for (unsigned i = 0; i < MOST; i++)
        if (files[i].map)
            return true;
    return false;
}

struct pbs_spill *pbs_spill_find(uint64_t cookie, int *file)
{
    struct pbs_spill *found = NULL;

    pbs_lock(&lock);
    for (unsigned i = 0; i < MOST && !found; i++)
        for (uint64_t k = 0; files[i].map && k < files[i].map->entries && !found; k++) {
            struct pbs_spill *e = entry(files[i].map, k);

            if (e->cookie != cookie || (!pbs_spill_left(e) && !e->error))
                continue;
            found = e;
            *file = (int)i;
            files[i].readers++;
        }
    pbs_unlock(&lock);
    return found;
}

void pbs_spill_reset(void)
{
    pbs_unlock(&lock);
    for (unsigned i = 0; i < MOST; i++)
        files[i].readers = 0;
}

void pbs_spill_sweep(void)
{
    for (unsigned i = 0; i < MOST; i++)
        if (!files[i].readers && files[i].map && !travels(i)) {
            let_go(i);
            unmap(i);
        }
}

/* ---- numbers ---- */

bool pbs_spill_owns(int fd)
{
    if (pbs_likely(!atomic_load_explicit(&pbs_spill_numbers, memory_order_relaxed)))
        return false;
    for (unsigned i = 0; i < MOST; i++)
        if (numbered(i) && files[i].fd == fd)
            return true;
    return false;
}

int pbs_spill_next(unsigned lo)
{
    int found = -1;

    if (!atomic_load_explicit(&pbs_spill_numbers, memory_order_relaxed))
        return -1;
    for (unsigned i = 0; i < MOST; i++)
        if (numbered(i) && (unsigned)files[i].fd >= lo && (found < 0 || files[i].fd < found))
            found = files[i].fd;
    return found;
}

void pbs_spill_yield(int fd)
{
    if (!pbs_spill_owns(fd))
        return;
    pbs_lock(&lock);
    for (unsigned i = 0; i < MOST; i++) {
        if (!numbered(i) || files[i].fd != fd)
            continue;
        files[i].fd = pbs_ghost_number(fd);
        if (files[i].fd < 0)
            atomic_fetch_sub(&pbs_spill_numbers, 1);
        pbs_sys1(SYS_close, fd);
    }
    pbs_unlock(&lock);
}

/* ---- to another image ---- */

bool pbs_spill_name(char text[PBS_SPILL_TEXT])
{
    int at = snprintf(text, PBS_SPILL_TEXT, PBS_SPILL_ENV "=");
    bool any = false;

    pbs_lock(&lock);
    for (unsigned i = 0; i < MOST && at < PBS_SPILL_TEXT - 16; i++) {
        if (!numbered(i) || !unread(files[i].map))
            continue;
        pbs_sys3(SYS_fcntl, files[i].fd, F_SETFD, 0);
        at +=
            snprintf(text + at, (size_t)(PBS_SPILL_TEXT - at), "%s%d", any ? "," : "", files[i].fd);
        any = true;
    }
    pbs_unlock(&lock);
    return any;
}

void pbs_spill_keep(void)
{
    pbs_lock(&lock);
    for (unsigned i = 0; i < MOST; i++)
        if (numbered(i))
            pbs_sys3(SYS_fcntl, files[i].fd, F_SETFD, FD_CLOEXEC);
    pbs_unlock(&lock);
}

/* A file that another image has made, and that it may still change: believed in its bounds. */
static bool sane(const struct head *map, size_t size)
{
    const struct pbs_spill *e = (const struct pbs_spill *)(map + 1);

    if (map->magic != MAGIC || map->size != size ||
        map->entries > (size - sizeof(*map)) / sizeof(*e))
        return false;
    for (uint64_t i = 0; i < map->entries; i++) {
        size_t from = (size_t)((const char *)&e[i] - (const char *)map);

        if (e[i].off > size - from || e[i].len > size - from - e[i].off || e[i].at > e[i].len)
            return false;
    }
    return true;
}

static void inherit(int low, void (*each)(struct pbs_spill *e, int file))
{
    struct head *map = NULL;
    struct stat st;
    int fd, file;

    if (pbs_sys2(SYS_fstat, low, &st) != 0 || !S_ISREG(st.st_mode) ||
        (size_t)st.st_size < sizeof(*map))
        return;
    map = map_shared((size_t)st.st_size, low);
    if (!map)
        return;
    if (!sane(map, (size_t)st.st_size)) {
        pbs_sys2(SYS_munmap, map, st.st_size);
        return;
    }
    fd = pbs_ghost_number(low);
    pbs_sys1(SYS_close, low);
    file = place(map, fd);
    if (file < 0) {
        pbs_sys2(SYS_munmap, map, st.st_size);
        if (fd >= 0)
            pbs_sys1(SYS_close, fd);
        return;
    }
    for (uint64_t i = 0; i < map->entries; i++)
        if (pbs_spill_left(entry(map, i)) || entry(map, i)->error)
            each(entry(map, i), file);
    pbs_spill_leave(file);
}

void pbs_spill_inherit(const char *value, void (*each)(struct pbs_spill *e, int file))
{
    while (*value >= '0' && *value <= '9') {
        char *end;

        inherit((int)strtol(value, &end, 10), each);
        value = *end == ',' ? end + 1 : end;
    }
}

#include "mem.h"

#include <string.h>
#include <sys/mman.h>

#include "base.h"
#include "conf.h"

/* Where another stack was, mapped and unmapped behind its back, AddressSanitizer still forbids most. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#endif

#define CLASSES 10      /* 64 << 0 to 64 << 9 = LARGEST */
#define LARGEST 32768UL /* beyond, each piece is a mapping of its own */
#define CHUNK 0x40000UL /* what is asked of the kernel at a time */

struct piece {
    struct piece *next;
};

static struct {
    struct pbs_lock lock;
    struct piece *free; /* guarded by lock, as all here */
    char *fresh;
    size_t left;
} class_of[CLASSES];

static atomic_long in_use; /* bytes; in a child what its parent had may be taken off */

static void count(long size)
{
    atomic_fetch_add_explicit(&in_use, size, memory_order_relaxed);
}

bool pbs_mem_charge(size_t size)
{
    long now = atomic_fetch_add_explicit(&in_use, (long)size, memory_order_relaxed);

    if (now + (long)size <= (long)pbs_conf.memory)
        return true;
    count(-(long)size);
    return false;
}

void pbs_mem_uncharge(size_t size)
{
    count(-(long)size);
}

bool pbs_mem_used_up(void)
{
    return atomic_load_explicit(&in_use, memory_order_relaxed) >= (long)pbs_conf.memory;
}

static unsigned class_index(size_t size)
{
    unsigned c = 0;

    while ((64UL << c) < size)
        c++;
    PBS_ASSERT(c < CLASSES);
    return c;
}

#ifdef PBS_TSAN
/* It has to know that an address begins a new life. */
static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void unmap(void *p, size_t size)
{
    munmap(p, size);
}
#else
static void *map(size_t size)
{
    long p = pbs_sys6(SYS_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                      -1, 0);

    if (p < 0 && p > -4096)
        return NULL;
    ASAN_UNPOISON_MEMORY_REGION((void *)p, size);
    return (void *)p;
}

static void unmap(void *p, size_t size)
{
    pbs_sys2(SYS_munmap, p, size);
}
#endif

void *pbs_mem_reserve(size_t size)
{
    void *p = map(size);

    if (p)
        pbs_mem_small(p, size);
    return p;
}

void pbs_mem_release(void *p, size_t size)
{
    unmap(p, size);
}

void pbs_mem_small(void *p, size_t size)
{
    pbs_sys3(SYS_madvise, p, size, MADV_NOHUGEPAGE);
}

void *pbs_mem_map(size_t size)
{
    void *p = map(size);

    if (p)
        count((long)size);
    return p;
}

void pbs_mem_unmap(void *p, size_t size)
{
    unmap(p, size);
    count(-(long)size);
}

void *pbs_mem_get(size_t size)
{
    bool used = false;
    void *p = NULL;
    size_t real;
    unsigned c;

    if (size > LARGEST)
        return pbs_mem_map(size);
    c = class_index(size);
    real = 64UL << c;
    pbs_lock(&class_of[c].lock);
    if (class_of[c].free) {
        p = class_of[c].free;
        used = true;
        class_of[c].free = class_of[c].free->next;
        goto out;
    }
    if (class_of[c].left < real) {
        class_of[c].fresh = map(CHUNK); /* counted as it is handed out */
        class_of[c].left = class_of[c].fresh ? CHUNK : 0;
    }
    if (class_of[c].left >= real) {
        p = class_of[c].fresh;
        class_of[c].fresh += real;
        class_of[c].left -= real;
        count((long)real);
    }
out:
    pbs_unlock(&class_of[c].lock);
    if (used)
        memset(p, 0, size);
    return p;
}

void pbs_mem_put(void *p, size_t size)
{
    struct piece *piece = p;
    unsigned c;

    if (!p)
        return;
    if (size > LARGEST) {
        pbs_mem_unmap(p, size);
        return;
    }
    c = class_index(size);
    pbs_lock(&class_of[c].lock);
    piece->next = class_of[c].free;
    class_of[c].free = piece;
    pbs_unlock(&class_of[c].lock);
}

void pbs_mem_reset(void)
{
    in_use = 0;
    for (unsigned c = 0; c < CLASSES; c++) {
        class_of[c].left = 0; /* fresh and left may have been caught between two stores */
        pbs_unlock(&class_of[c].lock);
    }
}

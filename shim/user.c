#include "user.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

atomic_uint pbs_user_epoch;
atomic_bool pbs_user_confined;

static bool absurd(const void *p, size_t n)
{
    uintptr_t end;

    return __builtin_add_overflow((uintptr_t)p, n, &end) || end > (uintptr_t)1 << 56;
}

/* Called before the kernel is asked: what it says is at least as new. */
static void renew(struct pbs_thread *self)
{
    unsigned now = atomic_load_explicit(&pbs_user_epoch, memory_order_acquire);

    if (self->proved_epoch == now)
        return;
    memset(self->proved_write, 0, sizeof(self->proved_write));
    memset(self->proved_read, 0, sizeof(self->proved_read));
    self->proved_epoch = now;
}

static void remember(uint64_t *cache, const void *p, size_t n)
{
    uintptr_t first = (uintptr_t)p >> 12, last = ((uintptr_t)p + n - 1) >> 12;

    for (; first <= last; first = (first | 15) + 1) {
        uint64_t *e = pbs_user_set(cache, first), key = pbs_user_run(first);

        if (e[1] >> 16 == key >> 16) {
            e++;
        } else if (e[0] >> 16 != key >> 16) { /* the older one of the two goes */
            e[1] = e[0];
            e[0] = key;
        }
        *e |= pbs_user_bits(first, last);
    }
}

static bool populate(const void *p, size_t n, int advice)
{
    uintptr_t from = (uintptr_t)p & ~(uintptr_t)4095;
    uintptr_t to = ((uintptr_t)p + n + 4095) & ~(uintptr_t)4095;

    return pbs_sys3(SYS_madvise, from, to - from, advice) == 0;
}

bool pbs_user_prove_write(struct pbs_thread *self, void *p, size_t n)
{
    uintptr_t at = (uintptr_t)p, end = at + n;

    if (absurd(p, n))
        return false;
    if (pbs_user_confined)
        return true;
    renew(self);
    /*
     * MADV_POPULATE_WRITE changes no byte and proves a range in one entry, but it does not grow a
     * stack as a fault does, and some mappings (EINVAL) it refuses: there a call that writes one
     * byte with the kernel's own copy-to-user decides, page by page.
     */
    if (!populate(p, n, MADV_POPULATE_WRITE)) {
        while (at < end) {
            if (pbs_sys3(SYS_getrandom, at, 1, GRND_NONBLOCK | 4 /* GRND_INSECURE, 5.6 */) != 1)
                return false;
            at = (at & ~(uintptr_t)4095) + 4096;
        }
    }
    remember(self->proved_write, p, n);
    return true;
}

bool pbs_user_prove_rewrite(struct pbs_thread *self, void *p, size_t n)
{
    if (pbs_user_confined)
        return !absurd(p, n);
    renew(self);
    if (absurd(p, n) || !populate(p, n, MADV_POPULATE_WRITE))
        return false;
    remember(self->proved_write, p, n);
    return true;
}

bool pbs_user_prove_read(struct pbs_thread *self, const void *p, size_t n)
{
    if (pbs_user_confined)
        return !absurd(p, n);
    renew(self);
    if (absurd(p, n) || !populate(p, n, MADV_POPULATE_READ))
        return false;
    remember(self->proved_read, p, n);
    return true;
}

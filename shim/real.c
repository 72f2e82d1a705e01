#include "real.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>

#include "base.h"

#define NONE (-1)
#define SPREAD(...) , ##__VA_ARGS__

static atomic_bool bound, binding;

/* The stand-in while the table is being bound. Reads more arguments than some callers pass. */
static long raw(long nr, ...)
{
    va_list ap;
    long a[6], r;

    va_start(ap, nr);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    r = nr == NONE ? -ENOSYS : pbs_sys6(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (r < 0 && r > -4096) {
        errno = (int)-r;
        r = -1;
    }
    return r;
}

/* A stub for each entry: binds the table, then makes the call that was asked for. */
#define STUB(ret, name, params, args, nr)                                                          \
    static ret boot_##name params                                                                  \
    {                                                                                              \
        if (pbs_real_bind())                                                                       \
            return real.name args;                                                                 \
        return (ret)raw(nr SPREAD args);                                                           \
    }
PBS_REAL_LIST(STUB)

#define INITIAL(ret, name, params, args, nr) .name = boot_##name,
struct pbs_real real = {PBS_REAL_LIST(INITIAL)};

/* A name that this libc lacks keeps its stub, which then answers ENOSYS; nobody can have called it. */
static void bind_one(void *slot, const char *name, void *stub)
{
    void *sym = dlsym(RTLD_NEXT, name);

    if (sym && sym != stub)
        __atomic_store_n((void **)slot, sym, __ATOMIC_RELAXED);
}

bool pbs_real_bind(void)
{
    int saved = errno;

    if (atomic_load_explicit(&bound, memory_order_acquire))
        return false; /* a stub that is still in the table has no real function */
    if (atomic_exchange(&binding, true))
        return false;
#define BIND(ret, name, params, args, nr) bind_one(&real.name, #name, (void *)boot_##name);
    PBS_REAL_LIST(BIND)
    atomic_store_explicit(&bound, true, memory_order_release);
    errno = saved;
    return true;
}

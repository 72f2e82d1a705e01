/* What the kernel sees of a group: the tail that it reads, and memory that it may write to or not. */
#include "pbuf_rig.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

/* ---- how often the tail is stored: the page is write-protected, and each store is stepped over ---- */

static struct {
    char *page;
    size_t size;
    char *tail;
    volatile sig_atomic_t stores;
} watch;

static void on_write(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;

    if (sig == SIGSEGV) {
        watch.stores += (char *)info->si_addr == watch.tail;
        mprotect(watch.page, watch.size, PROT_READ | PROT_WRITE);
        uc->uc_mcontext.gregs[REG_EFL] |= 0x100; /* TF: trap after this instruction */
    } else {
        mprotect(watch.page, watch.size, PROT_READ);
        uc->uc_mcontext.gregs[REG_EFL] &= ~0x100LL;
    }
}

static void count_stores(struct rig *r)
{
    struct sigaction sa = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO}, old[2];

    watch.page = (char *)r->p.br;
    watch.size = pbs_pbuf_pinned(r->p.total);
    watch.tail = (char *)&r->p.br->tail;
    watch.stores = 0;
    sigaction(SIGSEGV, &sa, &old[0]);
    sigaction(SIGTRAP, &sa, &old[1]);
    mprotect(watch.page, watch.size, PROT_READ);
    pbs_pbuf_refill(&r->p);
    mprotect(watch.page, watch.size, PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &old[0], NULL);
    sigaction(SIGTRAP, &old[1], NULL);
}

static void test_refill_many_buffers_one_published_tail(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64, false);
    r.p.want = 64;
    count_stores(&r);
    assert_int_equal(watch.stores, 1);
    assert_int_equal(published(&r), 64);
    count_stores(&r); /* nothing to lend: nothing is published */
    assert_int_equal(watch.stores, 0);
    rig_end(&r);
}

/* ---- what the kernel must not write to ---- */

static void write_there(void *arg)
{
    *(volatile uint8_t *)arg = 1;
}

static void test_seal_readable_not_writable_until_unsealed(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 2, 4096, false);
    refill(&r);
    fill(&r, 1);
    pbs_pbuf_seal(&r.p, true);
    assert_int_equal(r.p.mem[0], 1);
    assert_int_not_equal(in_child(write_there, r.p.mem), 0);
    pbs_pbuf_seal(&r.p, false);
    assert_int_equal(in_child(write_there, r.p.mem), 0);
    rig_end(&r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refill_many_buffers_one_published_tail),
        cmocka_unit_test(test_seal_readable_not_writable_until_unsealed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

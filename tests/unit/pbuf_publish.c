/* What other parties see of a pool: threads that return buffers, and the tail that the kernel reads. */
#include "pbuf_rig.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

/* ---- returns by other threads while the owner goes on ---- */

#define REMOTES 3
#define ROUNDS 60000u

struct mail {
    struct pbs_pbuf *p;
    _Atomic(struct pbs_piece *) box;
    atomic_bool over;
    unsigned done, spoilt;
};

static void *remote(void *arg)
{
    struct mail *m = arg;

    for (;;) {
        struct pbs_piece *piece = atomic_exchange(&m->box, NULL);

        if (!piece) {
            if (atomic_load(&m->over) && !atomic_load(&m->box))
                return NULL;
            sched_yield();
            continue;
        }
        for (size_t i = 0; i < piece->len; i++)
            m->spoilt += piece->data[i] != (uint8_t)(piece->bid * 7 + 1);
        m->done++;
        pbs_pbuf_home_remote(m->p, piece);
    }
}

static void test_home_remote_three_threads_nothing_lost_or_doubled(void **state)
{
    static struct mail m[REMOTES];
    pthread_t thread[REMOTES];
    unsigned sent = 0, done = 0;
    struct rig r;

    (void)state;
    rig_init(&r, 16, 64);
    r.p.want = 16;
    for (int i = 0; i < REMOTES; i++) {
        m[i] = (struct mail){.p = &r.p};
        assert_int_equal(pthread_create(&thread[i], NULL, remote, &m[i]), 0);
    }
    while (sent < ROUNDS) {
        struct pbs_piece *piece, *busy;
        uint16_t tail = published(&r);
        unsigned bid;

        pbs_pbuf_refill(&r.p);
        assert_true((uint16_t)(published(&r) - tail) <= 16);
        assert_int_equal(r.p.lent + r.p.held + r.p.nfree, 16);
        if (!r.p.lent) {
            sched_yield();
            continue;
        }
        bid = entry(&r, r.head++);
        memset(r.p.mem + (size_t)bid * 64, (int)(bid * 7 + 1) & 0xff, 64);
        piece = pbs_pbuf_filled(&r.p, bid, 64);
        for (unsigned i = 0;; i++) {
            busy = NULL;
            if (atomic_compare_exchange_strong(&m[(sent + i) % REMOTES].box, &busy, piece))
                break;
            if (i % REMOTES == REMOTES - 1)
                sched_yield();
        }
        sent++;
    }
    for (int i = 0; i < REMOTES; i++)
        atomic_store(&m[i].over, true);
    for (int i = 0; i < REMOTES; i++) {
        assert_int_equal(pthread_join(thread[i], NULL), 0);
        assert_int_equal(m[i].spoilt, 0);
        done += m[i].done;
    }
    assert_int_equal(done, ROUNDS);
    pbs_pbuf_refill(&r.p);
    assert_int_equal(r.p.held, 0);
    assert_int_equal(r.p.lent, 16);
    rig_end(&r);
}

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

    watch.page = r->br;
    watch.size = pbs_pbuf_ring_size(r->p.total);
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
    rig_init(&r, 64, 64);
    r.p.want = 64;
    count_stores(&r);
    assert_int_equal(watch.stores, 1);
    assert_int_equal(published(&r), 64);
    count_stores(&r); /* nothing to lend: nothing is published */
    assert_int_equal(watch.stores, 0);
    rig_end(&r);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_home_remote_three_threads_nothing_lost_or_doubled),
        cmocka_unit_test(test_refill_many_buffers_one_published_tail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "unit.h"

#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "mem.h"
#include "pbuf.h"

enum where { FREE, LENT, HELD };

/* A pool, and the kernel's side of it played by the test. */
struct rig {
    struct pbs_pbuf p;
    void *br;
    uint16_t head; /* the kernel takes lent buffers in the order of their publication */
    enum where where[1024];
};

static void rig_init(struct rig *r, unsigned total, unsigned size)
{
    memset(r, 0, sizeof(*r));
    r->br = pbs_mem_map(pbs_pbuf_ring_size(total));
    assert_non_null(r->br);
    assert_int_equal(pbs_pbuf_init(&r->p, total, size, r->br, 5), 0);
    assert_int_equal(r->p.bgid, 5);
}

static void rig_end(struct rig *r)
{
    unsigned total = r->p.total;

    pbs_pbuf_destroy(&r->p);
    pbs_mem_unmap(r->br, pbs_pbuf_ring_size(total));
}

static uint16_t published(const struct rig *r)
{
    return io_uring_smp_load_acquire(&r->p.br->tail);
}

static unsigned entry(const struct rig *r, uint16_t at)
{
    const struct io_uring_buf *b = &r->p.br->bufs[at & (r->p.total - 1)];

    assert_in_range(b->bid, 0, r->p.total - 1);
    assert_int_equal(b->addr, (uintptr_t)(r->p.mem + (size_t)b->bid * r->p.size));
    assert_int_equal(b->len, r->p.size);
    return b->bid;
}

/* The invariant, and that model and pool count alike. */
static void check(const struct rig *r)
{
    unsigned n[3] = {0};

    for (unsigned i = 0; i < r->p.total; i++)
        n[r->where[i]]++;
    assert_int_equal(r->p.lent, n[LENT]);
    assert_int_equal(r->p.held, n[HELD]);
    assert_int_equal(r->p.nfree, n[FREE]);
    assert_int_equal(r->p.lent + r->p.held + r->p.nfree, r->p.total);
}

/* Refills and follows in the model: nothing is lent that is lent or held already. */
static unsigned refill(struct rig *r)
{
    uint16_t at = published(r);
    unsigned n = 0;

    pbs_pbuf_refill(&r->p);
    for (; at != published(r); at++, n++) {
        unsigned bid = entry(r, at);

        assert_int_equal(r->where[bid], FREE);
        r->where[bid] = LENT;
    }
    check(r);
    return n;
}

/* The kernel fills the next lent buffer. */
static struct pbs_piece *fill(struct rig *r, size_t len)
{
    unsigned bid = entry(r, r->head++);
    struct pbs_piece *piece;

    assert_int_equal(r->where[bid], LENT);
    memset(r->p.mem + (size_t)bid * r->p.size, (int)(bid * 7 + 1) & 0xff, len);
    piece = pbs_pbuf_filled(&r->p, bid, len);
    assert_int_equal(piece->bid, bid);
    assert_int_equal(piece->len, len);
    assert_ptr_equal(piece->data, r->p.mem + (size_t)bid * r->p.size);
    r->where[bid] = HELD;
    check(r);
    return piece;
}

static void home(struct rig *r, struct pbs_piece *piece)
{
    unsigned bid = piece->bid;

    pbs_pbuf_home(&r->p, piece);
    assert_int_equal(r->where[bid], HELD);
    r->where[bid] = FREE;
    check(r);
}

static void test_init_all_free_nothing_published(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096);
    check(&r);
    assert_int_equal(published(&r), 0);
    assert_true(pbs_pbuf_available(&r.p));
    rig_end(&r);
}

static void test_refill_idle_thread_lends_few(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 64, 4096);
    assert_int_equal(refill(&r), 8);
    assert_int_equal(refill(&r), 0);
    fill(&r, 1);
    assert_int_equal(refill(&r), 1);
    rig_end(&r);
}

static void test_refill_small_pool_lends_all(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, 2, 64);
    assert_int_equal(refill(&r), 2);
    fill(&r, 64);
    fill(&r, 1);
    assert_int_equal(refill(&r), 0);
    assert_false(pbs_pbuf_available(&r.p));
    rig_end(&r);
}

/* A thread that reads one message after the other touches the memory of one buffer. */
static void test_refill_last_home_first_out(void **state)
{
    struct pbs_piece *a, *b;
    unsigned bid;
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64);
    refill(&r);
    a = fill(&r, 1);
    b = fill(&r, 1);
    home(&r, a);
    bid = b->bid;
    home(&r, b);
    r.p.want = r.p.lent + 1;
    assert_int_equal(refill(&r), 1);
    assert_int_equal(entry(&r, (uint16_t)(published(&r) - 1)), bid);
    rig_end(&r);
}

static void test_grow_doubles_until_all_then_nothing_free(void **state)
{
    static const unsigned wants[] = {8, 16, 32};
    struct rig r;

    (void)state;
    rig_init(&r, 64, 64);
    for (size_t i = 0; i < COUNT_OF(wants); i++) {
        assert_int_equal(r.p.want, wants[i]);
        refill(&r);
        assert_int_equal(r.p.lent, wants[i]);
        assert_true(pbs_pbuf_grow(&r.p));
    }
    assert_int_equal(r.p.want, 64);
    refill(&r);
    assert_int_equal(r.p.lent, 64);
    assert_false(pbs_pbuf_grow(&r.p)); /* all lent: none is free */
    assert_int_equal(r.p.want, 64);
    rig_end(&r);
}

#ifdef PBS_DEBUG
static void home_twice(void *arg)
{
    struct rig r;
    struct pbs_piece *piece;

    (void)arg;
    rig_init(&r, 8, 64);
    refill(&r);
    piece = fill(&r, 1);
    pbs_pbuf_home(&r.p, piece);
    pbs_pbuf_home(&r.p, piece);
}
#endif

static void test_home_not_held_traps_in_debug_builds(void **state)
{
    (void)state;
#ifdef PBS_DEBUG
    assert_int_not_equal(in_child(home_twice, NULL), 0);
#else
    skip();
#endif
}

static void random_step(struct rig *r, struct pbs_piece **held, unsigned *n, uint64_t *rng)
{
    switch (rnd(rng, 4)) {
    case 0:
        refill(r);
        break;
    case 1:
        if (r->p.lent)
            held[(*n)++] = fill(r, 1 + rnd(rng, r->p.size));
        else
            pbs_pbuf_grow(&r->p);
        break;
    default:
        if (*n) {
            unsigned i = rnd(rng, *n);

            home(r, held[i]);
            held[i] = held[--*n];
        }
        break;
    }
    assert_int_equal(pbs_pbuf_available(&r->p), r->p.lent || r->p.nfree);
}

static void test_random_orders_every_buffer_is_somewhere_once(void **state)
{
    static struct pbs_piece *held[1024];

    (void)state;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        uint64_t rng = seeded(seed);
        unsigned n = 0;
        struct rig r;

        rig_init(&r, 2u << rnd(&rng, 10), 64 + rnd(&rng, 200));
        for (unsigned i = 0; i < 5000; i++)
            random_step(&r, held, &n, &rng);
        while (n)
            home(&r, held[--n]);
        assert_int_equal(r.p.held, 0);
        rig_end(&r);
    }
}

/* The returned list is not looked at before the next refill, and counts as held until then. */
static void test_home_remote_same_buffer_lent_after_refill(void **state)
{
    struct pbs_piece *piece[2];
    struct rig r;

    (void)state;
    rig_init(&r, 2, 64);
    refill(&r);
    piece[0] = fill(&r, 3);
    piece[1] = fill(&r, 4);
    assert_false(pbs_pbuf_available(&r.p));
    pbs_pbuf_home_remote(&r.p, piece[0]);
    pbs_pbuf_home_remote(&r.p, piece[1]);
    check(&r);
    assert_true(pbs_pbuf_available(&r.p));
    r.where[0] = r.where[1] = FREE;
    assert_int_equal(refill(&r), 2);
    rig_end(&r);
}

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
        cmocka_unit_test(test_init_all_free_nothing_published),
        cmocka_unit_test(test_refill_idle_thread_lends_few),
        cmocka_unit_test(test_refill_small_pool_lends_all),
        cmocka_unit_test(test_refill_last_home_first_out),
        cmocka_unit_test(test_grow_doubles_until_all_then_nothing_free),
        cmocka_unit_test(test_home_not_held_traps_in_debug_builds),
        cmocka_unit_test(test_random_orders_every_buffer_is_somewhere_once),
        cmocka_unit_test(test_home_remote_same_buffer_lent_after_refill),
        cmocka_unit_test(test_home_remote_three_threads_nothing_lost_or_doubled),
        cmocka_unit_test(test_refill_many_buffers_one_published_tail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

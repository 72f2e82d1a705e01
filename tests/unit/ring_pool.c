/*
 * What a ring lends its sockets, on a real ring and real connections: when ids of groups, headers of
 * pieces or memory run out.
 */
#include "unit.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "conf.h"
#include "ring.h"

void *__real_pbs_mem_get(size_t size);
void *__wrap_pbs_mem_get(size_t size);

static bool no_memory;

void *__wrap_pbs_mem_get(size_t size)
{
    return no_memory ? NULL : __real_pbs_mem_get(size);
}

/* A connection, adopted by this thread. */
struct conn {
    struct pbs_sock *s;
    int peer;
};

static struct pbs_thread *self;
static struct pbs_ring *ring;

static int begin(void **state)
{
    (void)state;
    pbs_thread_init(pbs_ring_end);
    pbs_conf.policy = PBS_POLICY_ALWAYS;
    self = pbs_thread_get();
    assert_non_null(self);
    ring = pbs_ring_get(self);
    return 0;
}

static int end(void **state)
{
    (void)state;
    pbs_ring_end(self);
    return 0;
}

static uint64_t counted(enum pbs_counter what)
{
    return self->stats.n[what];
}

static struct conn conn_open(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int l = socket(AF_INET, SOCK_STREAM, 0);
    struct conn c;

    assert_int_equal(bind(l, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &len), 0);
    c.peer = socket(AF_INET, SOCK_STREAM, 0);
    /* Every byte at once: a byte's arrival is not to wait for the answer to the one before. */
    assert_int_equal(setsockopt(c.peer, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)), 0);
    assert_int_equal(connect(c.peer, (struct sockaddr *)&a, len), 0);
    c.s = pbs_sock_get();
    c.s->fd = accept(l, NULL, NULL);
    assert_true(c.s->fd >= 0);
    c.s->file.nfds = 1;
    c.s->state = PBS_ADOPTED;
    close(l);
    return c;
}

static void conn_arm(struct conn *c)
{
    pbs_lock(&c->s->file.lock);
    assert_int_equal(pbs_ring_arm(ring, c->s), 0);
    pbs_unlock(&c->s->file.lock);
}

/* Its end, as a close by its owner makes it. */
static void conn_close(struct conn *c)
{
    pbs_ring_cancel(ring, c->s, PBS_WHY_close);
    assert_false(c->s->armed);
    pbs_lock(&c->s->file.lock);
    c->s->file.nfds = 0;
    close(c->s->fd);
    pbs_ring_dispose(c->s);
    close(c->peer);
}

static int queued(const struct conn *c)
{
    int n = 0;

    assert_int_equal(ioctl(c->s->fd, FIONREAD, &n), 0);
    return n;
}

/* The peer's next byte. */
static void say(struct conn *c, uint8_t byte)
{
    assert_int_equal(send(c->peer, &byte, 1, 0), 1);
}

/* The n bytes that are held, or are about to be, count on from `from`; they are consumed. */
static void hear(struct conn *c, uint8_t from, size_t n)
{
    static uint8_t buf[70000];
    struct iovec iov = {buf, sizeof(buf)};
    struct pbs_dst dst = {.iov = &iov, .n = 1, .left = sizeof(buf)};

    while (c->s->held < n)
        pbs_ring_drain(ring);
    pbs_lock(&c->s->file.lock);
    assert_int_equal(pbs_sock_take(c->s, &dst, pbs_ring_home, c->s), n);
    pbs_unlock(&c->s->file.lock);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(buf[i], (uint8_t)(from + i));
}

static void need_ring(void)
{
    if (!ring) {
        print_message("no ring here: errno %d\n", self->ring_error);
        skip();
    }
}

static void check_home(void)
{
    pbs_ring_drain(ring);
    assert_int_equal(ring->pool.out, 0);
    assert_int_equal(ring->pool.held, 0);
    assert_int_equal(pbs_pieces_left(&ring->pieces), ring->pieces.most);
}

/* Ids for two: the third shares, is served all the same, and gets one when another has been given back. */
static void test_group_ids_used_up_others_share(void **state)
{
    uint32_t limit;

    (void)state;
    need_ring();
    limit = ring->bgids.limit;
    pbs_conf.groups = PBS_GROUPS_SOCKET;
    ring->bgids.limit = 3; /* the shared group has one */
    for (unsigned round = 0; round < 100; round++) {
        uint64_t made = counted(PBS_STAT_own_groups), refused = counted(PBS_STAT_group_refusals);
        struct conn c[3];

        for (int i = 0; i < 3; i++) {
            c[i] = conn_open();
            conn_arm(&c[i]);
            say(&c[i], (uint8_t)i);
        }
        assert_int_equal(counted(PBS_STAT_own_groups) - made, 2);
        assert_int_equal(counted(PBS_STAT_group_refusals) - refused, 1);
        assert_non_null(c[1].s->group);
        assert_null(c[2].s->group);
        for (int i = 0; i < 3; i++) {
            hear(&c[i], (uint8_t)i, 1);
            conn_close(&c[i]);
        }
        pbs_group_sweep(ring, false);
        assert_int_equal(ring->ngroups, 0);
        assert_int_equal(pbs_bgids_remaining(&ring->bgids), 2);
    }
    ring->bgids.limit = limit;
    pbs_conf.groups = PBS_GROUPS_AUTO;
    check_home();
}

/* Two that take turns make a piece of each byte, and the table has room for few beside those that an enter
 * may bring. */
static void take_turns(struct conn *c, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        for (int k = 0; k < 2; k++) {
            say(&c[k], (uint8_t)i);
            pbs_ring_drain(ring);
        }
}

static void test_headers_used_up_bytes_are_moved_out(void **state)
{
    unsigned most;
    struct conn c[2];
    uint64_t moved;

    (void)state;
    need_ring();
    most = ring->pieces.most;
    for (int k = 0; k < 2; k++) {
        c[k] = conn_open();
        conn_arm(&c[k]);
    }
    moved = counted(PBS_STAT_moved_out);
    ring->pieces.most = ring->cq + 8;
    take_turns(c, 0, 500);
    assert_true(counted(PBS_STAT_moved_out) > moved + 50);
    for (int k = 0; k < 2; k++) {
        assert_true(c[k].s->armed);
        hear(&c[k], 0, 500);
        conn_close(&c[k]);
    }
    check_home();
    ring->pieces.most = most;
}

/* Nor is there memory to move them to: nothing more comes, and what is behind stays in the kernel. */
static void test_headers_and_memory_used_up_the_kernel_keeps_the_rest(void **state)
{
    unsigned most;
    struct conn c[2];

    (void)state;
    need_ring();
    most = ring->pieces.most;
    for (int k = 0; k < 2; k++) {
        c[k] = conn_open();
        conn_arm(&c[k]);
    }
    ring->pieces.most = ring->cq + 8;
    no_memory = true;
    take_turns(c, 0, 100);
    no_memory = false;
    assert_false(c[0].s->armed || c[1].s->armed);
    for (int k = 0; k < 2; k++) {
        size_t n = c[k].s->held;

        assert_in_range(n, 1, 99);
        while (queued(&c[k]) < (int)(100 - n)) /* the last may wait for an answer to the first */
            sched_yield();
        assert_int_equal(queued(&c[k]), 100 - n);
        hear(&c[k], 0, n);
        for (size_t more; n < 100; n += more) { /* in parts, where a buffer is full */
            if (!c[k].s->armed)
                conn_arm(&c[k]);
            pbs_ring_drain(ring);
            more = c[k].s->held;
            hear(&c[k], (uint8_t)n, more);
        }
        assert_int_equal(n, 100);
        conn_close(&c[k]);
    }
    check_home();
    ring->pieces.most = most;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_ids_used_up_others_share),
        cmocka_unit_test(test_headers_used_up_bytes_are_moved_out),
        cmocka_unit_test(test_headers_and_memory_used_up_the_kernel_keeps_the_rest),
    };

    return cmocka_run_group_tests(tests, begin, end);
}

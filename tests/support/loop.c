#include "loop.h"

#include <unistd.h>

void ep_ctl(int ep, int op, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event ev = {.events = events, .data.u64 = data};

    MUST(epoll_ctl(ep, op, fd, &ev));
}

struct pair ep_pair(int ep, uint32_t events, uint64_t data)
{
    struct pair p = pair_open_warm();
    struct epoll_event ev;

    set_nonblock(p.us, true);
    ep_ctl(ep, EPOLL_CTL_ADD, p.us, events, data);
    check_empty(p.us);
    if (events & EPOLLET) /* the edge of having been added, if it can be written to */
        MUST(epoll_wait(ep, &ev, 1, 0));
    return p;
}

size_t read_all(struct pair *p, size_t size)
{
    uint8_t buf[16384];
    size_t sum = 0;

    CHECK(size <= sizeof(buf));
    for (;;) {
        ssize_t n = read(p->us, buf, size);

        if (n < 0) {
            CHECK_EQ(errno, EAGAIN);
            return sum;
        }
        if (!n)
            FAIL("the end after %zu bytes, where more were expected", sum);
        check_next(p, buf, (size_t)n);
        sum += (size_t)n;
    }
}

void check_quiet(int ep, bool edges)
{
    struct epoll_event ev[16];

    for (int i = 0; i < 100; i++) {
        int n = MUST(epoll_wait(ep, ev, 16, 0));

        if (!n)
            return;
        if (!edges)
            FAIL("%d events where none is due; the first: data %llx, bits %x", n,
                 (unsigned long long)ev[0].data.u64, ev[0].events);
    }
    FAIL("edges without end");
}

void check_event(int ep, uint64_t data, uint32_t events)
{
    struct epoll_event ev[2] = {{.events = 0}};
    int n = MUST(epoll_wait(ep, ev, 2, -1));

    if (n != 1 || ev[0].data.u64 != data || ev[0].events != events)
        FAIL("wanted data %llx with bits %x, got %d events, the first: data %llx, bits %x",
             (unsigned long long)data, events, n, (unsigned long long)ev[0].data.u64, ev[0].events);
}

/*
 * PHP loads its extensions with RTLD_DEEPBIND: what they call is libc's own, whatever is preloaded.
 * Its FTP client polled so before each read of a TLS library that was not loaded so: what the reads
 * had left over was held, the poll did not know, and the client slept until its time was up.
 */
#include <dlfcn.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "tcp.h"
#include "test.h"

static uint8_t buf[256];

typedef int poll_fn(struct pollfd *fds, nfds_t n, int timeout);
typedef ssize_t recv_fn(int fd, void *to, size_t n, int flags);

static void *load(const char *name)
{
    void *plugin, *f;

    if (TEST_ASAN || TEST_TSAN)
        test_skip("sanitizers refuse a library bound ahead of them");
    plugin = dlopen(PLUGIN, RTLD_NOW | RTLD_DEEPBIND);
    if (!plugin)
        FAIL("%s", dlerror());
    f = dlsym(plugin, name);
    CHECK(f != NULL);
    return f;
}

static void test_library_loaded_before_polls_what_is_left_over(void)
{
    poll_fn *its_poll = (poll_fn *)load("plugin_poll");
    struct pair p = pair_open_warm();
    struct pollfd at = {.fd = p.us, .events = POLLIN};

    put(&p, 100);
    take(&p, 40);
    CHECK_EQ(its_poll(&at, 1, 0), 1);
    CHECK_EQ(at.revents, POLLIN);
    take(&p, 60);
    CHECK_EQ(its_poll(&at, 1, 0), 0);
    pair_close(&p);
}

static void test_library_loaded_later_receives_what_came_first_first(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 100);
        recv_fn *its_recv = (recv_fn *)load("plugin_recv");
        ssize_t n = its_recv(p.us, buf, 30, 0);

        CHECK_EQ(n, 30);
        check_next(&p, buf, 30);
        take(&p, 70);
        check_empty(p.us);
        pair_close(&p);
    }
}

const struct test_case test_cases[] = {
    CASE(test_library_loaded_later_receives_what_came_first_first),
    CASE(test_library_loaded_before_polls_what_is_left_over),
    CASES_END,
};

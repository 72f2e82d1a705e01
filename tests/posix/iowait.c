/*
 * A thread that sleeps for a message is idle. A thread asleep in io_uring_enter with a request under
 * way counted as one that waits for a disk (procs_blocked, and iowait of the processor it slept on),
 * so that an idle server looked like a machine with slow disks.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

#define SLEEPERS 40
#define LOOKS 400

struct sleeper {
    struct pair p;
    struct worker w;
    bool polls;
    atomic_bool ready;
};

static void *sleep_for_bytes(void *arg)
{
    struct sleeper *s = arg;
    struct pollfd p = {.events = POLLIN};

    s->p = pair_open_warm();
    p.fd = s->p.us;
    atomic_store(&s->ready, true);
    if (s->polls)
        CHECK_EQ(poll(&p, 1, -1), 1);
    take(&s->p, 5);
    return NULL;
}

/* Of the whole machine. */
static int blocked(void)
{
    FILE *f = fopen("/proc/stat", "re");
    char line[8192];
    int n = -1;

    CHECK(f != NULL);
    while (fgets(line, sizeof(line), f))
        if (!strncmp(line, "procs_blocked ", 14))
            n = atoi(line + 14);
    fclose(f);
    CHECK(n >= 0);
    return n;
}

static void test_sleep_for_bytes_is_idle(void)
{
    static struct sleeper s[SLEEPERS];
    int least = SLEEPERS, major = 0, minor = 0;
    struct utsname u;

    MUST(uname(&u));
    CHECK_EQ(sscanf(u.release, "%d.%d", &major, &minor), 2);
    if (major < 6 || (major == 6 && minor < 15))
        test_skip("Linux %d.%d cannot be told so", major, minor);
    for (int i = 0; i < SLEEPERS; i++) {
        s[i].polls = i % 2;
        worker_start(&s[i].w, sleep_for_bytes, &s[i]);
    }
    for (int i = 0; i < SLEEPERS; i++) {
        while (!atomic_load(&s[i].ready))
            test_yield();
        wait_asleep(s[i].w.tid);
    }
    /* Other processes may wait for disks, but hardly that many all the time. */
    for (int i = 0; i < LOOKS && least >= SLEEPERS / 2; i++) {
        int now = blocked();

        if (now < least)
            least = now;
        test_yield();
    }
    CHECK(least < SLEEPERS / 2);
    for (int i = 0; i < SLEEPERS; i++) {
        put_now(&s[i].p, 5);
        worker_join(&s[i].w);
        pair_close(&s[i].p);
    }
}

const struct test_case test_cases[] = {
    CASE_ONCE(test_sleep_for_bytes_is_idle),
    CASES_END,
};

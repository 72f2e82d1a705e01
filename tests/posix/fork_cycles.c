/*
 * fork_cycles [CYCLES]: accept, fork, serve, exit, again and again. Nothing grows in the parent: no
 * descriptor stays, no mapping is added, and the last child is served as the first one was.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "leg.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

#define WARM_CYCLES 200 /* what is kept for later is found by then */
#define REQUEST 100

static int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    CHECK(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int count_maps(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    int c, n = 0;

    CHECK(f);
    while ((c = getc(f)) != EOF)
        n += c == '\n';
    fclose(f);
    return n;
}

/* The parent reads the first bytes in every other cycle, so that some are held at the fork. */
static void cycle(int listener, int i)
{
    struct pair p = {.peer = connect_to(listener)};
    char answer;
    pid_t pid;

    p.us = MUST(accept(listener, NULL, NULL));
    put(&p, REQUEST);
    if (i % 2)
        take(&p, 10);
    pid = MUST(fork());
    if (pid == 0) {
        while (p.got < REQUEST)
            take(&p, 1);
        CHECK_EQ(send(p.us, "a", 1, MSG_NOSIGNAL), 1);
        if (i % 3)
            _exit(0);
        exit(0);
    }
    MUST(close(p.us));
    CHECK_EQ(recv(p.peer, &answer, 1, 0), 1);
    check_child(pid);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    MUST(close(p.peer));
}

static int cycles_main(int argc, char **argv)
{
    int cycles = argc > 1 ? atoi(argv[1]) : 500, fds, maps;
    int listener = MUST(listener_open(AF_INET));
    struct pair standing = pair_open_warm(); /* one that is there all the time */
    int64_t begin;

    for (int i = 0; i < WARM_CYCLES; i++)
        cycle(listener, i);
    fds = count_fds();
    maps = count_maps();
    begin = now_ms();
    for (int i = 0; i < cycles; i++) {
        cycle(listener, i);
        put(&standing, 20);
        take(&standing, 20);
    }
    printf("%d cycles in %lld ms\n", cycles, (long long)(now_ms() - begin));
    CHECK_EQ(count_fds(), fds);
    /* In leg inc the standing connection has buffers of its own, which come and go. A sanitizer maps memory of
     * its own as it goes. */
    if (!TEST_ASAN && !TEST_TSAN && count_maps() > maps + (leg_is("inc") ? 20 : 0))
        FAIL("%d mappings, and %d after the first cycles", count_maps(), maps);
    pair_close(&standing);
    close(listener);
    return 0;
}

__attribute__((constructor)) static void setup(void)
{
    test_program = cycles_main;
}

const struct test_case test_cases[] = {CASES_END};

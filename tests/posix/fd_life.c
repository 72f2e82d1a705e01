/*
 * Descriptor numbers and streams over them: none is taken, the lowest free one comes next, stdio
 * goes on where plain reads left off.
 */
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

/* The open descriptors, those that are sockets marked, without the one that looks. */
static void open_numbers(char *text, size_t size)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *e;
    char set[1024] = {0};
    size_t len = 0;

    CHECK(dir);
    while ((e = readdir(dir))) {
        int fd = atoi(e->d_name);

        if (e->d_name[0] != '.' && fd != dirfd(dir) && fd < 1024)
            set[fd] = 1;
    }
    closedir(dir);
    for (int fd = 0; fd < 1024; fd++)
        if (set[fd])
            len += (size_t)snprintf(text + len, size - len, "%d ", fd);
}

static void test_no_number_is_taken(void)
{
    char before[512], after[512];
    struct pair p = pair_open();

    open_numbers(before, sizeof(before));
    warm_up(&p);
    put(&p, 100);
    take(&p, 50);
    open_numbers(after, sizeof(after));
    if (strcmp(before, after))
        FAIL("open before: %s after: %s", before, after);
    pair_close(&p);
}

static void test_lowest_free_number_comes_next(void)
{
    struct pair p = pair_open_held(20);
    int gap = MUST(open("/dev/null", O_RDONLY)); /* where the listener was */
    int a = MUST(open("/dev/null", O_RDONLY));
    int b = MUST(open("/dev/null", O_RDONLY));

    CHECK_EQ(b, a + 1);
    close(a);
    CHECK_EQ(dup(p.us), a);
    close(b);
    CHECK_EQ(socket(AF_INET, SOCK_STREAM, 0), b);
    close(a);
    close(b);
    take(&p, 20);
    CHECK_EQ(open("/dev/null", O_RDONLY), a);
    close(a);
    close(gap);
    pair_close(&p);
}

static void test_number_reused_by_a_file_reads_the_file(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 20);
        int fd = p.us, pipe_ends[2];
        char byte;

        MUST(pipe(pipe_ends));
        MUST(close(fd));
        CHECK_EQ(dup2(pipe_ends[0], fd), fd);
        CHECK_EQ(write(pipe_ends[1], "f", 1), 1);
        CHECK_EQ(read(fd, &byte, 1), 1);
        CHECK_EQ(byte, 'f');
        CHECK_ERR(recv(fd, &byte, 1, 0), ENOTSOCK);
        close(fd);
        close(pipe_ends[0]);
        close(pipe_ends[1]);
        close(p.peer);
    }
}

static void test_number_reused_by_the_next_connection_reads_that(void)
{
    int number = -1;

    for (int i = 0; i < 100; i++) {
        struct pair p = i % 2 ? pair_open_held(20) : pair_open_warm();

        if (number < 0)
            number = p.us;
        CHECK_EQ(p.us, number);
        if (i % 3)
            take(&p, p.sent - p.got);
        pair_close(&p);
    }
}

static void test_fdopen_with_bytes_waiting_reads_on(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with(where, 100);
        uint8_t bytes[200];
        FILE *f;

        take(&p, 10);
        f = fdopen(p.us, "r+");
        CHECK(f);
        CHECK_EQ(fread(bytes, 1, 60, f), 60);
        check_next(&p, bytes, 60);
        for (int i = 0; i < 30; i++) {
            int c = fgetc(f);

            bytes[0] = (uint8_t)c;
            CHECK(c != EOF);
            check_next(&p, bytes, 1);
        }
        put(&p, 25);
        CHECK_EQ(fread(bytes, 1, 25, f), 25);
        check_next(&p, bytes, 25);
        peer_fin(&p);
        CHECK_EQ(fgetc(f), EOF);
        CHECK(feof(f) && !ferror(f));
        CHECK_EQ(fclose(f), 0);
        close(p.peer);
    }
}

static void test_fdopen_getline_gives_lines(void)
{
    struct pair p = pair_open_warm();
    static const char text[] = "first line\nsecond\n\nlast without end";
    char *line = NULL;
    size_t size = 0;
    FILE *f;

    CHECK_EQ(send(p.peer, text, sizeof(text) - 1, 0), sizeof(text) - 1);
    settle(p.us, p.sent + sizeof(text) - 1);
    CHECK_EQ(recv(p.us, (char[1]){0}, 1, 0), 1);
    MUST(shutdown(p.peer, SHUT_WR));
    f = fdopen(p.us, "r");
    CHECK(f);
    CHECK_EQ(getline(&line, &size, f), 10);
    CHECK_EQ(strcmp(line, "irst line\n"), 0);
    CHECK_EQ(getline(&line, &size, f), 7);
    CHECK_EQ(getline(&line, &size, f), 1);
    CHECK_EQ(getline(&line, &size, f), 16);
    CHECK_EQ(strcmp(line, "last without end"), 0);
    CHECK_EQ(getline(&line, &size, f), -1);
    free(line);
    fclose(f);
    close(p.peer);
}

static void test_fdopen_mode_wrong_changes_nothing(void)
{
    struct pair p = pair_open_held(20);

    errno = 0;
    CHECK(!fdopen(p.us, "x"));
    CHECK_EQ(errno, EINVAL);
    take(&p, 20);
    put(&p, 10);
    take(&p, 10);
    pair_close(&p);
}

/* Calls that the kernel refuses, or that only mark for later, close nothing. */
static void test_refused_close_range_and_dup2_change_nothing(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 30);
        struct rlimit lim, low;
        int other = MUST(dup(p.peer));

        CHECK_ERR(close_range((unsigned)p.us, (unsigned)p.us, 1 << 8), EINVAL);
        CHECK_ERR(close_range((unsigned)p.us + 1, (unsigned)p.us, 0), EINVAL);
        MUST(close_range((unsigned)p.us, (unsigned)p.us, CLOSE_RANGE_CLOEXEC));
        CHECK_EQ(fcntl(p.us, F_GETFD), FD_CLOEXEC);
        CHECK_ERR(dup2(-1, p.us), EBADF);
        CHECK_ERR(dup3(other, p.us, O_APPEND), EINVAL);
        MUST(getrlimit(RLIMIT_NOFILE, &lim));
        low = lim;
        low.rlim_cur = (rlim_t)p.us;
        MUST(setrlimit(RLIMIT_NOFILE, &low));
        CHECK_ERR(dup2(other, p.us), EBADF);
        MUST(setrlimit(RLIMIT_NOFILE, &lim));
        take(&p, 30);
        check_empty(p.us);
        close(other);
        pair_close(&p);
    }
}

static void test_fcntl_flags_of_the_descriptor_are_kept(void)
{
    struct pair p = pair_open_held(20);
    struct stat st;
    int dupped;

    CHECK_EQ(fcntl(p.us, F_GETFL), O_RDWR);
    MUST(fcntl(p.us, F_SETFD, FD_CLOEXEC));
    CHECK_EQ(fcntl(p.us, F_GETFD), FD_CLOEXEC);
    dupped = MUST(fcntl(p.us, F_DUPFD, 300));
    CHECK_EQ(dupped, 300);
    CHECK_EQ(fcntl(dupped, F_GETFD), 0);
    CHECK_EQ(fcntl(dupped, F_GETFL), O_RDWR);
    MUST(fstat(p.us, &st));
    CHECK(S_ISSOCK(st.st_mode));
    close(p.us);
    p.us = dupped;
    take(&p, 20);
    pair_close(&p);
}

const struct test_case test_cases[] = {
    CASE(test_no_number_is_taken),
    CASE(test_lowest_free_number_comes_next),
    CASE(test_number_reused_by_a_file_reads_the_file),
    CASE_ONCE(test_number_reused_by_the_next_connection_reads_that),
    CASE(test_fdopen_with_bytes_waiting_reads_on),
    CASE(test_fdopen_getline_gives_lines),
    CASE(test_fdopen_mode_wrong_changes_nothing),
    CASE(test_refused_close_range_and_dup2_change_nothing),
    CASE(test_fcntl_flags_of_the_descriptor_are_kept),
    CASES_END,
};

/*
 * What the next image finds: the environment that the caller gave it, the descriptors that stay
 * open and no other, other threads gone, and the bytes. And where the image cannot get them,
 * because it is told of nothing, it still runs.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

extern char **environ;

/* As if by name: lists are compared, and an order says nothing. */
static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Descriptors by number and kind; the numbers of inodes differ from run to run. */
static void list_fds(char *out, size_t size)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *e;
    int open[256] = {0};

    CHECK(dir);
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(dir) && atoi(e->d_name) < 256)
            open[atoi(e->d_name)] = 1;
    closedir(dir);
    out[0] = '\0';
    for (int fd = 0; fd < 256; fd++) {
        char path[64], target[128];
        ssize_t n;

        if (!open[fd])
            continue;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = MUST(readlink(path, target, sizeof(target) - 1));
        target[n] = '\0';
        target[strcspn(target, "[")] = '\0';
        snprintf(out + strlen(out), size - strlen(out), "%d=%s ", fd, target);
    }
}

static size_t count_env(void)
{
    size_t n = 0;

    while (environ[n])
        n++;
    return n;
}

/* Everything of the environment in one line, sorted. */
static void list_env(char *out, size_t size)
{
    size_t n = count_env();
    char **names = malloc((n + 1) * sizeof(*names));

    CHECK(names);
    memcpy(names, environ, n * sizeof(*names));
    qsort(names, n, sizeof(*names), by_text);
    out[0] = '\0';
    for (size_t i = 0; i < n; i++)
        snprintf(out + strlen(out), size - strlen(out), "%s\n", names[i]);
    free(names);
}

/* The whole of the new image's memory of its environment, as others see it. */
static bool initial_env_has(const char *text)
{
    static char all[1 << 17];
    int fd = MUST(open("/proc/self/environ", O_RDONLY | O_CLOEXEC));
    size_t len = 0;
    ssize_t n;

    while ((n = read(fd, all + len, sizeof(all) - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    return memmem(all, len, text, strlen(text)) != NULL;
}

static char fds_before[4096], env_before[1 << 16], fds_now[4096], env_now[1 << 16];

/* image FD FROM COUNT: looks at itself, then reads. Lists come in two files that the caller wrote. */
static int image_main(int argc, char **argv)
{
    FILE *f;

    if (strcmp(argv[0], "image") != 0)
        return reader_main(argc, argv);
    list_fds(fds_now, sizeof(fds_now));
    list_env(env_now, sizeof(env_now));
    f = fopen(argv[4], "re");
    CHECK(f);
    CHECK(fgets(fds_before, sizeof(fds_before), f));
    fds_before[strcspn(fds_before, "\n")] = '\0';
    env_before[fread(env_before, 1, sizeof(env_before) - 1, f)] = '\0';
    fclose(f);
    if (strcmp(fds_before, fds_now) != 0)
        FAIL("open are \"%s\", wanted \"%s\"", fds_now, fds_before);
    if (strcmp(env_before, env_now) != 0)
        FAIL("the environment is \"%s\", wanted \"%s\"", env_now, env_before);
    CHECK(initial_env_has("LEFT_ALONE=yes"));
    return reader_main(argc, argv);
}

static void write_lists(const char *path)
{
    FILE *f;

    list_fds(fds_before, sizeof(fds_before));
    list_env(env_before, sizeof(env_before));
    f = fopen(path, "we");
    CHECK(f);
    fprintf(f, "%s\n%s", fds_before, env_before);
    fclose(f);
}

static void become_image(const struct pair *p, const char *path)
{
    char **args = reader_args("image", p->us, p, 75);

    args[6] = (char *)path;
    write_lists(path);
    execv(test_self, args);
    FAIL("execv: errno %d", errno);
}

static void test_image_sees_its_own_environment_and_descriptors(void)
{
    char path[] = "/tmp/exec_image.XXXXXX";
    int fd = MUST(mkstemp(path));
    pid_t pid;

    MUST(close(fd));
    MUST(setenv("LEFT_ALONE", "yes", 1));
    for (int forked = 0; forked < 2; forked++) {
        pid = MUST(fork());
        if (pid == 0) {
            struct pair p = pair_open_held(100);

            take(&p, 25);
            if (forked) {
                pid = MUST(fork());
                if (pid == 0)
                    become_image(&p, path);
                check_child(pid);
                _exit(0);
            }
            become_image(&p, path);
        }
        check_child(pid);
    }
    unlink(path);
}

/* The list handed to execve is the caller's: it is neither changed nor kept. */
static void test_environment_of_the_caller_is_not_changed(void)
{
    static char one[] = "ONE=1", two[] = "TWO=2";
    static char *const given[] = {one, two, NULL};
    char *copy[COUNT_OF(given)];
    struct pair p = pair_open_held(40);
    char *none[] = {(char *)"none", NULL};

    memcpy(copy, given, sizeof(given));
    CHECK_ERR(execve("/no/such/file", none, given), ENOENT);
    CHECK_EQ(memcmp(copy, given, sizeof(given)), 0);
    CHECK_EQ(strcmp(one, "ONE=1"), 0);
    take(&p, 40);
    pair_close(&p);
}

/* No library, no environment: nothing can be promised but that it runs and the connection lives. */
static void test_image_without_environment_runs(void)
{
    static char *const empty[] = {NULL};

    for (int how = 0; how < 2; how++) {
        struct shared *s = pair_share(pair_open_held(40));
        pid_t pid = MUST(fork());

        if (pid == 0) {
            if (how == 0)
                execle("/bin/true", "true", (char *)NULL, empty);
            else
                execlp("env", "env", "-i", "/bin/sh", "-c", "exit 0", (char *)NULL);
            _exit(9);
        }
        check_child(pid);
        put(&s->p, 10);
        CHECK_EQ(send(s->p.us, "x", 1, MSG_NOSIGNAL), 1);
        MUST(close(s->p.us));
        CHECK(peer_sees(s->p.peer, slack(100)) != SEEN_NOTHING);
        s->p.us = -1;
        shared_close(s);
    }
}

static void *read_for_ever(void *arg)
{
    char byte;

    for (;;)
        if (recv(((struct pair *)arg)->us, &byte, 1, 0) < 0)
            FAIL("recv: errno %d", errno);
}

static void *wait_for_ever(void *arg)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = MUST(epoll_create1(EPOLL_CLOEXEC));

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, ((struct pair *)arg)->us, &ev));
    for (;;)
        if (epoll_wait(ep, &ev, 1, -1) < 0)
            FAIL("epoll_wait: errno %d", errno);
}

/* The main thread becomes another program while others sleep in their receives. */
static void exec_beside_sleepers(void)
{
    struct pair p = pair_open_held(100), q = pair_open_warm(), r = pair_open_warm();
    struct worker reader, waiter;

    take(&p, 25);
    worker_start(&reader, read_for_ever, &q);
    worker_start(&waiter, wait_for_ever, &r);
    wait_asleep(reader.tid);
    wait_asleep(waiter.tid);
    execv(test_self, reader_args("looks", p.us, &p, 75));
    FAIL("execv: errno %d", errno);
}

static void test_exec_while_other_threads_sleep(void)
{
    for (int i = 0; i < 10; i++) {
        pid_t pid = MUST(fork());

        if (pid == 0)
            exec_beside_sleepers();
        check_child(pid);
    }
}

/* Bytes come for the sleepers while the image changes: they are the new image's. */
static void exec_beside_traffic(int listener)
{
    struct pair p = {.us = MUST(accept(listener, NULL, NULL)), .peer = -1};
    struct worker reader;
    struct pair q = pair_open_warm();

    settle(p.us, WARM_READS);
    for (int i = 0; i < WARM_READS; i++)
        take(&p, 1);
    worker_start(&reader, read_for_ever, &q);
    wait_asleep(reader.tid);
    take(&p, 50);
    execv(test_self, reader_args("end", p.us, &p, 100000 - 50));
    FAIL("execv: errno %d", errno);
}

static void test_exec_while_bytes_arrive_loses_none(void)
{
    for (int i = 0; i < 10; i++) {
        int listener = MUST(listener_open(AF_INET));
        pid_t pid = MUST(fork());
        struct pair p = {.us = -1};

        if (pid == 0)
            exec_beside_traffic(listener);
        p.peer = connect_to(listener);
        close(listener);
        put_now(&p, WARM_READS);
        for (int k = 0; k < 1000; k++)
            put_now(&p, 100);
        MUST(shutdown(p.peer, SHUT_WR));
        check_child(pid);
        close(p.peer);
    }
}

static void *fail_to_exec(void *arg)
{
    char *none[] = {(char *)"none", NULL};

    for (int i = 0; i < 200; i++)
        CHECK_ERR(execv("/no/such/file", none), ENOENT);
    *(int *)arg = 1;
    return NULL;
}

/* Execs that fail in one thread do not hurt what another one reads. */
static void test_exec_that_fails_beside_a_reader(void)
{
    struct pair p = pair_open_warm();
    int over = 0;
    struct worker w;

    worker_start(&w, fail_to_exec, &over);
    for (int i = 0; i < 300; i++) {
        put(&p, 20);
        take(&p, 5);
        take(&p, 15);
    }
    worker_join(&w);
    CHECK(over);
    check_empty(p.us);
    MUST(close(p.us));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void *exec_in_thread(void *arg)
{
    struct pair *p = arg;

    execv(test_self, reader_args("exact", p->us, p, 75));
    FAIL("execv: errno %d", errno);
}

/* By another thread than the one that has been reading. */
static void test_exec_by_another_thread(void)
{
    pid_t pid = MUST(fork());

    if (pid == 0) {
        struct pair p = pair_open_held(100);
        struct worker w;

        take(&p, 25);
        worker_start(&w, exec_in_thread, &p);
        for (;;)
            pause();
    }
    check_child(pid);
}

const struct test_case test_cases[] = {
    CASE(test_image_sees_its_own_environment_and_descriptors),
    CASE(test_environment_of_the_caller_is_not_changed),
    CASE(test_image_without_environment_runs),
    CASE(test_exec_while_other_threads_sleep),
    CASE_ONCE(test_exec_while_bytes_arrive_loses_none),
    CASE(test_exec_that_fails_beside_a_reader),
    CASE(test_exec_by_another_thread),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = image_main;
}

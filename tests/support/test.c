#include "test.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIP 77
#define CASE_LIMIT_MS 20000

enum test_side test_side;
const char *test_self;
int (*test_helper)(int argc, char **argv);
int (*test_program)(int argc, char **argv);

static const char *const side_names[] = {"accepted", "connected"};
static const char *case_name = "?";

int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t slack(int64_t ms)
{
    const char *factor = getenv("TEST_SLACK");

    return factor && atoi(factor) > 0 ? ms * atoi(factor) : ms;
}

void test_yield(void)
{
    sched_yield();
}

/* One write(2) a line, so that lines of several threads and processes stay whole. */
static void say(const char *verdict, const char *where, const char *fmt, va_list args)
{
    char text[1024];
    char line[1400];
    int len;

    vsnprintf(text, sizeof(text), fmt, args);
    len = snprintf(line, sizeof(line), "%s %s (%s): %s%s\n", verdict, case_name,
                   side_names[test_side], where, text);
    if (len > (int)sizeof(line))
        len = sizeof(line);
    if (write(STDERR_FILENO, line, len) < 0)
        return;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    const char *base = strrchr(file, '/');
    char where[128];
    va_list args;

    snprintf(where, sizeof(where), "%s:%d: ", base ? base + 1 : file, line);
    va_start(args, fmt);
    say("FAIL", where, fmt, args);
    va_end(args);
    _exit(1);
}

void test_skip(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    say("skip", "", fmt, args);
    va_end(args);
    _exit(EXIT_SKIP);
}

static void show_file(const char *title, const char *path)
{
    char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return;
    text[n] = '\0';
    fprintf(stderr, "  %s: %s%s", title, text, text[n - 1] == '\n' ? "" : "\n");
}

/* What a case that hangs is doing: the place where a lost wake-up is read off. */
static void show_stuck(pid_t pid)
{
    char path[64];

    for (pid_t tid = pid; tid < pid + 8; tid++) {
        snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, tid);
        show_file(path, path);
        snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", pid, tid);
        show_file(path, path);
    }
}

static int run_case(const struct test_case *c, enum test_side side)
{
    struct pollfd end = {.events = POLLIN};
    int64_t started = now_ms();
    int status;
    pid_t pid;

    case_name = c->name;
    test_side = side;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(test_self, test_self, "--case", c->name, "--side", side_names[side], (char *)NULL);
        _exit(126);
    }
    if (pid < 0) {
        perror("fork");
        return 1;
    }
    setpgid(pid, pid);
    end.fd = pidfd_open(pid, 0);
    if (end.fd >= 0 && poll(&end, 1, (int)slack(CASE_LIMIT_MS)) == 0) {
        fprintf(stderr, "FAIL %s (%s): no end after %lld ms\n", c->name, side_names[side],
                (long long)slack(CASE_LIMIT_MS));
        show_stuck(pid);
        kill(-pid, SIGKILL);
    }
    if (end.fd >= 0)
        close(end.fd);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    /* Whatever the case left behind; its group is its own. */
    kill(-pid, SIGKILL);
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "FAIL %s (%s): ended by signal %d\n", c->name, side_names[side],
                WTERMSIG(status));
        return 1;
    }
    if (WEXITSTATUS(status) == EXIT_SKIP)
        return EXIT_SKIP;
    printf("%s %s (%s) %lld ms\n", WEXITSTATUS(status) ? "FAIL" : "ok  ", c->name, side_names[side],
           (long long)(now_ms() - started));
    return WEXITSTATUS(status);
}

static int run_all(const char *only)
{
    int failed = 0, skipped = 0, passed = 0;

    for (const struct test_case *c = test_cases; c->name; c++) {
        if (only && !strstr(c->name, only))
            continue;
        for (int side = SIDE_ACCEPTED; side <= (c->once ? SIDE_ACCEPTED : SIDE_CONNECTED); side++) {
            int result = run_case(c, side);

            if (result == 0)
                passed++;
            else if (result == EXIT_SKIP)
                skipped++;
            else
                failed++;
        }
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    if (failed || (!passed && !skipped))
        return 1;
    return passed ? 0 : EXIT_SKIP;
}

static int run_one(const char *name, const char *side)
{
    case_name = name;
    test_side =
        side && strcmp(side, side_names[SIDE_CONNECTED]) == 0 ? SIDE_CONNECTED : SIDE_ACCEPTED;
    for (const struct test_case *c = test_cases; c->name; c++) {
        if (strcmp(c->name, name) == 0) {
            c->run();
            return 0;
        }
    }
    fprintf(stderr, "no case %s\n", name);
    return 2;
}

int main(int argc, char **argv)
{
    static char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

    setvbuf(stdout, NULL, _IOLBF, 0);
    test_self = len > 0 ? self : argv[0];
    if (argc >= 3 && strcmp(argv[1], "--helper") == 0 && test_helper)
        return test_helper(argc - 2, argv + 2);
    if (test_program)
        return test_program(argc, argv);
    if (argc >= 3 && strcmp(argv[1], "--case") == 0)
        return run_one(argv[2], argc >= 5 ? argv[4] : NULL);
    if (argc <= 2 && (argc < 2 || argv[1][0] != '-'))
        return run_all(argc == 2 ? argv[1] : NULL);
    fprintf(stderr, "usage: %s [PART-OF-A-NAME | --case NAME [--side accepted|connected]]\n",
            argv[0]);
    return 2;
}

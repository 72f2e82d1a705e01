/*
 * The frame of a posix test program: cases in a table, each run in a process of its own.
 *
 * A program lists its cases in test_cases[] and gets main() from here. Every case runs in a freshly
 * executed process ("prog --case NAME --side SIDE"): a socket that is open when a process forks is
 * treated differently from then on, so a case must not begin as a forked child. Each case runs
 * twice, with the socket under test on the accepted side (IPv4) and on the connecting side (IPv6
 * where there is one), unless it says that once is enough.
 *
 * Nothing here knows of the library that may be preloaded.
 */
#ifndef TESTS_SUPPORT_TEST_H
#define TESTS_SUPPORT_TEST_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum test_side {
    SIDE_ACCEPTED,
    SIDE_CONNECTED,
};

struct test_case {
    const char *name;
    void (*run)(void);
    bool once; /* the side makes no difference, or the case is long */
};

/* Defined by the program; the last entry is all zero. */
extern const struct test_case test_cases[];

/* Which end of a connection is the one under test; read by pair_open(). */
extern enum test_side test_side;

/* argv[0] as an absolute path, for cases that execute this program again. */
extern const char *test_self;

/* Called before anything else when the program is started with "--helper WORD ..."; argv[0] is WORD. */
extern int (*test_helper)(int argc, char **argv);

/* A program without cases: its own main, given the arguments. */
extern int (*test_program)(int argc, char **argv);

#define CASE(fn)                                                                                   \
    {                                                                                              \
#fn, fn, false                                                                             \
    }
#define CASE_ONCE(fn)                                                                              \
    {                                                                                              \
#fn, fn, true                                                                              \
    }
#define CASES_END                                                                                  \
    {                                                                                              \
        NULL, NULL, false                                                                          \
    }

/* Ends the case: failed, or skipped for a reason. Any thread. */
void test_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
void test_skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Milliseconds on the monotonic clock. */
int64_t now_ms(void);

/* A limit in ms, widened where the build is slow (sanitizers): TEST_SLACK in the environment. */
int64_t slack(int64_t ms);

#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            FAIL("%s is false (errno %d)", #cond, errno);                                          \
    } while (0)

#define CHECK_EQ(expr, wanted)                                                                     \
    do {                                                                                           \
        long long got_ = (long long)(expr);                                                        \
        long long wanted_ = (long long)(wanted);                                                   \
        if (got_ != wanted_)                                                                       \
            FAIL("%s: wanted %lld (%s), got %lld (errno %d)", #expr, wanted_, #wanted, got_,       \
                 errno);                                                                           \
    } while (0)

/* The call fails with -1 and this errno. */
#define CHECK_ERR(expr, wanted)                                                                    \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long long got_ = (long long)(expr);                                                        \
        if (got_ != -1 || errno != (wanted))                                                       \
            FAIL("%s: wanted -1 with errno %d (%s), got %lld with errno %d", #expr, (wanted),      \
                 #wanted, got_, errno);                                                            \
    } while (0)

/* A system call or an errno-returning pthread call that has to work for the case to make sense. */
#define MUST(expr)                                                                                 \
    ({                                                                                             \
        long long must_ = (long long)(expr);                                                       \
        if (must_ < 0)                                                                             \
            FAIL("%s failed with errno %d", #expr, errno);                                         \
        (int)must_;                                                                                \
    })
#define MUST0(expr)                                                                                \
    do {                                                                                           \
        int must0_ = (expr);                                                                       \
        if (must0_)                                                                                \
            FAIL("%s returned %d (errno %d)", #expr, must0_, errno);                               \
    } while (0)

/* The expression becomes true within ms; asked again and again, yielding in between. */
#define CHECK_SOON(cond, ms)                                                                       \
    do {                                                                                           \
        int64_t until_ = now_ms() + slack(ms);                                                     \
        while (!(cond)) {                                                                          \
            if (now_ms() > until_)                                                                 \
                FAIL("%s is still false after %lld ms", #cond, (long long)slack(ms));              \
            test_yield();                                                                          \
        }                                                                                          \
    } while (0)

void test_yield(void);

/* gcc and clang each have their way of saying it. */
#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#endif
#ifndef TEST_ASAN
#define TEST_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__)
#define TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_TSAN 1
#endif
#endif
#ifndef TEST_TSAN
#define TEST_TSAN 0
#endif

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

#endif

#include "unit.h"

#include <errno.h>

#include "conf.h"
#include "stats.h"

static char path[128];

/* What a process did before it wrote. Runs in a child: a process writes once. */
struct story {
    struct pbs_stats merged, live;
    struct pbs_pool_stats pool;
    enum pbs_policy_name policy;
    int ring_errors[3];
    bool reset_between;
    unsigned writes;
};

static void write_story(void *arg)
{
    struct story *s = arg;

    pbs_conf.policy = s->policy;
    pbs_stats_merge(&s->merged);
    for (size_t i = 0; i < COUNT_OF(s->ring_errors); i++)
        pbs_stats_ring_error(s->ring_errors[i]);
    for (unsigned i = 0; i < s->writes; i++) {
        pbs_stats_write(&s->live, &s->pool);
        if (s->reset_between)
            pbs_stats_reset();
    }
}

/* The file that the story leaves behind; "" if there is none. */
static char *told(struct story *s)
{
    static char text[16384];
    size_t n = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/tmp/pbufshim-unit-stats-%d", getpid());
    unlink(path);
    snprintf(pbs_conf.stats, sizeof(pbs_conf.stats), "%s", path);
    s->writes = s->writes ? s->writes : 1;
    assert_int_equal(in_child(write_story, s), 0);
    f = fopen(path, "r");
    if (f) {
        n = fread(text, 1, sizeof(text) - 1, f);
        fclose(f);
        unlink(path);
    }
    text[n] = '\0';
    return text;
}

/* The value of a line "name value"; -1: there is no such line. */
static long long value(const char *text, const char *name)
{
    size_t len = strlen(name);
    long long v = -1;

    for (const char *p = text; *p; p = strchr(p, '\n') + 1)
        if (!strncmp(p, name, len) && p[len] == ' ') {
            assert_int_equal(v, -1);
            v = atoll(p + len + 1);
        }
    return v;
}

static void test_write_every_line_is_name_and_value(void **state)
{
    struct story s = {.live.n = {[PBS_STAT_receives] = 3}};
    unsigned lines = 0;
    char *text = told(&s);

    (void)state;
    for (char *p = text; *p; p = strchr(p, '\n') + 1, lines++) {
        size_t name = strspn(p, "abcdefghijklmnopqrstuvwxyz_0123456789");
        bool ratio = !strncmp(p, "pool_reuse_ratio ", strlen("pool_reuse_ratio "));
        const char *number = ratio ? "0123456789." : "0123456789";

        assert_non_null(strchr(p, '\n'));
        assert_true(name > 0);
        assert_int_equal(p[name], ' ');
        if (strncmp(p, "version ", 8) != 0) {
            assert_true(strspn(p + name + 1, "0123456789") > 0);
            assert_int_equal(p[name + 1 + strspn(p + name + 1, number)], '\n');
        }
    }
    assert_true(lines > 10);
    assert_non_null(strstr(text, "version " PBS_VERSION "\n"));
}

static void test_write_promised_names_present_at_zero(void **state)
{
    static const char *const names[] = {
        "receives",         "served_calls",
        "served_bytes",     "ring_bytes",
        "kernel_entries",   "arms",
        "cancels",          "enobufs",
        "recycled",         "passes",
        "moved_out",        "trims",
        "own_groups",       "group_refusals",
        "resizes",          "pool_acquisitions",
        "pool_total",       "pool_available",
        "pool_held",        "pool_buf_size",
        "pool_exhaustions", "pool_reuse_ratio",
    };
    struct story s = {.writes = 1};
    char *text = told(&s);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++)
        assert_int_equal(value(text, names[i]), 0);
}

static void test_write_merged_and_live_added_up(void **state)
{
    struct story s = {
        .merged.n = {[PBS_STAT_receives] = 5, [PBS_STAT_ring_bytes] = 1000000000000},
        .live.n = {[PBS_STAT_receives] = 7, [PBS_STAT_kicks] = 1},
        .merged.pass = {[PBS_WHY_thread] = 2},
        .live.pass = {[PBS_WHY_thread] = 1},
        .live.cancel = {[PBS_WHY_close] = 9},
    };
    char *text = told(&s);

    (void)state;
    assert_int_equal(value(text, "receives"), 12);
    assert_int_equal(value(text, "ring_bytes"), 1000000000000);
    assert_int_equal(value(text, "kicks"), 1);
    assert_int_equal(value(text, "pass_thread"), 3);
    assert_int_equal(value(text, "cancel_close"), 9);
}

static void test_write_pool_as_it_is_and_what_it_has_done(void **state)
{
    struct story s = {
        .pool = {.total = 128, .available = 120, .held = 8, .buf_size = 32768},
        .merged.n = {[PBS_STAT_enobufs] = 3, [PBS_STAT_completions] = 90},
        .live.n = {[PBS_STAT_enobufs] = 1, [PBS_STAT_completions] = 35, [PBS_STAT_recycled] = 10},
        .live.pass = {[PBS_WHY_pool] = 2},
    };
    char *text = told(&s);

    (void)state;
    assert_int_equal(value(text, "pool_total"), 128);
    assert_int_equal(value(text, "pool_available"), 120);
    assert_int_equal(value(text, "pool_held"), 8);
    assert_int_equal(value(text, "pool_buf_size"), 32768);
    assert_int_equal(value(text, "pool_exhaustions"), 6);
    assert_non_null(strstr(text, "pool_reuse_ratio 12.5\n"));
}

static void test_write_no_buffer_came_home_ratio_zero(void **state)
{
    struct story s = {.live.n = {[PBS_STAT_completions] = 35}};

    (void)state;
    assert_non_null(strstr(told(&s), "pool_reuse_ratio 0.0\n"));
}

static void test_write_reasons_that_did_not_occur_left_out(void **state)
{
    struct story s = {.live.pass = {[PBS_WHY_fork] = 1}};
    char *text = told(&s);

    (void)state;
    assert_int_equal(value(text, "pass_fork"), 1);
    assert_null(strstr(text, "cancel_"));
    assert_null(strstr(text, "pass_thread"));
    assert_null(strstr(text, "ring_errno"));
}

static void test_write_would_save_under_never_alone(void **state)
{
    static const enum pbs_policy_name policy[] = {PBS_POLICY_AUTO, PBS_POLICY_ALWAYS,
                                                  PBS_POLICY_NEVER};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(policy); i++) {
        struct story s = {.live.n = {[PBS_STAT_would_save] = 4}, .policy = policy[i]};

        assert_int_equal(value(told(&s), "would_save"), policy[i] == PBS_POLICY_NEVER ? 4 : -1);
    }
}

static void test_write_ring_refusals_counted_by_errno(void **state)
{
    struct story s = {.ring_errors = {EPERM, ENOSYS, EPERM}};
    char *text = told(&s);

    (void)state;
    assert_int_equal(value(text, "ring_errno_1"), 2);
    assert_int_equal(value(text, "ring_errno_38"), 1);
}

static void test_ring_error_out_of_range_ignored(void **state)
{
    struct story s = {.ring_errors = {0, -5, 100000}};

    (void)state;
    assert_null(strstr(told(&s), "ring_errno"));
}

static void test_write_second_time_nothing_more(void **state)
{
    struct story s = {.live.n = {[PBS_STAT_receives] = 3}, .writes = 3};

    (void)state;
    assert_int_equal(value(told(&s), "receives"), 3);
}

/* A forked child begins at zero and writes for itself. */
static void test_reset_sums_gone_and_may_write_again(void **state)
{
    struct story s = {.merged.n = {[PBS_STAT_receives] = 3},
                      .ring_errors = {EPERM},
                      .writes = 2,
                      .reset_between = true};
    char *text = told(&s), *second;

    (void)state;
    second = strstr(text + 1, "version ");
    assert_non_null(second);
    assert_int_equal(value(second, "receives"), 0);
    assert_null(strstr(second, "ring_errno"));
    assert_non_null(strstr(text, "ring_errno_1 1\n"));
}

static void no_name(void *arg)
{
    struct pbs_pool_stats pool = {0};
    struct pbs_stats live = {0};

    (void)arg;
    clearenv();
    pbs_conf_init(); /* fd 2 is one that could be written to */
    pbs_conf.stats[0] = '\0';
    pbs_stats_write(&live, &pool);
}

static void test_write_not_asked_for_no_output(void **state)
{
    int pipes[2], saved = dup(2);
    char c;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(dup2(pipes[1], 2), 2);
    assert_int_equal(in_child(no_name, NULL), 0);
    dup2(saved, 2);
    close(saved);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &c, 1), 0);
    close(pipes[0]);
}

static void to_stderr(void *arg)
{
    struct pbs_pool_stats pool = {0};
    struct pbs_stats live = {0};

    (void)arg;
    clearenv();
    setenv("PBUFSHIM_STATS", "1", 1);
    pbs_conf_init();
    pbs_stats_write(&live, &pool);
}

static void test_write_to_stderr_one_block(void **state)
{
    char text[8192] = "";
    int pipes[2], saved = dup(2);

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(dup2(pipes[1], 2), 2);
    assert_int_equal(in_child(to_stderr, NULL), 0);
    dup2(saved, 2);
    close(saved);
    close(pipes[1]);
    assert_true(read(pipes[0], text, sizeof(text) - 1) > 0);
    assert_int_equal(value(text, "receives"), 0);
    close(pipes[0]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_every_line_is_name_and_value),
        cmocka_unit_test(test_write_promised_names_present_at_zero),
        cmocka_unit_test(test_write_merged_and_live_added_up),
        cmocka_unit_test(test_write_pool_as_it_is_and_what_it_has_done),
        cmocka_unit_test(test_write_no_buffer_came_home_ratio_zero),
        cmocka_unit_test(test_write_reasons_that_did_not_occur_left_out),
        cmocka_unit_test(test_write_would_save_under_never_alone),
        cmocka_unit_test(test_write_ring_refusals_counted_by_errno),
        cmocka_unit_test(test_ring_error_out_of_range_ignored),
        cmocka_unit_test(test_write_second_time_nothing_more),
        cmocka_unit_test(test_reset_sums_gone_and_may_write_again),
        cmocka_unit_test(test_write_not_asked_for_no_output),
        cmocka_unit_test(test_write_to_stderr_one_block),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

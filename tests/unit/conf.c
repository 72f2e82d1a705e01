#include "unit.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "conf.h"

/* ---- a program that starts with raised privileges ---- */

unsigned long __real_getauxval(unsigned long type);
unsigned long __wrap_getauxval(unsigned long type);

static bool secure;

unsigned long __wrap_getauxval(unsigned long type)
{
    return type == AT_SECURE && secure ? 1 : __real_getauxval(type);
}

/* ---- a child reads its environment; what it found comes back in shared memory ---- */

enum err { TO_PIPE, TO_SOCKET, REPLACED, CLOSED };

struct run {
    const char *env[12]; /* NAME=VALUE */
    enum err err;
    bool secure;
    unsigned ports[4], nports;

    struct pbs_conf conf; /* what it found */
    bool allowed[4];
};

static struct {
    struct run run;
    char said[4096];  /* on the fd 2 that the child began with */
    char other[4096]; /* on the one that it put in its place */
} * shared;

static void read_environment(void *arg)
{
    struct run *r = &shared->run;
    int fd = *(int *)arg, other[2];
    ssize_t n;

    clearenv();
    for (unsigned i = 0; i < COUNT_OF(r->env) && r->env[i]; i++)
        putenv((char *)r->env[i]);
    if (r->err == CLOSED)
        close(2);
    else
        dup2(fd, 2);
    secure = r->secure;
    pbs_conf_init();
    r->conf = pbs_conf;
    for (unsigned i = 0; i < r->nports; i++)
        r->allowed[i] = pbs_conf_allows_port(r->ports[i]);
    if (r->err == REPLACED) {
        if (pipe(other)) /* the same device, another file */
            abort();
        dup2(other[1], 2);
    }
    pbs_log("a line");
    if (r->err == REPLACED) {
        fcntl(other[0], F_SETFL, O_NONBLOCK);
        n = read(other[0], shared->other, sizeof(shared->other) - 1);
        shared->other[n < 0 ? 0 : n] = '\0';
    }
}

/* Runs one; what it wrote to fd 2 is in shared->said. */
static struct run *run(const struct run *in)
{
    int fds[2];
    ssize_t n;

    shared->run = *in;
    if (in->err == TO_SOCKET)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    else
        assert_int_equal(pipe(fds), 0);
    assert_int_equal(in_child(read_environment, &fds[1]), 0);
    close(fds[1]);
    n = read(fds[0], shared->said, sizeof(shared->said) - 1);
    assert_true(n >= 0);
    shared->said[n] = '\0';
    close(fds[0]);
    return &shared->run;
}

#define RUN(...) run(&(struct run){__VA_ARGS__})

static int setup(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

static unsigned lines(const char *text)
{
    unsigned n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void check_defaults(const struct pbs_conf *c)
{
    assert_int_equal(c->policy, PBS_POLICY_AUTO);
    assert_true(c->enabled);
    assert_int_equal(c->inc, PBS_INC_AUTO);
    assert_int_equal(c->groups, PBS_GROUPS_AUTO);
    assert_int_equal(c->bufs, 0); /* what fits */
    assert_int_equal(c->buf_size, 0);
    assert_int_equal(c->memory, 256UL << 20);
    assert_string_equal(c->stats, "");
}

static void test_init_empty_environment_defaults(void **state)
{
    struct run *r = RUN(.nports = 1, .ports = {80});

    (void)state;
    check_defaults(&r->conf);
    assert_false(r->conf.verbose);
    assert_string_equal(r->conf.log, "");
    assert_true(r->allowed[0]);
}

static void test_init_good_values_taken(void **state)
{
    struct run *r =
        RUN(.env = {"PBUFSHIM_POLICY=always", "PBUFSHIM_BUFS=1024", "PBUFSHIM_BUF_SIZE=65536",
                    "PBUFSHIM_STATS=/tmp/x.%p", "PBUFSHIM_VERBOSE=1", "PBUFSHIM_LOG=/dev/null"});

    (void)state;
    assert_int_equal(r->conf.policy, PBS_POLICY_ALWAYS);
    assert_int_equal(r->conf.bufs, 1024);
    assert_int_equal(r->conf.buf_size, 65536);
    assert_string_equal(r->conf.stats, "/tmp/x.%p");
    assert_string_equal(r->conf.log, "/dev/null");
    assert_true(r->conf.verbose);
    assert_true(r->conf.enabled);
    r = RUN(.env = {"PBUFSHIM_POLICY=never", "PBUFSHIM_BUFS=2", "PBUFSHIM_BUF_SIZE=64"});
    assert_int_equal(r->conf.policy, PBS_POLICY_NEVER);
    assert_int_equal(r->conf.bufs, 2);
    assert_int_equal(r->conf.buf_size, 64);
    r = RUN(.env = {"PBUFSHIM_POLICY=auto", "PBUFSHIM_STATS=0", "PBUFSHIM_DISABLE=0",
                    "PBUFSHIM_VERBOSE=0"});
    check_defaults(&r->conf);
}

static void test_init_memory_bytes_or_units(void **state)
{
    static const struct {
        const char *env;
        unsigned long bytes;
    } table[] = {
        {"PBUFSHIM_MEMORY=0", 0},
        {"PBUFSHIM_MEMORY=1000000", 1000000},
        {"PBUFSHIM_MEMORY=64K", 64UL << 10},
        {"PBUFSHIM_MEMORY=3M", 3UL << 20},
        {"PBUFSHIM_MEMORY=2G", 2UL << 30},
        {"PBUFSHIM_MEMORY=8589934591G", 8589934591UL << 30},
        {"PBUFSHIM_MEMORY=9223372036854775807", 9223372036854775807UL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        struct run *r = RUN(.env = {table[i].env, "PBUFSHIM_VERBOSE=1"});

        assert_int_equal(r->conf.memory, table[i].bytes);
        assert_string_equal(shared->said, "a line\n");
    }
}

static void test_init_buffers_each_choice(void **state)
{
    static const char *const inc[] = {"PBUFSHIM_INC=auto", "PBUFSHIM_INC=on", "PBUFSHIM_INC=off"};
    static const char *const groups[] = {"PBUFSHIM_GROUPS=auto", "PBUFSHIM_GROUPS=shared",
                                         "PBUFSHIM_GROUPS=socket"};
    static const enum pbs_inc_name as_inc[] = {PBS_INC_AUTO, PBS_INC_ON, PBS_INC_OFF};
    static const enum pbs_groups_name as_groups[] = {PBS_GROUPS_AUTO, PBS_GROUPS_SHARED,
                                                     PBS_GROUPS_SOCKET};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct run *r = RUN(.env = {inc[i], groups[2 - i], "PBUFSHIM_VERBOSE=1"});

        assert_int_equal(r->conf.inc, as_inc[i]);
        assert_int_equal(r->conf.groups, as_groups[2 - i]);
        assert_string_equal(shared->said, "a line\n");
    }
}

static void test_init_bad_values_default_and_one_line_each_when_verbose(void **state)
{
    static const char *const bad[] = {
        "PBUFSHIM_POLICY=sometimes",
        "PBUFSHIM_POLICY=ALWAYS",
        "PBUFSHIM_BUFS=0",
        "PBUFSHIM_BUFS=1",
        "PBUFSHIM_BUFS=3",
        "PBUFSHIM_BUFS=2048",
        "PBUFSHIM_BUFS=-8",
        "PBUFSHIM_BUFS= -8",
        "PBUFSHIM_BUFS=8x",
        "PBUFSHIM_BUFS=x",
        "PBUFSHIM_BUFS=0x10",
        "PBUFSHIM_BUFS=18446744073709551624", /* 2^64 + 8 */
        "PBUFSHIM_BUF_SIZE=63",
        "PBUFSHIM_BUF_SIZE=65537",
        "PBUFSHIM_BUF_SIZE=4294967360", /* 2^32 + 64 */
        "PBUFSHIM_BUF_SIZE=4k",
        "PBUFSHIM_INC=1",
        "PBUFSHIM_GROUPS=own",
        "PBUFSHIM_MEMORY=-1",
        "PBUFSHIM_MEMORY= -1",
        "PBUFSHIM_MEMORY= -18446744073709551615",
        "PBUFSHIM_MEMORY=K", /* no number was taken for zero */
        "PBUFSHIM_MEMORY=1k",
        "PBUFSHIM_MEMORY=1KB",
        "PBUFSHIM_MEMORY=1T",
        "PBUFSHIM_MEMORY=1.5G",
        "PBUFSHIM_MEMORY=0x10",
        "PBUFSHIM_MEMORY=9223372036854775808",
        "PBUFSHIM_MEMORY=8589934592G",  /* 2^63 */
        "PBUFSHIM_MEMORY=17179869185G", /* 2^64 + 1 G */
        "PBUFSHIM_MEMORY=18446744073709551617",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *name_end = strchr(bad[i], '=');
        struct run *r = RUN(.env = {bad[i]});

        check_defaults(&r->conf);
        assert_string_equal(shared->said, "a line\n");
        r = RUN(.env = {bad[i], "PBUFSHIM_VERBOSE=1"});
        check_defaults(&r->conf);
        assert_int_equal(lines(shared->said), 2);
        assert_non_null(strstr(shared->said, bad[i]));
        assert_int_equal(
            strncmp(shared->said + strlen("pbufshim: "), bad[i], (size_t)(name_end - bad[i])), 0);
    }
}

static void test_init_empty_values_defaults_without_a_word(void **state)
{
    struct run *r =
        RUN(.env = {"PBUFSHIM_POLICY=", "PBUFSHIM_BUFS=", "PBUFSHIM_BUF_SIZE=", "PBUFSHIM_STATS=",
                    "PBUFSHIM_DISABLE=", "PBUFSHIM_ONLY=", "PBUFSHIM_INC=", "PBUFSHIM_GROUPS=",
                    "PBUFSHIM_MEMORY=", "PBUFSHIM_VERBOSE=1"});

    (void)state;
    check_defaults(&r->conf);
    assert_string_equal(shared->said, "a line\n");
}

static void test_init_path_too_long_none(void **state)
{
    static char name[] = "PBUFSHIM_STATS=", env[sizeof(name) + 300];
    struct run *r;

    (void)state;
    memset(env, 'a', sizeof(env) - 1);
    memcpy(env, name, sizeof(name) - 1);
    r = RUN(.env = {env, "PBUFSHIM_VERBOSE=1"});
    check_defaults(&r->conf);
    assert_int_equal(lines(shared->said), 2);
}

static void test_init_disable_nothing_is_ours(void **state)
{
    (void)state;
    assert_false(RUN(.env = {"PBUFSHIM_DISABLE=1"})->conf.enabled);
    assert_false(RUN(.env = {"PBUFSHIM_DISABLE=yes"})->conf.enabled);
}

static void test_init_raised_privileges_environment_ignored(void **state)
{
    struct run *r = RUN(.secure = true, .env = {"PBUFSHIM_POLICY=always", "PBUFSHIM_BUFS=2",
                                                "PBUFSHIM_STATS=/tmp/x", "PBUFSHIM_VERBOSE=1"});

    (void)state;
    check_defaults(&r->conf);
    assert_false(r->conf.verbose);
}

static void test_only_and_exclude_by_program_and_port(void **state)
{
    static const struct {
        const char *env[2];
        bool enabled, p80, p81;
    } table[] = {
        {{"PBUFSHIM_ONLY=unit_conf"}, true, true, true},
        {{"PBUFSHIM_ONLY=other,unit_conf"}, true, true, true},
        {{"PBUFSHIM_ONLY=other"}, false, true, true},
        {{"PBUFSHIM_ONLY=unit_con"}, false, true, true},
        {{"PBUFSHIM_ONLY=unit_conff"}, false, true, true},
        {{"PBUFSHIM_ONLY=unit_conf:80"}, true, true, false},
        {{"PBUFSHIM_ONLY=unit_conf:80,unit_conf:81"}, true, true, true},
        {{"PBUFSHIM_ONLY=unit_conf:80,unit_conf"}, true, true, true},
        {{"PBUFSHIM_ONLY=other:80,unit_conf:81"}, true, false, true},
        {{"PBUFSHIM_EXCLUDE=unit_conf"}, false, false, false},
        {{"PBUFSHIM_EXCLUDE=other"}, true, true, true},
        {{"PBUFSHIM_EXCLUDE=other:80"}, true, true, true},
        {{"PBUFSHIM_EXCLUDE=unit_conf:80"}, true, false, true},
        {{"PBUFSHIM_ONLY=unit_conf", "PBUFSHIM_EXCLUDE=unit_conf"}, false, false, false},
        {{"PBUFSHIM_ONLY=unit_conf:80", "PBUFSHIM_EXCLUDE=unit_conf:80"}, true, false, false},
        {{"PBUFSHIM_ONLY=,,unit_conf,"}, true, true, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        struct run *r =
            RUN(.env = {table[i].env[0], table[i].env[1]}, .nports = 2, .ports = {80, 81});

        print_message("%s\n", table[i].env[0]);
        assert_int_equal(r->conf.enabled, table[i].enabled);
        if (!r->conf.enabled)
            continue;
        assert_int_equal(r->allowed[0], table[i].p80);
        assert_int_equal(r->allowed[1], table[i].p81);
    }
}

static void test_only_bad_port_entry_left_out_and_said(void **state)
{
    static const char *const bad[] = {
        "PBUFSHIM_ONLY=unit_conf:80,unit_conf:",      "PBUFSHIM_ONLY=unit_conf:80,unit_conf:0",
        "PBUFSHIM_ONLY=unit_conf:80,unit_conf:65536", "PBUFSHIM_ONLY=unit_conf:80,unit_conf:81x",
        "PBUFSHIM_ONLY=unit_conf:x,unit_conf:80",
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct run *r = RUN(.env = {bad[i], "PBUFSHIM_VERBOSE=1"}, .nports = 2, .ports = {80, 81});

        assert_true(r->conf.enabled);
        assert_true(r->allowed[0]);
        assert_false(r->allowed[1]);
        assert_int_equal(lines(shared->said), 2);
    }
}

/* Under inetd fd 2 is the client. */
static void test_log_stderr_is_a_socket_not_written(void **state)
{
    (void)state;
    RUN(.err = TO_SOCKET, .env = {"PBUFSHIM_VERBOSE=1", "PBUFSHIM_BUFS=x"});
    assert_string_equal(shared->said, "");
}

static void test_log_stderr_replaced_since_start_not_written(void **state)
{
    (void)state;
    RUN(.err = REPLACED);
    assert_string_equal(shared->said, "");
    assert_string_equal(shared->other, "");
}

static void test_log_stderr_closed_at_start_not_written(void **state)
{
    (void)state;
    RUN(.err = CLOSED, .env = {"PBUFSHIM_VERBOSE=1", "PBUFSHIM_BUFS=x"});
    assert_string_equal(shared->said, "");
}

static void test_log_to_file_stderr_stays_empty(void **state)
{
    char env[64], path[48], text[256];
    size_t n;
    FILE *f;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/pbufshim-unit-log-%d", getpid());
    snprintf(env, sizeof(env), "PBUFSHIM_LOG=%s", path);
    unlink(path);
    RUN(.env = {env, "PBUFSHIM_BUFS=x", "PBUFSHIM_VERBOSE=1"});
    assert_string_equal(shared->said, "");
    f = fopen(path, "r");
    assert_non_null(f);
    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    fclose(f);
    unlink(path);
    assert_int_equal(lines(text), 2);
    assert_non_null(strstr(text, "PBUFSHIM_BUFS=x"));
}

static void write_for_pid(void *arg)
{
    (void)arg;
    pbs_conf_write("/tmp/pbufshim-unit-%p-log", "x\n", 2);
    pbs_conf_write("/tmp/pbufshim-unit-%p-log", "y\n", 2);
}

static void test_write_percent_p_is_the_process_and_text_is_appended(void **state)
{
    char path[64], text[8];
    size_t n;
    FILE *f;
    pid_t pid;
    int status;

    (void)state;
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        write_for_pid(NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    snprintf(path, sizeof(path), "/tmp/pbufshim-unit-%d-log", pid);
    f = fopen(path, "r");
    assert_non_null(f);
    n = fread(text, 1, sizeof(text), f);
    fclose(f);
    unlink(path);
    assert_int_equal(n, 4);
    assert_memory_equal(text, "x\ny\n", 4);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init_empty_environment_defaults),
        cmocka_unit_test(test_init_good_values_taken),
        cmocka_unit_test(test_init_memory_bytes_or_units),
        cmocka_unit_test(test_init_buffers_each_choice),
        cmocka_unit_test(test_init_bad_values_default_and_one_line_each_when_verbose),
        cmocka_unit_test(test_init_empty_values_defaults_without_a_word),
        cmocka_unit_test(test_init_path_too_long_none),
        cmocka_unit_test(test_init_disable_nothing_is_ours),
        cmocka_unit_test(test_init_raised_privileges_environment_ignored),
        cmocka_unit_test(test_only_and_exclude_by_program_and_port),
        cmocka_unit_test(test_only_bad_port_entry_left_out_and_said),
        cmocka_unit_test(test_log_stderr_is_a_socket_not_written),
        cmocka_unit_test(test_log_stderr_replaced_since_start_not_written),
        cmocka_unit_test(test_log_stderr_closed_at_start_not_written),
        cmocka_unit_test(test_log_to_file_stderr_stays_empty),
        cmocka_unit_test(test_write_percent_p_is_the_process_and_text_is_appended),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}

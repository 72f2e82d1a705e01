/*
 * difftest: runs random scripts of socket calls plainly and under the library, and compares what
 * the program saw. --help says how.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "diff.h"
#include "gen.h"
#include "options.h"

struct shared_count {
    _Atomic uint64_t next;
    _Atomic long runs, failures, broken, topups, extra_edges, quiet_ends, smallest;
};

static struct fz_options o;
static struct shared_count *count;
static char dir[64]; /* for what the workers leave */

static void keep_script(const struct fz_script *s, const char *name, const struct fz_verdict *v)
{
    char path[PATH_MAX];
    FILE *out;

    if (!o.keep)
        return;
    mkdir(o.keep, 0777);
    snprintf(path, sizeof(path), "%s/%s.script", o.keep, name);
    out = fopen(path, "we");
    if (!out)
        return;
    fprintf(out, "# found in leg %s\n# line:  %s\n# plain: %s\n# leg:   %s\n",
            fz_leg_name[o.setup.leg], v->line >= 0 && v->line < s->n ? s->line[v->line] : "(exit)",
            v->plain, v->other);
    fz_script_print(s, out);
    fclose(out);
}

static void failed(const char *name, struct fz_script *s, struct fz_verdict *v)
{
    struct fz_script small = *s;
    struct fz_verdict sv;
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    fprintf(out, "%s %s: the runs differ at line %d of %d\n", fz_leg_name[o.setup.leg], name,
            v->line + 1, s->n);
    fz_report(s, v, out);
    if (!o.shrink_time)
        keep_script(s, name, v);
    else if (!fz_shrink(&o.setup, &small, o.shrink_time))
        fprintf(out, "    (not seen again in 6 more runs)\n");
    else {
        sv = *v;
        for (int i = 0; i < 20; i++) {
            fz_try(&o.setup, &small, &sv);
            if (sv.line >= 0 && !sv.plain_broken)
                break;
        }
        fprintf(out, "    shrunk to %d lines:\n", small.n);
        fz_script_print(&small, out);
        if (sv.line >= 0)
            fz_report(&small, &sv, out);
        keep_script(&small, name, &sv);
        if (small.n < count->smallest)
            count->smallest = small.n;
    }
    fclose(out);
    fputs(text, stdout);
    fflush(stdout);
    free(text);
}

static void run_one(const char *name, struct fz_script *s)
{
    struct fz_verdict v;

    fz_try(&o.setup, s, &v);
    count->runs++;
    count->topups += v.topups;
    count->extra_edges += v.extra_edges;
    count->quiet_ends += v.quiet_ends;
    if (v.plain_broken) {
        count->broken++;
        printf("%s: the plain run does not come to its end\n", name);
        fz_report(s, &v, stdout);
        fflush(stdout);
    } else if (v.line >= 0 || (o.strict && v.topups)) {
        if (count->failures++ < o.max_failures && v.line >= 0)
            failed(name, s, &v);
    }
}

static void worker(int n)
{
    static char mine[128];
    char path[192], name[64];
    FILE *out;

    snprintf(mine, sizeof(mine), "%s/w%d", dir, n);
    mkdir(mine, 0700);
    o.setup.dir = mine;
    for (;;) {
        uint64_t seed = count->next++;
        struct fz_script s = {.n = 0};

        if (seed > o.to || count->failures >= o.max_failures)
            break;
        o.setup.noring_errno = seed % 2 ? EPERM : ENOSYS;
        fz_generate(seed, &o.choice, &s);
        snprintf(name, sizeof(name), "seed-%s-%llu", fz_leg_name[o.setup.leg],
                 (unsigned long long)seed);
        for (int i = 0; i < o.repeat; i++)
            run_one(name, &s);
        fz_script_free(&s);
    }
    rmdir(mine);
    snprintf(path, sizeof(path), "%s/sum%d", dir, n);
    out = fopen(path, "we");
    if (!out)
        _exit(3);
    fz_counters_print(out);
    fclose(out);
    _exit(0);
}

static void run_seeds(void)
{
    pid_t pid[FZ_MAX_JOBS];
    int status;

    count->next = o.from;
    fflush(stdout);
    for (int i = 0; i < o.jobs; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            worker(i);
        }
    }
    for (int i = 0; i < o.jobs; i++)
        if (waitpid(pid[i], &status, 0) < 0 || status)
            count->broken++;
    fz_counters_read(dir);
}

static void run_file(const char *path)
{
    struct fz_script s = {.n = 0};
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char name[128];

    if (fz_script_load(&s, path)) {
        fprintf(stderr, "difftest: cannot read %s\n", path);
        count->broken++;
        return;
    }
    snprintf(name, sizeof(name), "again-%.*s", (int)strcspn(base, "."), base);
    if (o.verbose) {
        struct fz_setup plain = o.setup;
        struct fz_log a, b;

        plain.leg = FZ_PLAIN;
        fz_run_script(&plain, &s, NULL, &a);
        fz_run_script(&o.setup, &s, &a, &b);
        for (int i = 0; i < a.n; i++)
            printf("%s\n    plain %s %s\n    leg   %s %s\n", i < s.n ? s.line[i] : "(end)",
                   a.entry[i].text, a.entry[i].soft, b.entry[i].text, b.entry[i].soft);
        fz_log_free(&a);
        fz_log_free(&b);
    }
    for (int i = 0; i < o.repeat; i++)
        run_one(name, &s);
}

static void run_files(void)
{
    char cmd[PATH_MAX], path[PATH_MAX];
    FILE *list;

    o.setup.dir = dir;
    o.setup.noring_errno = EPERM;
    if (o.script)
        run_file(o.script);
    if (!o.regress)
        return;
    snprintf(cmd, sizeof(cmd), "find '%s' -name '*.script' | sort", o.regress);
    list = popen(cmd, "re");
    while (list && fgets(path, sizeof(path), list)) {
        path[strcspn(path, "\n")] = 0;
        run_file(path);
    }
    if (list)
        pclose(list);
}

static int verdict(void)
{
    struct shared_count *c = count;
    long ring = fz_counter("ring_bytes");
    bool wrong_ring = false;

    printf("leg %s: %ld runs, %ld differ, %ld broken; short counts %ld, repeated edges %ld, "
           "quiet ends %ld; "
           "ring_bytes %ld, served_bytes %ld, processes %ld\n",
           fz_leg_name[o.setup.leg], c->runs, c->failures, c->broken, c->topups, c->extra_edges,
           c->quiet_ends, ring, fz_counter("served_bytes"), fz_counter("processes"));
    if (o.verbose)
        fz_counters_print(stdout);
    if (o.expect) {
        printf("smallest script: %ld lines\n", c->smallest);
        return c->failures && !c->broken && c->smallest <= o.expect ? 0 : 1;
    }
    if (o.guard && fz_leg_serves(o.setup.leg) && !ring)
        wrong_ring = printf("no byte came by a ring: this run proves nothing\n");
    if (o.guard && o.setup.leg == FZ_CROWD && (o.choice.with >> FZ_CAT_flood & 1) &&
        fz_counter("resizes") < 1)
        wrong_ring = printf("no queue of completions was ever full: this run proves nothing\n");
    if (o.guard && o.setup.leg == FZ_NORING && (ring || !fz_counter("processes")))
        wrong_ring = printf("the library was not there, or had a ring though it was refused\n");
    if (c->broken)
        return 3;
    return c->failures || wrong_ring;
}

static int print_script(uint64_t seed)
{
    struct fz_script s = {.n = 0};

    fz_generate(seed, &o.choice, &s);
    fz_script_print(&s, stdout);
    fz_script_free(&s);
    return 0;
}

/* Without privilege a system may grant too little room for what is left unread on purpose. */
static void leave_out_stall(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = FZ_RCVBUF;
    socklen_t len = sizeof(size);

    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, &len) || size < FZ_RCVBUF) {
        o.choice.without |= 1ull << FZ_CAT_stall;
        printf("net.core.rmem_max is too small: category stall is left out\n");
    }
    close(fd);
}

int main(int argc, char **argv)
{
    fz_options_read(&o, argc, argv);
    leave_out_stall();
    if (o.gen != FZ_NO_SEED)
        return print_script(o.gen);
    strcpy(dir, "/tmp/difftest.XXXXXX");
    count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count == MAP_FAILED || !mkdtemp(dir))
        return 3;
    count->smallest = LONG_MAX;
    signal(SIGPIPE, SIG_IGN);
    if (o.to)
        run_seeds();
    run_files();
    rmdir(dir);
    return verdict();
}

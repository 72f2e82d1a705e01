/*
 * difftest: runs random scripts of socket calls plainly and under the library, and compares what
 * the program saw. --help says how.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "diff.h"
#include "gen.h"

#define MAX_JOBS 16

static const char usage[] =
    "difftest [--leg plain|shim|auto|starved|noring] [--shim LIBRARY] WHAT\n"
    "  --seeds A..B        scripts made from these seeds\n"
    "  --script FILE       one script; with --verbose, each line's plain and leg result\n"
    "  --regress DIR       every DIR/*.script\n"
    "  --gen SEED          print a seed's script\n"
    "  --only a,b          of the categories only these; --without a,b: never these\n"
    "  --categories        list them\n"
    "  --jobs N            workers (2)          --repeat N   runs of each script (1)\n"
    "  --keep DIR          where shrunk scripts of failures go\n"
    "  --max-failures N    stop after so many (10)   --shrink-time S  per failure (40)\n"
    "  --hang MS           a call that sleeps so long hangs (1500)\n"
    "  --no-guard          do not ask that a ring served bytes\n"
    "  --strict            a short count is a difference, too\n"
    "  --expect-failure N  succeed only if a difference is found and shrunk to N lines or fewer\n"
    "Exit status: 0 no difference, 1 differences, 2 usage, 3 the harness itself failed.\n";

struct shared_count {
    _Atomic uint64_t next;
    _Atomic long runs, failures, broken, topups, extra_edges, smallest;
};

static struct {
    struct fz_setup setup;
    uint64_t from, to, only, without;
    const char *keep, *script, *regress;
    char dir[64];
    int jobs, max_failures, shrink_time, repeat, expect;
    bool guard, verbose, strict;
    struct shared_count *count;
} o;

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
    if (!fz_shrink(&o.setup, &small, o.shrink_time))
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
        if (small.n < o.count->smallest)
            o.count->smallest = small.n;
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
    o.count->runs++;
    o.count->topups += v.topups;
    o.count->extra_edges += v.extra_edges;
    if (v.plain_broken) {
        o.count->broken++;
        printf("%s: the plain run does not come to its end\n", name);
        fz_report(s, &v, stdout);
        fflush(stdout);
    } else if (v.line >= 0 || (o.strict && v.topups)) {
        if (o.count->failures++ < o.max_failures && v.line >= 0)
            failed(name, s, &v);
    }
}

static void worker(int n)
{
    static char dir[128];
    char path[192], name[64];
    FILE *out;

    snprintf(dir, sizeof(dir), "%s/w%d", o.dir, n);
    mkdir(dir, 0700);
    o.setup.dir = dir;
    for (;;) {
        uint64_t seed = o.count->next++;
        struct fz_script s = {.n = 0};

        if (seed > o.to || o.count->failures >= o.max_failures)
            break;
        o.setup.noring_errno = seed % 2 ? EPERM : ENOSYS;
        fz_generate(seed, o.only, o.without, &s);
        snprintf(name, sizeof(name), "seed-%s-%llu", fz_leg_name[o.setup.leg],
                 (unsigned long long)seed);
        for (int i = 0; i < o.repeat; i++)
            run_one(name, &s);
        fz_script_free(&s);
    }
    rmdir(dir);
    snprintf(path, sizeof(path), "%s/sum%d", o.dir, n);
    out = fopen(path, "we");
    if (!out)
        _exit(3);
    fz_counters_print(out);
    fclose(out);
    _exit(0);
}

static void run_seeds(void)
{
    pid_t pid[MAX_JOBS];
    int status;

    o.count->next = o.from;
    fflush(stdout);
    for (int i = 0; i < o.jobs; i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            worker(i);
    }
    for (int i = 0; i < o.jobs; i++)
        if (waitpid(pid[i], &status, 0) < 0 || status)
            o.count->broken++;
    fz_counters_read(o.dir);
}

static void run_file(const char *path)
{
    struct fz_script s = {.n = 0};
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char name[128];

    if (fz_script_load(&s, path)) {
        fprintf(stderr, "difftest: cannot read %s\n", path);
        o.count->broken++;
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

    o.setup.dir = o.dir;
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
    struct shared_count *c = o.count;
    long ring = fz_counter("ring_bytes");
    bool wrong_ring = false;

    printf("leg %s: %ld runs, %ld differ, %ld broken; short counts %ld, repeated edges %ld; "
           "ring_bytes %ld, served_bytes %ld, receives %ld\n",
           fz_leg_name[o.setup.leg], c->runs, c->failures, c->broken, c->topups, c->extra_edges,
           ring, fz_counter("served_bytes"), fz_counter("receives"));
    if (o.verbose)
        fz_counters_print(stdout);
    if (o.expect) {
        printf("smallest script: %ld lines\n", c->smallest);
        return c->failures && !c->broken && c->smallest <= o.expect ? 0 : 1;
    }
    if (o.guard && (o.setup.leg == FZ_SHIM || o.setup.leg == FZ_STARVED) && !ring)
        wrong_ring = printf("no byte came by a ring: this run proves nothing\n");
    if (o.guard && o.setup.leg == FZ_NORING && (ring || !fz_counter("receives")))
        wrong_ring = printf("the library was not there, or had a ring though it was refused\n");
    if (c->broken)
        return 3;
    return c->failures || wrong_ring;
}

static int print_script(uint64_t seed)
{
    struct fz_script s = {.n = 0};

    fz_generate(seed, o.only, o.without, &s);
    fz_script_print(&s, stdout);
    fz_script_free(&s);
    return 0;
}

static const char *beside_me(const char *file)
{
    static char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);

    if (n < 0)
        exit(3);
    path[n] = 0;
    strcpy(strrchr(path, '/') + 1, file);
    return path;
}

static enum fz_leg leg_of(const char *name)
{
    for (int i = 0; i < FZ_LEGS; i++)
        if (!strcmp(name, fz_leg_name[i]))
            return (enum fz_leg)i;
    fprintf(stderr, "no such leg: %s\n", name);
    exit(2);
}

static uint64_t categories(const char *list)
{
    uint64_t mask = fz_categories(list);

    if (!mask && *list)
        exit(2);
    return mask;
}

static void bad_usage(void)
{
    fputs(usage, stderr);
    exit(2);
}

static void read_options(int argc, char **argv, uint64_t *gen)
{
    static const struct option longs[] = {
        {"leg", 1, 0, 'l'},          {"seeds", 1, 0, 's'},       {"jobs", 1, 0, 'j'},
        {"shim", 1, 0, 'p'},         {"keep", 1, 0, 'k'},        {"script", 1, 0, 'f'},
        {"gen", 1, 0, 'g'},          {"only", 1, 0, 'o'},        {"without", 1, 0, 'w'},
        {"categories", 0, 0, 'c'},   {"repeat", 1, 0, 'r'},      {"regress", 1, 0, 'd'},
        {"max-failures", 1, 0, 'm'}, {"shrink-time", 1, 0, 't'}, {"hang", 1, 0, 'h'},
        {"no-guard", 0, 0, 'n'},     {"verbose", 0, 0, 'v'},     {"strict", 0, 0, 'S'},
        {"expect-failure", 1, 0, 'e'}, {"runner", 1, 0, 'R'},    {"help", 0, 0, 'H'},
        {0, 0, 0, 0}};
    unsigned long long a, b;
    int c;

    while ((c = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
        switch (c) {
        case 'l': o.setup.leg = leg_of(optarg); break;
        case 's':
            if (sscanf(optarg, "%llu..%llu", &a, &b) != 2 || b < a)
                bad_usage();
            o.from = a;
            o.to = b;
            break;
        case 'j': o.jobs = atoi(optarg); break;
        case 'p': o.setup.preload = optarg; break;
        case 'k': o.keep = optarg; break;
        case 'f': o.script = optarg; break;
        case 'g': *gen = strtoull(optarg, NULL, 10); break;
        case 'o': o.only = categories(optarg); break;
        case 'w': o.without = categories(optarg); break;
        case 'c': fz_categories_print(stdout); exit(0);
        case 'r': o.repeat = atoi(optarg); break;
        case 'd': o.regress = optarg; break;
        case 'm': o.max_failures = atoi(optarg); break;
        case 't': o.shrink_time = atoi(optarg); break;
        case 'h': o.setup.hang_ms = atoi(optarg); break;
        case 'n': o.guard = false; break;
        case 'v': o.verbose = true; break;
        case 'S': o.strict = true; break;
        case 'e': o.expect = atoi(optarg); break;
        case 'R': o.setup.runner = optarg; break;
        case 'H': fputs(usage, stdout); exit(0);
        default: bad_usage();
        }
    }
    if (optind < argc || o.jobs < 1 || o.jobs > MAX_JOBS)
        bad_usage();
}

int main(int argc, char **argv)
{
    uint64_t gen = UINT64_MAX;

    o.jobs = 2;
    o.max_failures = 10;
    o.shrink_time = 40;
    o.repeat = 1;
    o.guard = true;
    o.from = 1;
    o.setup.hang_ms = 1500;
    read_options(argc, argv, &gen);
    if (gen != UINT64_MAX)
        return print_script(gen);
    if (!o.to && !o.script && !o.regress)
        bad_usage();
    if (o.setup.leg != FZ_PLAIN && !o.setup.preload) {
        fprintf(stderr, "difftest: leg %s needs --shim LIBRARY\n", fz_leg_name[o.setup.leg]);
        return 2;
    }
    if (!o.setup.runner)
        o.setup.runner = beside_me("fz_runner");
    strcpy(o.dir, "/tmp/difftest.XXXXXX");
    o.count = mmap(NULL, sizeof(*o.count), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (o.count == MAP_FAILED || !mkdtemp(o.dir))
        return 3;
    o.count->smallest = LONG_MAX;
    signal(SIGPIPE, SIG_IGN);
    if (o.to)
        run_seeds();
    run_files();
    rmdir(o.dir);
    return verdict();
}

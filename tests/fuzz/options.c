#include "options.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gen.h"

static const char usage[] =
    "difftest [--leg plain|shim|auto|starved|inc|starved-inc|crowd|noring] [--shim LIBRARY] WHAT\n"
    "  --seeds A..B        scripts made from these seeds\n"
    "  --script FILE       one script; with --verbose, each line's plain and leg result\n"
    "  --regress DIR       every DIR/*.script\n"
    "  --gen SEED          print a seed's script\n"
    "  --only a,b          of the categories only these; --without a,b: never these\n"
    "  --with a,b          these, too, in every script; the only way to proc, procep, pass and "
    "flood\n"
    "  --categories        list them\n"
    "  --jobs N            workers (2)          --repeat N   runs of each script (1)\n"
    "  --keep DIR          where shrunk scripts of failures go\n"
    "  --max-failures N    stop after so many (10)   --shrink-time S  per failure (40)\n"
    "  --hang MS           a call that sleeps so long hangs (1500)\n"
    "  --no-guard          do not ask that a ring served bytes\n"
    "  --strict            a short count is a difference, too\n"
    "  --expect-failure N  succeed only if a difference is found and shrunk to N lines or fewer\n"
    "Exit status: 0 no difference, 1 differences, 2 usage, 3 the harness itself failed.\n";

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

void fz_options_read(struct fz_options *o, int argc, char **argv)
{
    static const struct option longs[] = {{"leg", 1, 0, 'l'},
                                          {"seeds", 1, 0, 's'},
                                          {"jobs", 1, 0, 'j'},
                                          {"shim", 1, 0, 'p'},
                                          {"keep", 1, 0, 'k'},
                                          {"script", 1, 0, 'f'},
                                          {"gen", 1, 0, 'g'},
                                          {"only", 1, 0, 'o'},
                                          {"without", 1, 0, 'w'},
                                          {"with", 1, 0, 'W'},
                                          {"categories", 0, 0, 'c'},
                                          {"repeat", 1, 0, 'r'},
                                          {"regress", 1, 0, 'd'},
                                          {"max-failures", 1, 0, 'm'},
                                          {"shrink-time", 1, 0, 't'},
                                          {"hang", 1, 0, 'h'},
                                          {"no-guard", 0, 0, 'n'},
                                          {"verbose", 0, 0, 'v'},
                                          {"strict", 0, 0, 'S'},
                                          {"expect-failure", 1, 0, 'e'},
                                          {"runner", 1, 0, 'R'},
                                          {"help", 0, 0, 'H'},
                                          {0, 0, 0, 0}};
    unsigned long long a, b;
    int c;

    memset(o, 0, sizeof(*o));
    o->jobs = 2;
    o->max_failures = 10;
    o->shrink_time = 40;
    o->repeat = 1;
    o->guard = true;
    o->from = 1;
    o->gen = FZ_NO_SEED;
    o->setup.hang_ms = 1500;
    o->setup.runner = beside_me("fz_runner");
    while ((c = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
        switch (c) {
        case 'l':
            o->setup.leg = leg_of(optarg);
            break;
        case 's':
            if (sscanf(optarg, "%llu..%llu", &a, &b) != 2 || b < a)
                bad_usage();
            o->from = a;
            o->to = b;
            break;
        case 'j':
            o->jobs = atoi(optarg);
            break;
        case 'p':
            o->setup.preload = optarg;
            break;
        case 'k':
            o->keep = optarg;
            break;
        case 'f':
            o->script = optarg;
            break;
        case 'g':
            o->gen = strtoull(optarg, NULL, 10);
            break;
        case 'o':
            o->choice.only = categories(optarg);
            break;
        case 'w':
            o->choice.without = categories(optarg);
            break;
        case 'W':
            o->choice.with = categories(optarg);
            break;
        case 'c':
            fz_categories_print(stdout);
            exit(0);
        case 'r':
            o->repeat = atoi(optarg);
            break;
        case 'd':
            o->regress = optarg;
            break;
        case 'm':
            o->max_failures = atoi(optarg);
            break;
        case 't':
            o->shrink_time = atoi(optarg);
            break;
        case 'h':
            o->setup.hang_ms = atoi(optarg);
            break;
        case 'n':
            o->guard = false;
            break;
        case 'v':
            o->verbose = true;
            break;
        case 'S':
            o->strict = true;
            break;
        case 'e':
            o->expect = atoi(optarg);
            break;
        case 'R':
            o->setup.runner = optarg;
            break;
        case 'H':
            fputs(usage, stdout);
            exit(0);
        default:
            bad_usage();
        }
    }
    if (o->gen != FZ_NO_SEED)
        return;
    if (!o->to && !o->script && !o->regress)
        bad_usage();
    if (o->setup.leg != FZ_PLAIN && !o->setup.preload) {
        fprintf(stderr, "difftest: leg %s needs --shim LIBRARY\n", fz_leg_name[o->setup.leg]);
        exit(2);
    }
    if (optind < argc || o->jobs < 1 || o->jobs > FZ_MAX_JOBS)
        bad_usage();
}

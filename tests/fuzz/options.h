/* Options of difftest; set once, before the workers start. */
#ifndef FZ_OPTIONS_H
#define FZ_OPTIONS_H

#include "gen.h"
#include "run.h"

#define FZ_MAX_JOBS 16
#define FZ_NO_SEED UINT64_MAX

struct fz_options {
    struct fz_setup setup;
    uint64_t from, to, gen;
    struct fz_choice choice;
    const char *keep, *script, *regress;
    int jobs, max_failures, shrink_time, repeat, expect;
    bool guard, verbose, strict;
};

/* Exits on --help, --categories and on a mistake. */
void fz_options_read(struct fz_options *o, int argc, char **argv);

#endif

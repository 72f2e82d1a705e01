/* Comparing a plain run with a run in a leg, and making a failing script small. */
#ifndef FZ_DIFF_H
#define FZ_DIFF_H

#include "run.h"

struct fz_verdict {
    int line;          /* of the first difference; -1: none */
    bool plain_broken; /* the script itself is at fault */
    long topups, extra_edges, quiet_ends;
    char plain[FZ_TEXT + FZ_LINE], other[FZ_TEXT + FZ_LINE];
};

/* the first line of s that differs; -1: none. What is let pass is counted in other */
int fz_compare(const struct fz_script *s, const struct fz_log *plain, struct fz_log *other);
/* one plain run and one in the leg */
void fz_try(const struct fz_setup *setup, const struct fz_script *s, struct fz_verdict *v);
/* the script's lines with the result of each, up to the first difference */
void fz_report(const struct fz_script *s, const struct fz_verdict *v, FILE *out);
/* Takes lines out of s while a difference stays that is not one between two plain runs. False: it
   could not be seen again. */
bool fz_shrink(const struct fz_setup *setup, struct fz_script *s, int seconds);

#endif

#include "diff.h"

#include <string.h>
#include <time.h>

/* The same text, but for resets that are ends. */
static bool same_but_quiet(const char *a, const char *b)
{
    static const char reset[] = "ECONNRESET", end[] = "FIN";

    for (; *a || *b; a++, b++) {
        if (*a == *b)
            continue;
        if (strncmp(a, reset, strlen(reset)) || strncmp(b, end, strlen(end)))
            return false;
        a += strlen(reset) - 1;
        b += strlen(end) - 1;
    }
    return true;
}

/*
 * Of a socket that another program was given the library does not know that it is the last holder (a
 * listed limit): with bytes held and unread its end is none, where the kernel resets.
 */
static bool quiet_end(const struct fz_script *s, int line, const char *plain, const char *other)
{
    bool given = false;

    for (int i = 0; i < line && i < s->n; i++)
        given |= strstr(s->line[i], " exec ") || strstr(s->line[i], " feed ") ||
                 strstr(s->line[i], " sendfd ");
    return given && (line >= s->n || strncmp(s->line[line], "p end ", 6) == 0) &&
           same_but_quiet(plain, other);
}

int fz_compare(const struct fz_script *s, const struct fz_log *plain, struct fz_log *other)
{
    for (int i = 0; i < plain->n && i < other->n; i++) {
        const struct fz_entry *a = &plain->entry[i], *b = &other->entry[i];

        if (strcmp(a->text, b->text)) {
            if (!quiet_end(s, i, a->text, b->text))
                return i;
            other->quiet_ends++;
        }
        if (a->soft[0] && b->soft[0] && strcmp(a->soft, b->soft))
            return i;
    }
    return -1;
}

static void plain_setup(const struct fz_setup *setup, struct fz_setup *plain)
{
    *plain = *setup;
    plain->leg = FZ_PLAIN;
}

void fz_try(const struct fz_setup *setup, const struct fz_script *s, struct fz_verdict *v)
{
    struct fz_log plain, other;
    struct fz_setup p;

    memset(v, 0, sizeof(*v));
    v->line = -1;
    plain_setup(setup, &p);
    fz_run_script(&p, s, NULL, &plain);
    v->plain_broken = plain.broken;
    if (plain.broken) {
        for (int i = 0; i < plain.n; i++)
            if (plain.entry[i].text[0])
                v->line = i;
        snprintf(v->plain, sizeof(v->plain), "%s", v->line < 0 ? "" : plain.entry[v->line].text);
        fz_log_free(&plain);
        return;
    }
    fz_run_script(setup, s, &plain, &other);
    v->topups = other.topups;
    v->extra_edges = other.extra_edges;
    v->line = fz_compare(s, &plain, &other);
    v->quiet_ends = other.quiet_ends;
    if (v->line >= 0) {
        const struct fz_entry *a = &plain.entry[v->line], *b = &other.entry[v->line];

        snprintf(v->plain, sizeof(v->plain), "%s", a->text);
        snprintf(v->other, sizeof(v->other), "%s", b->text);
        if (!strcmp(a->text, b->text)) {
            fz_cat(v->plain, sizeof(v->plain), " %s", a->soft);
            fz_cat(v->other, sizeof(v->other), " %s", b->soft);
        }
    }
    fz_log_free(&plain);
    fz_log_free(&other);
}

void fz_report(const struct fz_script *s, const struct fz_verdict *v, FILE *out)
{
    int from = v->line > 8 ? v->line - 8 : 0;

    for (int i = from; i < v->line; i++)
        fprintf(out, "      %s\n", s->line[i]);
    fprintf(out, "  >>  %s\n", v->line < s->n ? s->line[v->line] : "(the end of the runner)");
    fprintf(out, "      plain: %s\n", v->plain);
    if (!v->plain_broken)
        fprintf(out, "      leg:   %s\n", v->other);
}

/*
 * What kind of difference it is: the verb of its line, and hang, death or result. A smaller script
 * counts only if it shows the same kind, so that shrinking does not slide into another bug.
 */
static unsigned kind_of(const struct fz_script *s, const struct fz_verdict *v)
{
    unsigned kind = strstr(v->other, "HANGS")   ? 1
                    : strstr(v->other, "DIED")  ? 2
                    : strstr(v->other, "SPINS") ? 3
                                                : 0;
    struct fz_op op;

    if (kind == 2 || v->line >= s->n || fz_parse(&op, s->line[v->line]))
        return kind;
    for (const char *c = op.verb; *c; c++)
        kind = kind * 31 + (unsigned char)*c;
    return kind;
}

/* A difference that two more plain runs do not show among themselves. */
static bool differs(const struct fz_setup *setup, const struct fz_script *s, int tries,
                    unsigned *kind)
{
    struct fz_setup plain;
    struct fz_verdict v;

    plain_setup(setup, &plain);
    for (int i = 0; i < tries; i++) {
        fz_try(setup, s, &v);
        if (v.plain_broken)
            return false;
        if (v.line < 0 || (*kind && *kind != kind_of(s, &v) + 1))
            continue;
        *kind = kind_of(s, &v) + 1;
        for (int k = 0; k < 2; k++) {
            fz_try(&plain, s, &v);
            if (v.line >= 0 || v.plain_broken)
                return false;
        }
        return true;
    }
    return false;
}

static bool without(const struct fz_script *s, int from, int len, struct fz_script *out)
{
    out->n = 0;
    for (int i = 0; i < s->n; i++)
        if (i < from || i >= from + len)
            out->line[out->n++] = s->line[i];
    return out->n < s->n;
}

bool fz_shrink(const struct fz_setup *setup, struct fz_script *s, int seconds)
{
    struct fz_setup quick = *setup;
    struct fz_script cand;
    time_t end = time(NULL) + seconds;
    unsigned kind = 0;
    int hits = 0, tries;

    for (int i = 0; i < 6; i++)
        hits += differs(setup, s, 1, &kind);
    if (!hits)
        return false;
    tries = hits >= 5 ? 1 : hits >= 2 ? 5 : 12;
    quick.hang_ms = setup->hang_ms / 3;
    for (int len = s->n / 2; len >= 1;) {
        bool smaller = false;

        for (int from = s->n - len; from > -len && time(NULL) < end; from -= len) {
            without(s, from < 0 ? 0 : from, from < 0 ? from + len : len, &cand);
            if (cand.n == s->n || !differs(&quick, &cand, tries, &kind))
                continue;
            *s = cand; /* the lines left out stay allocated until the process ends */
            smaller = true;
        }
        if (time(NULL) >= end)
            break;
        if (len == 1 && !smaller)
            break;
        if (!smaller || len > s->n)
            len = len > 1 ? len / 2 : 1;
    }
    return true;
}

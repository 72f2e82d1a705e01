#include "run.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_REPOSTS 64

static struct fz_entry *entry_of(struct fz_run *r, int line)
{
    return &r->log->entry[line];
}

static const struct fz_entry *ref_of(struct fz_run *r, int line)
{
    return r->ref && line < r->ref->n ? &r->ref->entry[line] : NULL;
}

static void say(struct fz_run *r, int line, const char *text)
{
    struct fz_entry *e = entry_of(r, line);

    fz_cat(e->text, sizeof(e->text), "%s%s", e->text[0] ? " ... " : "", text);
}

static void give_up(struct fz_run *r, const char *why)
{
    say(r, r->line, why);
    if (r->dead)
        fz_cat(entry_of(r, r->line)->text, sizeof(r->log->entry->text), " (status %#x)", r->status);
    r->log->broken = true;
}

static bool unread_or_over(struct fz_run *r, uint32_t key)
{
    int c = key < 64 ? r->key_conn[key] : -1;

    return c >= 0 && (r->peer[c].fin || r->peer[c].rst || r->peer[c].sent > r->sh->rx_off[c]);
}

/*
 * An edge-triggered member that has unread bytes may be reported again; one that the reference
 * reports must be. True if the wait gave nothing but such repeats, so that it has to be asked
 * again.
 */
static bool drop_repeats(struct fz_run *r, struct fz_slot *s, const struct fz_entry *ref)
{
    int kept = 0, before = s->nev;

    for (int i = 0; i < s->nev; i++) {
        struct fz_event *ev = &s->ev[i];
        bool wanted = !ref;

        for (int k = 0; ref && k < ref->nev; k++)
            wanted |= ref->ev[k].key == ev->key;
        if (!wanted && ev->key < 64 && (r->et_keys >> ev->key & 1) && unread_or_over(r, ev->key)) {
            r->log->extra_edges++;
            continue;
        }
        s->ev[kept++] = *ev;
    }
    s->nev = kept;
    if (kept == before)
        return false;
    if (s->ret > 0) {
        bool waited = strstr(s->text, " waited"), timed = waited || strstr(s->text, " at once");

        /* a wait that a repeat alone cut short would have gone on for its whole time */
        s->ret = kept;
        snprintf(s->text, sizeof(s->text), "-> %d%s", kept,
                 !timed            ? ""
                 : waited || !kept ? " waited"
                                   : " at once");
    }
    return !kept && ref->nev;
}

static void print_events(struct fz_entry *e)
{
    for (int i = 0; i < e->nev; i++) {
        fz_cat(e->text, sizeof(e->text), " %u:", e->ev[i].key);
        fz_flags_text(e->text, sizeof(e->text), e->ev[i].bits, fz_epoll_bits);
    }
}

/* The slot's call has ended: its result goes to the line that began it, said at `line`. */
static void collect(struct fz_run *r, int slot, int line)
{
    struct fz_slot *s = &r->sh->slot[slot];
    int began = r->pending[slot] - 1;
    struct fz_entry *e = entry_of(r, began);

    r->pending[slot] = 0;
    e->ret = s->ret;
    e->nev = s->nev;
    memcpy(e->ev, s->ev, sizeof(e->ev));
    say(r, line, s->state == FZ_GONE ? "gone" : s->text);
    if (e == entry_of(r, line))
        print_events(e);
    else {
        struct fz_entry *here = entry_of(r, line);
        struct fz_entry shown = {.nev = s->nev};

        memcpy(shown.ev, s->ev, sizeof(shown.ev));
        print_events(&shown);
        fz_cat(here->text, sizeof(here->text), "%s", shown.text);
    }
    fz_cat(entry_of(r, line)->text, sizeof(e->text), "%s", s->note);
    r->log->topups += s->topups;
    if (!s->topups)
        fz_cat(entry_of(r, line)->soft, sizeof(e->soft), "%s", s->soft);
    if (s->state == FZ_DONE)
        s->state = FZ_IDLE;
}

static void wake(struct fz_slot *s)
{
    s->state = FZ_POSTED;
    fz_futex_wake(&s->state);
}

static void post(struct fz_run *r, int slot, const char *line)
{
    struct fz_slot *s = &r->sh->slot[slot];
    const struct fz_entry *ref = ref_of(r, r->line);

    s->ret = s->nev = s->topups = 0;
    s->text[0] = s->soft[0] = s->note[0] = 0;
    s->want = ref ? ref->ret : 0;
    snprintf(s->line, sizeof(s->line), "%s", line);
    r->pending[slot] = r->line + 1;
    wake(s);
}

/* Waits for the slot's call. False: it sleeps (if it may), or all is over. */
static bool await(struct fz_run *r, int slot, bool sleep_ok, int hang_ms)
{
    struct fz_slot *s = &r->sh->slot[slot];
    const struct fz_entry *ref = ref_of(r, r->pending[slot] - 1);
    int posts = 0;

    for (;;) {
        switch (fz_watch(r, slot, sleep_ok, hang_ms)) {
        case FZ_SEEN_ASLEEP:
            return false;
        case FZ_SEEN_HANG:
            give_up(r, "HANGS");
            return false;
        case FZ_SEEN_SPINS:
            give_up(r, "SPINS");
            return false;
        case FZ_SEEN_DEAD:
            give_up(r, "RUNNER DIED");
            return false;
        default:
            break;
        }
        if (!strstr(s->line, " epwait ") || !drop_repeats(r, s, ref))
            return true;
        if (++posts > MAX_REPOSTS) {
            give_up(r, "REPEATS WITHOUT END");
            return false;
        }
        s->text[0] = 0;
        wake(s);
    }
}

static void note_epctl(struct fz_run *r, const struct fz_op *op)
{
    unsigned long ev = fz_flags(fz_str(op, "ev", "IN"), fz_epoll_bits);
    long key = fz_num(op, "key", 0);
    int var = fz_ref(fz_word(op, 2), 'f', FZ_FDS);

    if (key < 0 || key > 63 || var < 0)
        return;
    r->key_conn[key] = r->sh->fd[op->actor == 'k' ? 1 + op->idx : 0][var].conn;
    r->et_keys &= ~(1ull << key);
    if (ev & 1u << 31)
        r->et_keys |= 1ull << key;
}

static void runner_op(struct fz_run *r, const struct fz_op *op, const char *line)
{
    int slot = op->actor == 'k' ? FZ_THREADS + op->idx : op->idx;
    struct fz_slot *s = &r->sh->slot[slot];

    if (s->state == FZ_ABSENT || s->state == FZ_GONE) {
        say(r, r->line, "no such thread");
        return;
    }
    if (r->pending[slot]) {
        say(r, r->line, "busy");
        return;
    }
    post(r, slot, line);
    if (await(r, slot, op->mode == '&', op->mode == '~' ? 20000 : r->setup->hang_ms)) {
        collect(r, slot, r->line);
        if (!strcmp(op->verb, "epctl") && !s->ret)
            note_epctl(r, op);
    } else if (!r->log->broken) {
        entry_of(r, r->line)->slept = true;
        say(r, r->line, "sleeps");
    }
}

static void do_join(struct fz_run *r, int slot, bool timed)
{
    if (slot < 0 || !r->pending[slot])
        return;
    if (await(r, slot, false, timed ? 20000 : r->setup->hang_ms))
        collect(r, slot, r->line);
}

/* After something that may or may not have ended the slot's call. */
static void look_again(struct fz_run *r, int slot)
{
    if (!r->pending[slot])
        return;
    if (await(r, slot, true, 0))
        say(r, r->line, "ends");
    else if (!r->log->broken)
        say(r, r->line, "sleeps on");
}

static void do_signal(struct fz_run *r, int slot, int sig)
{
    struct fz_slot *s = slot < 0 ? NULL : &r->sh->slot[slot];
    uint32_t before;

    if (!s || s->state == FZ_ABSENT || s->state == FZ_GONE)
        return;
    before = s->handled;
    if (syscall(SYS_tgkill, r->pid, s->tid, sig))
        give_up(r, "cannot signal");
    for (int i = 0; s->handled == before && !r->log->broken; i++) {
        struct timespec gap = {0, 50000};

        if (i > 60000 || !fz_run_alive(r))
            give_up(r, "NO HANDLER RAN");
        nanosleep(&gap, NULL);
    }
    if (!r->log->broken)
        look_again(r, slot);
}

static void do_stop(struct fz_run *r, bool stop)
{
    kill(r->pid, stop ? SIGSTOP : SIGCONT);
    if (fz_watch_stop(r, stop))
        give_up(r, "DOES NOT STOP");
    for (int i = 0; i < FZ_SLOTS && !stop && !r->log->broken; i++)
        look_again(r, i);
}

/* An orphan has ended when it is no more, or only waits for somebody to hear of it. */
static void do_reap(struct fz_run *r, int slot)
{
    struct fz_slot *s = &r->sh->slot[slot];
    struct timespec gap = {0, 50000};

    if (s->state != FZ_GONE)
        return;
    for (int i = 0; !fz_watch_over(s); i++) {
        if (i > 60000) {
            give_up(r, "AN ORPHAN DOES NOT END");
            return;
        }
        nanosleep(&gap, NULL);
    }
    s->state = FZ_ABSENT;
}

static void driver_op(struct fz_run *r, const struct fz_op *op)
{
    int slot = fz_ref(fz_word(op, 0), 't', FZ_THREADS);

    if (slot < 0 && fz_ref(fz_word(op, 0), 'k', FZ_KIDS) >= 0)
        slot = FZ_THREADS + fz_ref(fz_word(op, 0), 'k', FZ_KIDS);
    if (!strcmp(op->verb, "join"))
        do_join(r, slot, op->mode == '~');
    else if (!strcmp(op->verb, "sig"))
        do_signal(r, slot, strcmp(fz_word(op, 1), "USR2") ? SIGUSR1 : SIGUSR2);
    else if (!strcmp(op->verb, "reap") && slot >= FZ_THREADS)
        do_reap(r, slot);
    else if (!strcmp(op->verb, "stop") || !strcmp(op->verb, "cont"))
        do_stop(r, op->verb[0] == 's');
}

static void one_line(struct fz_run *r, const char *line)
{
    struct fz_op op;
    char *out;

    if (fz_parse(&op, line))
        return;
    if (op.actor == 'd')
        driver_op(r, &op);
    else if (op.actor == 'p') {
        out = entry_of(r, r->line)->text;
        fz_peer_op(r, &op, out, sizeof(r->log->entry->text));
        if (!fz_run_alive(r))
            give_up(r, "RUNNER DIED");
    } else
        runner_op(r, &op, line);
}

/* Children that a script has left: they end by themselves, as it does. */
static void finish_kids(struct fz_run *r)
{
    for (int slot = FZ_THREADS; slot < FZ_SLOTS; slot++) {
        struct fz_slot *s = &r->sh->slot[slot];

        if (s->state == FZ_ABSENT || fz_watch_over(s))
            continue;
        if (!r->log->broken && !r->pending[slot] && s->state == FZ_IDLE) {
            snprintf(s->line, sizeof(s->line), "k%d exit", slot - FZ_THREADS);
            wake(s);
            await(r, slot, false, r->setup->hang_ms);
        }
        if (s->state == FZ_GONE)
            do_reap(r, slot);
        else
            kill(s->tid, SIGKILL);
    }
}

/* Lets the runner end by itself (exit handlers, counters), or ends it; says how it ended. */
static void finish(struct fz_run *r)
{
    struct fz_slot *s = &r->sh->slot[0];
    char *out = entry_of(r, r->line)->text;
    size_t size = sizeof(r->log->entry->text);
    bool asked = !r->log->broken && !r->pending[0] && s->state == FZ_IDLE;
    struct timespec gap = {0, 200000};

    if (!r->dead)
        kill(r->pid, SIGCONT);
    finish_kids(r);
    if (asked) {
        snprintf(s->line, sizeof(s->line), "t0 exit");
        wake(s);
    } else if (!r->dead)
        kill(r->pid, SIGKILL);
    for (int i = 0; fz_run_alive(r); i++) {
        if (i == 25000) {
            fz_cat(out, size, "DOES NOT EXIT");
            kill(r->pid, SIGKILL);
        }
        nanosleep(&gap, NULL);
    }
    if (r->log->broken)
        return;
    /* SIGKILL leaves nobody the time to put things in order: what the peer sees then is no test */
    if (!asked)
        fz_cat(out, size, "killed by the harness");
    else {
        fz_cat(out, size, "exit status %#x;", r->status);
        fz_peer_final(r, out, size);
    }
}

void fz_run_script(const struct fz_setup *setup, const struct fz_script *s,
                   const struct fz_log *ref, struct fz_log *log)
{
    struct fz_run r = {.setup = setup, .ref = ref, .log = log, .pidfd = -1};
    struct timespec gap = {0, 100000};

    memset(log, 0, sizeof(*log));
    log->n = s->n + 1;
    log->entry = calloc((size_t)log->n, sizeof(*log->entry));
    memset(r.key_conn, -1, sizeof(r.key_conn));
    if (fz_spawn(&r) || fz_peer_open(&r)) {
        fprintf(stderr, "difftest: cannot start a runner: %s\n", strerror(errno));
        exit(3);
    }
    while (r.sh->slot[0].state == FZ_ABSENT && fz_run_alive(&r))
        nanosleep(&gap, NULL);
    if (r.dead)
        give_up(&r, "RUNNER DOES NOT START");
    for (; r.line < s->n && !log->broken; r.line++)
        one_line(&r, s->line[r.line]);
    if (!log->broken)
        r.line = s->n;
    finish(&r);
    fz_peer_close(&r);
    close(r.pidfd);
    close(r.mem);
    munmap(r.sh, sizeof(*r.sh));
    if (setup->leg != FZ_PLAIN)
        fz_counters_read(setup->dir);
}

void fz_log_free(struct fz_log *log)
{
    free(log->entry);
    log->entry = NULL;
    log->n = 0;
}

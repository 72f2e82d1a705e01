/* Who sleeps, who is stopped, who is dead. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

#define CALM_READS 4
#define CALM_GAP_US 120

static long now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

bool fz_run_alive(struct fz_run *r)
{
    if (!r->dead && waitpid(r->pid, &r->status, WNOHANG) == r->pid)
        r->dead = true;
    return !r->dead;
}

/* State letter, and how often the thread has gone to sleep of itself; 0 if it is no more. */
static char thread_state(int tid, long *sleeps)
{
    char path[64], buf[4096], *at;
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    n = read(fd, buf, sizeof(buf) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    buf[n] = 0;
    at = strstr(buf, "\nvoluntary_ctxt_switches:");
    *sleeps = at ? strtol(strchr(at, ':') + 1, NULL, 10) : 0;
    at = strstr(buf, "\nState:\t");
    return at ? at[8] : 0;
}

bool fz_watch_over(const struct fz_slot *s)
{
    long sleeps;
    char letter = thread_state(s->tid, &sleeps);

    return letter == 0 || letter == 'Z' || letter == 'X';
}

/*
 * A thread rests if it is seen in state S several times running with the same count of sleeps:
 * one that only waits its turn for a lock or naps in a back-off loop moves on between two looks.
 */
enum fz_seen fz_watch(struct fz_run *r, int slot, bool sleep_ok, int hang_ms)
{
    struct fz_slot *s = &r->sh->slot[slot];
    long sleeps = 0, last = -1, since = 0, limit = now_us() + (hang_ms ? hang_ms : 1500) * 5000L;
    int calm = 0;

    fz_futex_wait(&s->state, FZ_POSTED, sleep_ok ? 100 : 2000);
    for (;;) {
        uint32_t state = s->state;
        char letter;

        if (state == FZ_DONE || state == FZ_GONE)
            return FZ_SEEN_DONE;
        if (!fz_run_alive(r))
            return FZ_SEEN_DEAD;
        letter = thread_state(s->tid, &sleeps);
        if (slot >= FZ_THREADS && fz_watch_over(s) && s->state != FZ_DONE && s->state != FZ_GONE)
            return FZ_SEEN_DEAD;
        if (letter == 'S' && state == FZ_RUNNING && sleeps == last)
            calm++;
        else {
            calm = 0;
            since = now_us();
        }
        last = sleeps;
        if (sleep_ok && calm >= CALM_READS && s->state == FZ_RUNNING)
            return FZ_SEEN_ASLEEP;
        if (!sleep_ok && calm >= CALM_READS && now_us() - since > hang_ms * 1000L)
            return s->state == FZ_RUNNING ? FZ_SEEN_HANG : FZ_SEEN_DONE;
        if (now_us() > limit) /* it neither ends nor rests */
            return FZ_SEEN_SPINS;
        fz_futex_wait(&s->state, state, calm > 20 ? 2000 : CALM_GAP_US);
    }
}

int fz_watch_stop(struct fz_run *r, bool stopped)
{
    long end = now_us() + 5000000, sleeps;

    for (int i = 0; i < FZ_SLOTS; i++) {
        struct fz_slot *s = &r->sh->slot[i];

        if (i >= FZ_THREADS || s->state == FZ_ABSENT || s->state == FZ_GONE)
            continue;
        while ((thread_state(s->tid, &sleeps) == 'T') != stopped) {
            struct timespec gap = {0, 50000};

            if (now_us() > end || !fz_run_alive(r))
                return -ETIMEDOUT;
            nanosleep(&gap, NULL);
        }
    }
    return 0;
}

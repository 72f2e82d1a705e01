/*
 * Streams read behind our back: libc's own read(). So the first function that takes input from a
 * stream on a socket of ours gives the socket up and pushes what is held into the stream; all
 * others cost one look. Wide characters are left alone, a listed limit.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "hook.h"
#include "life.h"
#include "mem.h"
#include "real.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

#define ALL SIZE_MAX
#define NO_END (-1)

/* How many of the held bytes an unbuffered stream would read for `want`, or up to `end`. s locked. */
static size_t needed(struct pbs_sock *s, size_t want, int end)
{
    size_t held = pbs_sock_unread(s), n = want < held ? want : held;
    uint8_t some[256] = {0};

    for (size_t at = 0; end != NO_END && at < n; at += sizeof(some)) {
        struct iovec iov = {some, sizeof(some)};
        struct pbs_dst dst = {.iov = &iov, .n = 1, .left = sizeof(some)};
        const uint8_t *found;

        pbs_rx_peek_held(s, &dst, at);
        found = memchr(some, end, dst.done);
        if (found)
            return at + (size_t)(found - some) + 1 < n ? at + (size_t)(found - some) + 1 : n;
    }
    return n;
}

/* Takes n held bytes into a mapping of n. Returns how many. */
static size_t take(struct pbs_thread *self, struct pbs_sock *s, uint8_t *bytes, size_t n)
{
    struct iovec iov = {bytes, n};
    struct pbs_dst dst = {.iov = &iov, .n = 1, .left = n};

    pbs_crit_enter(self);
    pbs_lock(&s->file.lock);
    if (s->spill)
        pbs_rx_pull(s, n);
    pbs_sock_take(s, &dst, pbs_ring_home, s);
    pbs_ring_forget(s);
    pbs_unlock(&s->file.lock);
    pbs_crit_leave(self);
    return dst.done;
}

/* Takes out what the program has pushed back. Returns how much that is. */
static size_t take_own(FILE *f, uint8_t *own, size_t room)
{
    size_t n = 0;

    while (n < room && f->_IO_read_ptr < f->_IO_read_end)
        own[n++] = (uint8_t)real.getc_unlocked(f);
    return n;
}

/*
 * Pushes what is held into the stream, behind what the program itself has pushed: all of it, as a
 * buffer would take it, or if there is none what the call asks for: other numbers and processes read
 * the rest.
 */
static void push_back(struct pbs_thread *self, struct pbs_sock *s, FILE *f, size_t want, int end)
{
    bool unbuffered = f->_flags & 2; /* _IO_UNBUFFERED */
    uint8_t own[256], *bytes = NULL;
    size_t n = 0, done, mine = take_own(f, own, sizeof(own));
    bool enough = mine >= want || (end != NO_END && memchr(own, end, mine));

    if (!enough) {
        pbs_crit_enter(self);
        pbs_lock(&s->file.lock);
        n = unbuffered ? needed(s, want == ALL ? ALL : want - mine, end) : pbs_sock_unread(s);
        pbs_unlock(&s->file.lock);
        pbs_crit_leave(self);
    }
    if (n)
        bytes = pbs_mem_map(n);
    if (bytes) {
        for (done = take(self, s, bytes, n); done--;)
            ungetc(bytes[done], f);
        pbs_mem_unmap(bytes, n);
    }
    while (mine--)
        ungetc(own[mine], f);
}

static PBS_COLD void fill(FILE *f, size_t want, int end)
{
    struct pbs_sock *s = (struct pbs_sock *)pbs_fdtab_find(f->_fileno);
    struct pbs_thread *self;
    int saved = errno;

    if (!s || s->file.kind != PBS_FILE_SOCK || pbs_guest())
        return;
    if (s->state != PBS_PASS)
        pbs_release_fd(f->_fileno, PBS_WHY_stdio);
    self = pbs_sock_unread(s) ? pbs_thread_get() : NULL;
    if (self)
        push_back(self, s, f, want, end);
    errno = saved;
}

/* The call asks for so many bytes, or for those up to `end` and no more than that. */
static inline void before_input(FILE *f, size_t want, int end)
{
    if (pbs_unlikely(!pbs_fdtab_miss(f->_fileno)))
        fill(f, want, end);
}

/* ---- the calls; scanf() and its kin by their names: the headers give them others ---- */

PBS_EXPORT int fgetc(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.fgetc(f);
}

PBS_EXPORT int fgetc_unlocked(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.fgetc_unlocked(f);
}

PBS_EXPORT int getc(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.getc(f);
}

PBS_EXPORT int getc_unlocked(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.getc_unlocked(f);
}

PBS_EXPORT int getchar(void)
{
    before_input(stdin, 1, NO_END);
    return real.getchar();
}

PBS_EXPORT int getchar_unlocked(void)
{
    before_input(stdin, 1, NO_END);
    return real.getchar_unlocked();
}

PBS_EXPORT int getw(FILE *f)
{
    before_input(f, sizeof(int), NO_END);
    return real.getw(f);
}

PBS_EXPORT int __uflow(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.__uflow(f);
}

PBS_EXPORT int __underflow(FILE *f)
{
    before_input(f, 1, NO_END);
    return real.__underflow(f);
}

PBS_EXPORT char *fgets(char *s, int n, FILE *f)
{
    before_input(f, n > 0 ? (size_t)n - 1 : 0, '\n');
    return real.fgets(s, n, f);
}

PBS_EXPORT char *fgets_unlocked(char *s, int n, FILE *f)
{
    before_input(f, n > 0 ? (size_t)n - 1 : 0, '\n');
    return real.fgets_unlocked(s, n, f);
}

PBS_EXPORT char *__fgets_chk(char *s, size_t room, int n, FILE *f)
{
    before_input(f, n > 0 ? (size_t)n - 1 : 0, '\n');
    return real.__fgets_chk(s, room, n, f);
}

PBS_EXPORT char *__fgets_unlocked_chk(char *s, size_t room, int n, FILE *f)
{
    before_input(f, n > 0 ? (size_t)n - 1 : 0, '\n');
    return real.__fgets_unlocked_chk(s, room, n, f);
}

PBS_EXPORT char *gets(char *s)
{
    before_input(stdin, ALL, '\n');
    return real.gets(s);
}

PBS_EXPORT char *__gets_chk(char *s, size_t room)
{
    before_input(stdin, ALL, '\n');
    return real.__gets_chk(s, room);
}

PBS_EXPORT size_t fread(void *p, size_t size, size_t n, FILE *f)
{
    before_input(f, size * n, NO_END);
    return real.fread(p, size, n, f);
}

PBS_EXPORT size_t fread_unlocked(void *p, size_t size, size_t n, FILE *f)
{
    before_input(f, size * n, NO_END);
    return real.fread_unlocked(p, size, n, f);
}

PBS_EXPORT size_t __fread_chk(void *p, size_t room, size_t size, size_t n, FILE *f)
{
    before_input(f, size * n, NO_END);
    return real.__fread_chk(p, room, size, n, f);
}

PBS_EXPORT size_t __fread_unlocked_chk(void *p, size_t room, size_t size, size_t n, FILE *f)
{
    before_input(f, size * n, NO_END);
    return real.__fread_unlocked_chk(p, room, size, n, f);
}

PBS_EXPORT ssize_t getline(char **line, size_t *n, FILE *f)
{
    before_input(f, ALL, '\n');
    return real.getline(line, n, f);
}

PBS_EXPORT ssize_t getdelim(char **line, size_t *n, int end, FILE *f)
{
    before_input(f, ALL, (unsigned char)end);
    return real.getdelim(line, n, end, f);
}

#define SCAN(name, args, stream, call)                                                             \
    PBS_EXPORT int hook_##name args __asm__(#name);                                                \
    int hook_##name args                                                                           \
    {                                                                                              \
        before_input(stream, ALL, NO_END);                                                         \
        return call;                                                                               \
    }

/* The same with its arguments behind the format. */
#define SCAN_ALL(name, args, stream, call)                                                         \
    PBS_EXPORT int hook_##name args __asm__(#name);                                                \
    int hook_##name args                                                                           \
    {                                                                                              \
        va_list ap;                                                                                \
        int r;                                                                                     \
                                                                                                   \
        before_input(stream, ALL, NO_END);                                                         \
        va_start(ap, fmt);                                                                         \
        r = call;                                                                                  \
        va_end(ap);                                                                                \
        return r;                                                                                  \
    }

SCAN(vfscanf, (FILE * f, const char *fmt, va_list ap), f, real.vfscanf(f, fmt, ap))
SCAN(__vfscanf, (FILE * f, const char *fmt, va_list ap), f, real.vfscanf(f, fmt, ap))
SCAN(vscanf, (const char *fmt, va_list ap), stdin, real.vscanf(fmt, ap))
SCAN(__isoc99_vfscanf, (FILE * f, const char *fmt, va_list ap), f,
     real.__isoc99_vfscanf(f, fmt, ap))
SCAN(__isoc99_vscanf, (const char *fmt, va_list ap), stdin, real.__isoc99_vscanf(fmt, ap))
SCAN_ALL(fscanf, (FILE * f, const char *fmt, ...), f, real.vfscanf(f, fmt, ap))
SCAN_ALL(scanf, (const char *fmt, ...), stdin, real.vscanf(fmt, ap))
SCAN_ALL(__isoc99_fscanf, (FILE * f, const char *fmt, ...), f, real.__isoc99_vfscanf(f, fmt, ap))
SCAN_ALL(__isoc99_scanf, (const char *fmt, ...), stdin, real.__isoc99_vscanf(fmt, ap))

PBS_EXPORT __typeof__(getc) _IO_getc __attribute__((alias("getc"), copy(getc)));
PBS_EXPORT __typeof__(fgets) _IO_fgets __attribute__((alias("fgets"), copy(fgets)));
PBS_EXPORT __typeof__(fread) _IO_fread __attribute__((alias("fread"), copy(fread)));
PBS_EXPORT __typeof__(getdelim) __getdelim __attribute__((alias("getdelim"), copy(getdelim)));
PBS_EXPORT __typeof__(gets) _IO_gets __attribute__((alias("gets"), copy(gets)));

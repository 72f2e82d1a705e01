#include "handover.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conf.h"
#include "fdtab.h"
#include "gate.h"
#include "life.h"
#include "mem.h"
#include "rx.h"
#include "user.h"

#define MOST_FDS 65536U /* numbers that are looked at for a socket where there is no /proc */

/* A vfork child's array is its parent's memory, where an exec that succeeds leaves it: until the next. */
static void tidy(struct pbs_thread *self)
{
    if (self->left)
        pbs_mem_unmap(self->left, self->left_size);
    self->left = NULL;
}

/* The program's own array and strings: the kernel refuses a bad one, and so nothing is done here. */
static bool begins(const char *s, const char *prefix)
{
    for (; *prefix; s++, prefix++)
        if (!pbs_user_readable(pbs_self, s, 1) || *s != *prefix)
            return false;
    return true;
}

/* How many strings it has; -1: it is bad. *library: this library will be there, too. */
static long look_at(char *const *envp, bool *library)
{
    long n = 0;

    *library = false;
    for (; envp; n++) {
        if (!pbs_user_readable(pbs_self, &envp[n], sizeof(*envp)))
            return -1;
        if (!envp[n])
            break;
        if (begins(envp[n], "LD_PRELOAD="))
            *library = strstr(envp[n], "pbufshim") != NULL;
    }
    return n;
}

/* A number of s outlives the exec. */
static bool stays(struct pbs_sock *s)
{
    unsigned lo = 0;

    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1)
        if (pbs_fdtab_is(fd, &s->file) && !(pbs_sys2(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC))
            return true;
    return false;
}

static void part(struct pbs_handover *h, struct pbs_sock *s, int fd)
{
    struct linger reset = {.l_onoff = 1};
    socklen_t len = sizeof(struct linger);

    if (h->npartings == PBS_PARTINGS || !pbs_sock_unread(s) || !pbs_gate_alone(&s->file) ||
        stays(s))
        return;
    h->parting[h->npartings].fd = fd;
    pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_LINGER, &h->parting[h->npartings++].was, &len);
    pbs_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

void pbs_handover_part(struct pbs_handover *h)
{
    unsigned lo = 0;

    h->npartings = 0;
    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        struct pbs_file *f = pbs_fdtab_find(fd);

        if (f && f->kind == PBS_FILE_SOCK)
            part(h, (struct pbs_sock *)f, fd);
    }
}

char *const *pbs_handover_begin(struct pbs_handover *h, char *const *envp)
{
    bool library = false;
    size_t n = 0;
    long all;

    h->envp = NULL;
    if (!pbs_self || !pbs_spill_name(h->text))
        return envp;
    all = look_at(envp, &library);
    h->size = ((size_t)all + 2) * sizeof(*envp);
    if (library && all >= 0)
        h->envp = pbs_mem_map(h->size);
    if (!h->envp) {
        pbs_spill_keep();
        if (!library && all >= 0) {
            pbs_count(pbs_self, lost_handovers);
            if (pbs_conf.verbose)
                pbs_log(
                    "bytes that nobody has read are lost: the next image is without the library");
        }
        return envp;
    }
    for (long i = 0; i < all; i++)
        if (!begins(envp[i], PBS_SPILL_ENV "="))
            h->envp[n++] = envp[i];
    h->envp[n] = h->text;
    tidy(pbs_self);
    if (pbs_in_vfork_child) {
        pbs_self->left = h->envp;
        pbs_self->left_size = h->size;
    }
    pbs_count(pbs_self, handovers);
    return h->envp;
}

void pbs_handover_end(struct pbs_handover *h)
{
    for (unsigned i = 0; i < h->npartings; i++)
        pbs_sys5(SYS_setsockopt, h->parting[i].fd, SOL_SOCKET, SO_LINGER, &h->parting[i].was,
                 sizeof(struct linger));
    if (!h->envp)
        return;
    pbs_spill_keep();
    pbs_mem_unmap(h->envp, h->size);
    if (pbs_self->left == h->envp)
        pbs_self->left = NULL;
    h->envp = NULL;
}

/* A socket that came over an exec may be anybody's: it is never adopted. */
static struct pbs_sock *receiver(struct pbs_spill *e, int file)
{
    struct pbs_sock *s = pbs_sock_get();

    if (!s)
        return NULL;
    s->tcp = true;
    s->state = PBS_PASS;
    s->file.shared = !e->alone;
    s->spill = e;
    s->spill_file = (uint8_t)file;
    pbs_spill_join(file);
    return s;
}

/* What is unread of e is read by those numbers that stand for its socket. */
struct search {
    struct pbs_spill *e;
    int file;
    struct pbs_sock *s;
};

static void look(struct search *w, unsigned fd)
{
    if (pbs_ask_cookie((int)fd) != w->e->cookie)
        return;
    if (!w->s)
        w->s = receiver(w->e, w->file);
    if (w->s)
        pbs_fdtab_set((int)fd, &w->s->file);
}

/* All open numbers, as /proc has them. False: it has not, or a filter that the image was born under may
 * kill for the question. */
static bool look_at_open(struct search *w)
{
    struct entry {
        uint64_t ino, off;
        unsigned short size;
        unsigned char type;
        char name[];
    };
    _Alignas(struct entry) char buf[4096];
    long dir, n;

    if (pbs_sys5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != 0)
        return false;
    dir = pbs_sys4(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return false;
    while ((n = pbs_sys3(SYS_getdents64, dir, buf, sizeof(buf))) > 0)
        for (struct entry *d = (void *)buf; (char *)d < buf + n; d = (void *)((char *)d + d->size))
            if (d->name[0] != '.')
                look(w, (unsigned)strtoul(d->name, NULL, 10));
    pbs_sys1(SYS_close, dir);
    return n == 0;
}

static void attach(struct pbs_spill *e, int file)
{
    struct search w = {.e = e, .file = file};
    struct rlimit64 lim = {.rlim_cur = MOST_FDS};

    if (look_at_open(&w))
        return;
    pbs_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
    for (unsigned fd = 0; fd < MOST_FDS && fd < lim.rlim_cur; fd++)
        look(&w, fd);
}

struct pbs_file *pbs_handover_known(uint64_t cookie)
{
    struct pbs_spill *e;
    struct pbs_sock *s;
    unsigned lo = 0;
    int file;

    for (int fd; (fd = pbs_fdtab_next(lo, ~0U)) >= 0; lo = (unsigned)fd + 1) {
        s = (struct pbs_sock *)pbs_fdtab_find(fd);

        if (s && s->file.kind == PBS_FILE_SOCK && s->spill && s->spill->cookie == cookie)
            return &s->file;
    }
    e = pbs_spill_find(cookie, &file);
    if (!e)
        return NULL;
    pbs_crit_enter(pbs_self);
    s = receiver(e, file);
    pbs_spill_leave(file);
    pbs_crit_leave(pbs_self);
    return s ? &s->file : NULL;
}

static void ignore(struct pbs_spill *e, int file)
{
    (void)e;
    (void)file;
}

void pbs_handover_receive(bool enabled)
{
    size_t len = strlen(PBS_SPILL_ENV "=");
    char **from, **to, *value = NULL;

    if (!environ)
        return;
    for (from = to = environ; *from; from++) {
        if (strncmp(*from, PBS_SPILL_ENV "=", len) == 0)
            value = *from + len;
        else
            *to++ = *from;
    }
    *to = NULL;
    if (value)
        pbs_spill_inherit(value, enabled ? attach : ignore);
}

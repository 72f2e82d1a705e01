#include "handover.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conf.h"
#include "fdtab.h"
#include "mem.h"
#include "rx.h"
#include "user.h"

#define MOST_FDS 65536U /* numbers that are looked at for a socket */

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
            pbs_log("bytes that nobody has read are lost: the next image is without the library");
        }
        return envp;
    }
    for (long i = 0; i < all; i++)
        if (!begins(envp[i], PBS_SPILL_ENV "="))
            h->envp[n++] = envp[i];
    h->envp[n] = h->text;
    pbs_count(pbs_self, handovers);
    return h->envp;
}

void pbs_handover_end(struct pbs_handover *h)
{
    if (!h->envp)
        return;
    pbs_spill_keep();
    pbs_mem_unmap(h->envp, h->size);
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
    s->file.shared = true;
    s->spill = e;
    s->spill_file = (uint8_t)file;
    pbs_spill_join(file);
    return s;
}

static void attach(struct pbs_spill *e, int file)
{
    struct rlimit64 lim = {.rlim_cur = MOST_FDS};
    struct pbs_sock *s = NULL;

    pbs_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &lim);
    for (unsigned fd = 0; fd < MOST_FDS && fd < lim.rlim_cur; fd++) {
        if (pbs_ask_cookie((int)fd) != e->cookie)
            continue;
        if (!s)
            s = receiver(e, file);
        if (s)
            pbs_fdtab_set((int)fd, &s->file);
    }
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

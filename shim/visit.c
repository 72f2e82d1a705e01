#include "visit.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include "ghost.h"
#include "ring.h"

int pbs_visit_end(int fd, bool unread)
{
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    struct linger l = {0}, none = {0};
    socklen_t len = sizeof(l);
    int queued = 0;

    pbs_sys3(SYS_ioctl, fd, FIONREAD, &queued);
    pbs_sys5(SYS_getsockopt, fd, SOL_SOCKET, SO_LINGER, &l, &len);
    if (unread || queued > 0 || (l.l_onoff && !l.l_linger))
        pbs_sys3(SYS_connect, fd, &unspec, sizeof(unspec));
    else
        pbs_sys2(SYS_shutdown, fd, SHUT_RDWR);
    if (!l.l_onoff)
        return 0;
    pbs_sys5(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    return l.l_linger;
}

/* Leaves it to the visitor. False: that is in its call no more, or was left too many. */
static bool leave(uint64_t visit, int ghost)
{
    struct pbs_thread *visitor = pbs_thread_find((uint32_t)(visit >> 32));
    int mine = ghost + 1, free = 0;

    if (!visitor || pbs_visit_of(visitor) != visit)
        return false;
    for (unsigned i = 0; i < PBS_VISITS; i++, free = 0)
        if (atomic_compare_exchange_strong(&visitor->visits[i], &free, mine))
            /* If the call has ended before it could see this, nobody looks at it soon. */
            return pbs_visit_of(visitor) == visit ||
                   !atomic_compare_exchange_strong(&visitor->visits[i], &mine, 0);
    return false;
}

void pbs_visit_leave(struct pbs_sock *s, int ghost, bool unread)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};

    if (unread)
        pbs_sys5(SYS_setsockopt, ghost, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    atomic_fetch_add(&pbs_attention, 1);
    if (leave(s->visit, ghost))
        return;
    atomic_fetch_sub(&pbs_attention, 1);
    pbs_visit_end(ghost, unread);
    pbs_ghost_close(ghost, false);
}

void pbs_visits_over(struct pbs_thread *self)
{
    for (unsigned i = 0; i < PBS_VISITS; i++) {
        int ghost = atomic_exchange(&self->visits[i], 0) - 1;

        if (ghost < 0)
            continue;
        atomic_fetch_sub(&pbs_attention, 1);
        pbs_visit_end(ghost, false);
        pbs_ghost_close(ghost, false);
    }
}

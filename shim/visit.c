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

bool pbs_visit_leave(struct pbs_sock *s, int fd)
{
    struct pbs_thread *visitor = s->visitor;
    int ghost, mine, free = 0;

    if (!visitor || visitor->call != s->visit || (ghost = pbs_ghost_make(fd)) < 0)
        return false;
    mine = ghost + 1;
    atomic_fetch_add(&pbs_attention, 1);
    for (unsigned i = 0; i < PBS_VISITS; i++, free = 0) {
        if (!atomic_compare_exchange_strong(&visitor->visits[i], &free, mine))
            continue;
        /* Its call ended before it could see this: then nobody looks at it soon. */
        if (visitor->call == s->visit ||
            !atomic_compare_exchange_strong(&visitor->visits[i], &mine, 0))
            return true;
        break;
    }
    atomic_fetch_sub(&pbs_attention, 1);
    pbs_ghost_close(ghost, false);
    return false;
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

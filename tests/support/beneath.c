/*
 * A library between a program and libc: calls that wait, with a stop just before the system call. So
 * the last moment before a sleep, which a signal meets once in a million times, comes when a test
 * wants it. A program that links it finds these functions before libc's, and so does what is
 * preloaded into the program and asks for the next ones.
 */
#include "beneath.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>

#include "raw.h"

void (*beneath_sleep)(void);

static void stop(void)
{
    void (*act)(void) = beneath_sleep;

    beneath_sleep = NULL;
    if (act)
        act();
}

static long ret(long r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

int epoll_wait(int ep, struct epoll_event *ev, int max, int timeout)
{
    if (timeout)
        stop();
    return (int)ret(RAW6(SYS_epoll_pwait, ep, ev, max, timeout, NULL, 8));
}

int epoll_pwait(int ep, struct epoll_event *ev, int max, int timeout, const sigset_t *mask)
{
    if (timeout)
        stop();
    return (int)ret(RAW6(SYS_epoll_pwait, ep, ev, max, timeout, mask, 8));
}

int poll(struct pollfd *set, nfds_t n, int timeout)
{
    if (timeout)
        stop();
    return (int)ret(RAW3(SYS_poll, set, n, timeout));
}

int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
    if (!timeout || timeout->tv_sec || timeout->tv_usec)
        stop();
    return (int)ret(RAW5(SYS_select, n, rd, wr, ex, timeout));
}

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    if (!(flags & MSG_DONTWAIT))
        stop();
    return ret(RAW6(SYS_recvfrom, fd, buf, len, flags, NULL, NULL));
}

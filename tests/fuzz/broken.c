/*
 * A preload that is wrong on purpose, so that the tester itself is tested. FZ_BROKEN=drop loses the
 * first byte of a long receive, edge loses epoll's report of a socket now and then, errno gives a
 * wrong one, eof makes up an end, steal takes a descriptor number, pile loses a byte of a socket on
 * which much lies unread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
    static ssize_t (*next)(int, void *, size_t, int);
    const char *how = getenv("FZ_BROKEN");
    int unread = 0;
    ssize_t n;

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "recv");
    if (!how)
        return next(fd, buf, len, flags);
    if (!strcmp(how, "eof") && len == 7)
        return 0;
    if (!strcmp(how, "pile"))
        ioctl(fd, FIONREAD, &unread);
    n = next(fd, buf, len, flags);
    if ((unread > 150000 || !strcmp(how, "drop")) && n > 100 && !(flags & MSG_TRUNC)) {
        memmove(buf, (char *)buf + 1, (size_t)n - 1);
        n--;
    }
    if (!strcmp(how, "errno") && n < 0 && errno == EAGAIN)
        errno = EINTR;
    if (!strcmp(how, "steal"))
        fcntl(fd, F_DUPFD, 0);
    return n;
}

int epoll_wait(int epfd, struct epoll_event *ev, int max, int timeout)
{
    static int (*next)(int, struct epoll_event *, int, int);
    const char *how = getenv("FZ_BROKEN");
    static unsigned calls;
    int n;

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "epoll_wait");
    n = next(epfd, ev, max, timeout);
    if (how && !strcmp(how, "edge") && n > 0 && ++calls % 3 == 0)
        n--;
    return n;
}

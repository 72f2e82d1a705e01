/* Loaded by bound_past.c. */
#include <poll.h>
#include <sys/socket.h>

int plugin_poll(struct pollfd *fds, nfds_t n, int timeout);
int plugin_poll(struct pollfd *fds, nfds_t n, int timeout)
{
    return poll(fds, n, timeout);
}

ssize_t plugin_recv(int fd, void *to, size_t n, int flags);
ssize_t plugin_recv(int fd, void *to, size_t n, int flags)
{
    return recv(fd, to, n, flags);
}

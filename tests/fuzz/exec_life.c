/* Making, naming, closing sockets; their options. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

/* Room for all that a script may leave unread; set before listen and connect. */
static void widen(int fd)
{
    int size = FZ_RCVBUF;

    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

static socklen_t loopback(struct sockaddr_storage *ss, int family, int port)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

    memset(ss, 0, sizeof(*ss));
    ss->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        in->sin_port = htons((uint16_t)port);
        return sizeof(*in);
    }
    in6->sin6_addr = in6addr_loopback;
    in6->sin6_port = htons((uint16_t)port);
    return sizeof(*in6);
}

static void do_listen(struct fz_slot *s, const struct fz_op *op)
{
    int l = fz_ref(fz_word(op, 0), 'l', FZ_LISTENERS), one = 1, ret;
    int family = fz_num(op, "family", 4) == 6 ? AF_INET6 : AF_INET;
    int fd = socket(family, SOCK_STREAM, 0);
    struct sockaddr_storage ss;
    socklen_t len = loopback(&ss, family, 0);

    if (l < 0)
        return;
    widen(fd);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    ret = bind(fd, (struct sockaddr *)&ss, len);
    if (!ret)
        ret = listen(fd, 16);
    fz_result(s, ret ? ret : fd, errno);
    getsockname(fd, (struct sockaddr *)&ss, &len);
    fz_sh->port[l] = ntohs(((struct sockaddr_in *)&ss)->sin_port); /* the same place in IPv6 */
    fz_sh->family[l] = family;
    fz_sh->listener[l] = fd;
}

static void do_accept(struct fz_slot *s, const struct fz_op *op)
{
    int var = fz_ref(fz_word(op, 0), 'f', FZ_FDS), l = fz_ref(fz_word(op, 1), 'l', FZ_LISTENERS);
    int conn = fz_ref(fz_word(op, 2), 'c', FZ_CONNS), fd, flags = 0;
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (fz_num(op, "nonblock", 0))
        flags |= SOCK_NONBLOCK;
    if (fz_num(op, "cloexec", 0))
        flags |= SOCK_CLOEXEC;
    if (strcmp(fz_str(op, "kind", "accept"), "accept4"))
        fd = accept(l < 0 ? -1 : fz_sh->listener[l], NULL, NULL);
    else
        fd = accept4(l < 0 ? -1 : fz_sh->listener[l], (struct sockaddr *)&ss, &len, flags);
    fz_result(s, fd, errno);
    fz_fd_set(var, fd, conn);
}

static void do_connect(struct fz_slot *s, const struct fz_op *op)
{
    int var = fz_ref(fz_word(op, 0), 'f', FZ_FDS), conn = fz_ref(fz_word(op, 1), 'c', FZ_CONNS);
    bool six = fz_num(op, "family", 4) == 6;
    int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0), ret;
    struct sockaddr_storage ss;
    socklen_t len = loopback(&ss, six ? AF_INET6 : AF_INET, fz_sh->peer_port[six]);

    widen(fd);
    ret = connect(fd, (struct sockaddr *)&ss, len);
    fz_result(s, ret ? ret : fd, errno);
    fz_fd_set(var, fd, conn);
}

static void do_dup(struct fz_slot *s, const struct fz_op *op)
{
    const char *kind = fz_str(op, "kind", "dup");
    int var = fz_ref(fz_word(op, 0), 'f', FZ_FDS), conn, old = fz_fd_of(op, 1, &conn), fd;
    int over = var < 0 ? -1 : fz_fds[var].num;

    if (!strcmp(kind, "dup2"))
        fd = dup2(old, over);
    else if (!strcmp(kind, "dup3"))
        fd = dup3(old, over, O_CLOEXEC);
    else if (!strcmp(kind, "dupfd"))
        fd = fcntl(old, F_DUPFD, (int)fz_num(op, "min", 0));
    else if (!strcmp(kind, "dupfd_cloexec"))
        fd = fcntl(old, F_DUPFD_CLOEXEC, (int)fz_num(op, "min", 0));
    else
        fd = dup(old);
    fz_result(s, fd, errno);
    if (fd < 0)
        return;
    if (fd == over && fd != old)
        fz_fd_closed(over);
    fz_fd_set(var, fd, conn);
}

static void do_close(struct fz_slot *s, const struct fz_op *op)
{
    int fd = fz_fd_of(op, 0, NULL), ret = close(fd);

    fz_result(s, ret, errno);
    if (!ret)
        fz_fd_closed(fd);
}

static void do_close_range(struct fz_slot *s, const struct fz_op *op)
{
    int from = fz_fd_of(op, 0, NULL), to = fz_fd_of(op, 1, NULL), ret;

    if (from < 3 || to < from)
        return;
    ret = close_range((unsigned)from, (unsigned)to, 0);
    fz_result(s, ret, errno);
    for (int fd = from; fd <= to && !ret; fd++)
        fz_fd_closed(fd);
}

/* The peer's kernel has taken note of our end: its answer, which it may put off for 40 ms, is an event
 * of its own, at an edge. */
static void settle_end(int fd)
{
    for (int i = 0; i < 300; i++) {
        struct timespec nap = {0, 500000};
        struct tcp_info ti = {0};
        socklen_t len = sizeof(ti);

        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) ||
            (ti.tcpi_state != TCP_FIN_WAIT1 && ti.tcpi_state != TCP_CLOSING &&
             ti.tcpi_state != TCP_LAST_ACK))
            return;
        nanosleep(&nap, NULL);
    }
}

bool fz_exec_life(struct fz_slot *s, const struct fz_op *op)
{
    static const struct fz_name how[] = {{"WR", SHUT_WR}, {"RDWR", SHUT_RDWR}, {NULL, 0}};

    if (!strcmp(op->verb, "listen"))
        do_listen(s, op);
    else if (!strcmp(op->verb, "accept"))
        do_accept(s, op);
    else if (!strcmp(op->verb, "connect"))
        do_connect(s, op);
    else if (!strcmp(op->verb, "dup"))
        do_dup(s, op);
    else if (!strcmp(op->verb, "close"))
        do_close(s, op);
    else if (!strcmp(op->verb, "close_range"))
        do_close_range(s, op);
    else if (!strcmp(op->verb, "shutdown")) {
        int fd = fz_fd_of(op, 0, NULL);
        int ret = shutdown(fd, (int)fz_flags(fz_word(op, 1), how)), err = errno;

        settle_end(fd);
        fz_result(s, ret, err);
    } else
        return false;
    return true;
}

/* set fN NONBLOCK|TIMEO|LOWAT|OOBINLINE value= */
static void do_set(struct fz_slot *s, const struct fz_op *op)
{
    int conn, fd = fz_fd_of(op, 0, &conn), val = (int)fz_num(op, "value", 0), ret;
    struct timeval tv = {val / 1000, val % 1000 * 1000};
    const char *what = fz_word(op, 1);

    if (!strcmp(what, "NONBLOCK") && !strcmp(fz_str(op, "via", "fcntl"), "fcntl")) {
        ret = fcntl(fd, F_GETFL);
        if (ret >= 0)
            ret = fcntl(fd, F_SETFL, val ? ret | O_NONBLOCK : ret & ~O_NONBLOCK);
    } else if (!strcmp(what, "NONBLOCK"))
        ret = ioctl(fd, FIONBIO, &val);
    else if (!strcmp(what, "TIMEO"))
        ret = setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    else if (!strcmp(what, "LOWAT"))
        ret = setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &val, sizeof(val));
    else {
        ret = setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &val, sizeof(val));
        if (!ret && conn >= 0)
            fz_sh->inl[conn] = val;
    }
    fz_result(s, ret, errno);
}

/* get fN ERROR|LOWAT|TIMEO|OOBINLINE|FIONREAD|SIOCINQ|ATMARK|FL|TYPE */
static void do_get(struct fz_slot *s, const struct fz_op *op)
{
    static const struct fz_name opt[] = {{"ERROR", SO_ERROR},           {"LOWAT", SO_RCVLOWAT},
                                         {"OOBINLINE", SO_OOBINLINE},   {"TYPE", SO_TYPE},
                                         {"ACCEPTCONN", SO_ACCEPTCONN}, {NULL, 0}};
    int fd = fz_fd_of(op, 0, NULL), val = -7, ret;
    const char *what = fz_word(op, 1);
    socklen_t len = sizeof(val);
    struct timeval tv = {0, 0};

    if (!strcmp(what, "FIONREAD") || !strcmp(what, "SIOCINQ"))
        ret = ioctl(fd, SIOCINQ, &val);
    else if (!strcmp(what, "ATMARK"))
        ret = ioctl(fd, SIOCATMARK, &val);
    else if (!strcmp(what, "FL"))
        ret = val = fcntl(fd, F_GETFL);
    else if (!strcmp(what, "TIMEO")) {
        len = sizeof(tv);
        ret = getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len);
        val = (int)(tv.tv_sec * 1000 + tv.tv_usec / 1000);
    } else
        ret = getsockopt(fd, SOL_SOCKET, (int)fz_flags(what, opt), &val, &len);
    fz_result(s, ret, errno);
    if (ret >= 0)
        fz_text(s, " %d", val);
}

bool fz_exec_opt(struct fz_slot *s, const struct fz_op *op)
{
    if (!strcmp(op->verb, "set"))
        do_set(s, op);
    else if (!strcmp(op->verb, "get"))
        do_get(s, op);
    else
        return false;
    return true;
}

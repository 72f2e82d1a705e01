/*
 * The other end of each connection, never under the interposer. What it sends has arrived when
 * its line is done: it asks the kernel how far the runner's own socket has come (TCP_INFO by
 * pidfd_getfd, a reference held only for that), because its own view waits for delayed ACKs. The
 * socket's lock orders that answer behind the wake-ups of whoever sleeps on it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

#define PATIENCE_MS 4000
#define CHUNK 65536
/* linux/tcp.h has tcpi_bytes_received, netinet/tcp.h the names of the states */
#define STATE_FIN_WAIT1 4
#define STATE_CLOSE 7

/* A process that is no more has nothing open, whatever its table says. */
static int number_in(struct fz_run *r, int proc, const struct fz_fd *f, int c)
{
    int pidfd = r->pidfd, fd;

    if (!f->open || f->conn != c || f->num < 0)
        return -1;
    if (proc) {
        const struct fz_slot *kid = &r->sh->slot[FZ_THREADS + proc - 1];

        if (kid->state == FZ_ABSENT || kid->state == FZ_GONE)
            return -1;
        pidfd = (int)syscall(SYS_pidfd_open, kid->tid, 0);
    }
    fd = (int)syscall(SYS_pidfd_getfd, pidfd, f->num, 0);
    if (proc && pidfd >= 0)
        close(pidfd);
    return fd;
}

static int runner_socket(struct fz_run *r, int c)
{
    int fd = -1;

    for (int proc = 0; proc < FZ_PROCS && fd < 0; proc++)
        for (int i = 0; i < FZ_FDS && fd < 0; i++)
            fd = number_in(r, proc, &r->sh->fd[proc][i], c);
    return fd;
}

static bool arrived(int fd, const struct fz_peer *p)
{
    struct tcp_info ti;
    socklen_t len = sizeof(ti);

    memset(&ti, 0, sizeof(ti));
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) || ti.tcpi_state == STATE_CLOSE)
        return true;
    if (p->rst)
        return false;
    return ti.tcpi_bytes_received >= p->sent + (p->fin ? 1 : 0);
}

/* Ends with fd; without one (all numbers closed, a call still asleep on it) the join is the order.
 */
static void settle(struct fz_run *r, int fd, const struct fz_peer *p, char *out, size_t size)
{
    struct timespec gap = {0, 30000};
    int tries = 0;

    if (fd < 0)
        return;
    while (!arrived(fd, p)) {
        if (++tries > PATIENCE_MS * 10 || !fz_run_alive(r)) {
            fz_cat(out, size, " DID NOT ARRIVE");
            r->log->broken = true;
            break;
        }
        nanosleep(&gap, NULL);
    }
    close(fd);
}

static void ready(struct fz_run *r, struct fz_peer *p, int fd)
{
    int ms = r->setup->hang_ms * 2;
    struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    int one = 1, size = 4 << 20;

    memset(p, 0, sizeof(*p));
    p->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

static void do_connect(struct fz_run *r, struct fz_peer *p, int l, char *out, size_t size)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    bool six = l >= 0 && r->sh->family[l] == AF_INET6;
    int fd, ret;

    if (l < 0 || !r->sh->port[l])
        return;
    fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in.sin_port = in6.sin6_port = htons((uint16_t)r->sh->port[l]);
    in6.sin6_addr = in6addr_loopback;
    ret = connect(fd, six ? (void *)&in6 : (void *)&in, six ? sizeof(in6) : sizeof(in));
    fz_cat(out, size, "%s", ret ? strerrorname_np(errno) : "ok");
    ready(r, p, fd);
}

static void do_accept(struct fz_run *r, struct fz_peer *p, bool six, char *out, size_t size)
{
    struct pollfd pf = {r->listener[six], POLLIN, 0};
    int fd = poll(&pf, 1, 0) == 1 ? accept4(pf.fd, NULL, NULL, SOCK_CLOEXEC) : -1;

    fz_cat(out, size, "%s", fd < 0 ? "nobody" : "ok");
    if (fd >= 0)
        ready(r, p, fd);
}

static void do_send(struct fz_run *r, int c, const struct fz_op *op, char *out, size_t size)
{
    static unsigned char buf[CHUNK * 4];
    struct fz_peer *p = &r->peer[c];
    long len = fz_num(op, "len", 1);
    int fd = runner_socket(r, c);
    bool urgent = fz_num(op, "oob", 0);
    long piece = fz_num(op, "piece", 0), done = 0;
    ssize_t n;

    if (len < 0 || len > (long)sizeof(buf))
        len = sizeof(buf);
    for (long i = 0; i < len; i++)
        buf[i] = fz_byte((unsigned)c, p->sent + (uint64_t)i);
    if (urgent)
        r->sh->oob_at[c] = p->sent + (uint64_t)len;
    if (piece < 1 || piece > len)
        piece = len;
    do {
        n = send(p->fd, buf + done, (size_t)(len - done < piece ? len - done : piece),
                 MSG_NOSIGNAL | (urgent ? MSG_OOB : 0));
        done += n > 0 ? n : 0;
    } while (n > 0 && done < len);
    fz_cat(out, size, "%ld", done ? done : (long)n);
    p->sent += (uint64_t)done;
    settle(r, done && !strcmp(op->verb, "send") ? fd : (close(fd), -1), p, out, size);
}

static void do_end(struct fz_run *r, int c, const char *how, char *out, size_t size)
{
    struct linger abort_it = {1, 0};
    struct fz_peer *p = &r->peer[c];
    int fd = runner_socket(r, c), queued = 0;

    if (!strcmp(how, "shut")) {
        p->fin = true;
        shutdown(p->fd, SHUT_WR);
    } else {
        ioctl(p->fd, FIONREAD, &queued);
        if (!strcmp(how, "rst"))
            setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
        if (!strcmp(how, "rst") || queued)
            p->rst = true;
        p->fin = true;
        close(p->fd);
        p->fd = -1;
    }
    settle(r, fd, p, out, size);
    fz_cat(out, size, "ok");
}

/* Reads up to want bytes, or to the end (want < 0); names the end. */
static void do_recv(struct fz_run *r, int c, long want, int flags, char *out, size_t size)
{
    struct fz_peer *p = &r->peer[c];
    static unsigned char buf[CHUNK];
    long got = 0;
    ssize_t n = 1;

    while (want < 0 || got < want) {
        long room = want < 0 || want - got > CHUNK ? CHUNK : want - got;

        n = recv(p->fd, buf, (size_t)room, flags);
        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] == fz_byte(FZ_TO_PEER(c), p->seen + (uint64_t)i))
                continue;
            fz_cat(out, size, "BYTES WRONG at offset %llu ", (unsigned long long)p->seen + i);
            break;
        }
        p->seen += (uint64_t)n;
        got += n;
    }
    fz_cat(out, size, "%ld bytes%s", got, want >= 0 && got == want ? "" : ", ");
    if (n == 0)
        fz_cat(out, size, "FIN");
    else if (n < 0 && errno == EAGAIN && !flags) {
        /* what the plain run waits for in vain is a fault of the script */
        r->log->broken |= r->setup->leg == FZ_PLAIN;
        fz_cat(out, size, "TIMEOUT");
    } else if (n < 0)
        fz_cat(out, size, "%s", errno == EAGAIN ? "open" : strerrorname_np(errno));
}

/*
 * What we have read is acknowledged, and the runner's kernel knows: buffer space and the end of
 * FIN_WAIT1 are edges, too, and a delayed ACK would bring them in the middle of a later line.
 */
static void acknowledge(struct fz_run *r, int c, char *out, size_t size)
{
    struct timespec gap = {0, 30000};
    int fd = runner_socket(r, c), one = 1;

    if (fd < 0)
        return;
    for (int i = 0; i < PATIENCE_MS * 10; i++) {
        struct tcp_info ti;
        socklen_t len = sizeof(ti);

        memset(&ti, 0, sizeof(ti));
        setsockopt(r->peer[c].fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one));
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) ||
            (!ti.tcpi_unacked && !ti.tcpi_notsent_bytes && ti.tcpi_state != STATE_FIN_WAIT1)) {
            close(fd);
            return;
        }
        nanosleep(&gap, NULL);
    }
    close(fd);
    fz_cat(out, size, " NOT ACKNOWLEDGED");
}

/* waitstate cN: until the runner's socket is closed by what the peer's kernel answered */
static void do_waitstate(struct fz_run *r, int c, char *out, size_t size)
{
    struct fz_peer gone = {.fd = -1, .rst = true};

    settle(r, runner_socket(r, c), &gone, out, size);
    fz_cat(out, size, "closed");
}

void fz_peer_op(struct fz_run *r, const struct fz_op *op, char *out, size_t size)
{
    int c = fz_ref(fz_word(op, 0), 'c', FZ_CONNS);
    struct fz_peer *p;

    if (c < 0)
        return;
    p = &r->peer[c];
    if (!strcmp(op->verb, "waitstate"))
        do_waitstate(r, c, out, size);
    else if (p->fd < 0 && !strcmp(op->verb, "connect"))
        do_connect(r, p, fz_ref(fz_word(op, 1), 'l', FZ_LISTENERS), out, size);
    else if (p->fd < 0 && !strcmp(op->verb, "accept"))
        do_accept(r, p, fz_num(op, "family", 4) == 6, out, size);
    else if (p->fd < 0)
        fz_cat(out, size, "no connection");
    else if (!strcmp(op->verb, "send") || !strcmp(op->verb, "push"))
        do_send(r, c, op, out, size);
    else if (!strcmp(op->verb, "shut") || !strcmp(op->verb, "close") || !strcmp(op->verb, "rst"))
        do_end(r, c, op->verb, out, size);
    else if (!strcmp(op->verb, "recv"))
        do_recv(r, c, fz_num(op, "len", 1), 0, out, size), acknowledge(r, c, out, size);
    else if (!strcmp(op->verb, "end"))
        do_recv(r, c, -1, 0, out, size), acknowledge(r, c, out, size);
    else if (!strcmp(op->verb, "quiet"))
        do_recv(r, c, -1, MSG_DONTWAIT, out, size);
}

/* After the runner has gone: how did each connection end? */
void fz_peer_final(struct fz_run *r, char *out, size_t size)
{
    for (int c = 0; c < FZ_CONNS; c++) {
        if (r->peer[c].fd < 0)
            continue;
        fz_cat(out, size, " c%d: ", c);
        do_recv(r, c, -1, 0, out, size);
    }
}

/* Resets what is left: no connection of this script stays behind in TIME_WAIT. */
void fz_peer_close(struct fz_run *r)
{
    struct linger abort_it = {1, 0};

    for (int c = 0; c < FZ_CONNS; c++) {
        if (r->peer[c].fd < 0)
            continue;
        setsockopt(r->peer[c].fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
        close(r->peer[c].fd);
        r->peer[c].fd = -1;
    }
    close(r->listener[0]);
    if (r->listener[1] >= 0)
        close(r->listener[1]);
}

int fz_peer_open(struct fz_run *r)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    struct sockaddr *sa[2] = {(struct sockaddr *)&in, (struct sockaddr *)&in6};
    socklen_t len[2] = {sizeof(in), sizeof(in6)};

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    in6.sin6_addr = in6addr_loopback;
    r->listener[0] = r->listener[1] = -1;
    for (int c = 0; c < FZ_CONNS; c++)
        r->peer[c].fd = -1;
    for (int i = 0; i < 2; i++) {
        r->listener[i] = socket(i ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(r->listener[i], sa[i], len[i]) || listen(r->listener[i], 16) ||
            getsockname(r->listener[i], sa[i], &len[i]))
            return i ? 0 : -errno; /* a host without IPv6 */
    }
    r->sh->peer_port[0] = ntohs(in.sin_port);
    r->sh->peer_port[1] = ntohs(in6.sin6_port);
    return 0;
}

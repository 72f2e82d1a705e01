/* Receiving and sending, with buffers good and bad. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "exec.h"

#define ARENA (256 * 1024)
#define PAGE 4096
#define MAX_IOV 8
#define FILL 0xa5
#define LOOK 1000000 /* how far from its place a byte is looked for */

/* One arena a thread: usable memory, a page that is not there, a page that is read-only. */
struct arena {
    unsigned char *mem, *hole, *readonly, *linear;
};

static __thread struct arena arena;

struct buffers {
    int n;
    long total;
    bool wild;
    struct iovec iov[MAX_IOV];
};

static void arena_open(void)
{
    unsigned char *m;

    if (arena.mem)
        return;
    m = mmap(NULL, 2 * ARENA + 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
             0);
    if (m == MAP_FAILED)
        abort();
    arena.mem = m;
    arena.hole = m + ARENA;
    arena.readonly = m + ARENA + PAGE;
    arena.linear = m + ARENA + 2 * PAGE;
    mprotect(arena.hole, PAGE, PROT_NONE);
    mprotect(arena.readonly, PAGE, PROT_READ);
}

/* len=a,b,c and ptr=: the last piece is the odd one; the others lie a byte apart. */
static void lay_out(struct buffers *b, const struct fz_op *op)
{
    const char *lens = fz_str(op, "len", "1"), *ptr = fz_str(op, "ptr", "ok");
    unsigned char *at = arena.mem + fz_num(op, "skew", 1);
    char *end;

    memset(b, 0, sizeof(*b));
    while (*lens && b->n < MAX_IOV) {
        long len = strtol(lens, &end, 0);

        if (end == lens)
            break;
        b->iov[b->n].iov_base = at;
        b->iov[b->n++].iov_len = (size_t)len;
        b->total += len;
        at += len + 1;
        lens = *end == ',' ? end + 1 : end;
    }
    if (b->n) {
        struct iovec *last = &b->iov[b->n - 1];

        if (!strcmp(ptr, "edge"))
            last->iov_base = arena.hole - last->iov_len;
        else if (!strncmp(ptr, "part:", 5))
            last->iov_base = arena.hole - strtol(ptr + 5, NULL, 0);
        else if (!strcmp(ptr, "null"))
            last->iov_base = NULL;
        else if (!strcmp(ptr, "hole"))
            last->iov_base = arena.hole + 7;
        else if (!strcmp(ptr, "readonly"))
            last->iov_base = arena.readonly + 5;
        else if (!strcmp(ptr, "kernel"))
            last->iov_base = (void *)0xffff800000001000ul;
        b->wild = strcmp(ptr, "ok") && strcmp(ptr, "edge");
    }
    if (!b->wild && b->total > 0 && b->total < ARENA / 2)
        for (int i = 0; i < b->n; i++)
            memset(b->iov[i].iov_base, FILL, b->iov[i].iov_len);
}

/* Collects got bytes; says so if a byte behind them was written. */
static const unsigned char *gather(struct fz_slot *s, const struct buffers *b, long got)
{
    long at = 0;

    for (int i = 0; i < b->n; i++) {
        long len = (long)b->iov[i].iov_len, have;

        if (len < 0)
            len = LONG_MAX;
        have = got - at < len ? got - at : len;
        if (have > 0 && at + have <= ARENA)
            memcpy(arena.linear + at, b->iov[i].iov_base, (size_t)have);
        if (!b->wild && b->total < ARENA / 2 && have < len &&
            ((unsigned char *)b->iov[i].iov_base)[have] != FILL)
            fz_text(s, " OVERRUN in piece %d", i);
        at += have;
    }
    return arena.linear;
}

/* Where in the stream do these bytes stand, if not where they are due? */
static long look_for(int conn, uint64_t due, const unsigned char *data, long len)
{
    uint64_t from = due > LOOK ? due - LOOK : 0;

    for (uint64_t off = from; off < due + LOOK; off++) {
        long i = 0;

        while (i < len && i < 8 && fz_byte((unsigned)conn, off + (uint64_t)i) == data[i])
            i++;
        if (i == len || i == 8)
            return (long)off;
    }
    return -1;
}

void fz_check(int conn, const unsigned char *data, long len, bool take, char *out, size_t size)
{
    uint64_t start, off, oob;

    if (conn < 0)
        return;
    start = off = fz_sh->rx_off[conn];
    oob = fz_sh->inl[conn] ? 0 : fz_sh->oob_at[conn];
    for (long i = 0; i < len; i++, off++) {
        if (oob == off + 1) /* the urgent byte stands beside the stream */
            off++;
        if (data[i] == fz_byte((unsigned)conn, off))
            continue;
        fz_cat(out, size, " c%d BYTES WRONG: wanted offset %llu, got %ld, at byte %ld", conn,
               (unsigned long long)off, look_for(conn, off, data + i, len - i), i);
        off += (uint64_t)(len - i);
        break;
    }
    fz_cat(out, size, " c%d[%llu..%llu)", conn, (unsigned long long)start, (unsigned long long)off);
    if (take)
        fz_sh->rx_off[conn] = off;
}

/*
 * A short count is the one freedom a stream socket has. If the reference got more from this line
 * than we did, the rest must be there at once.
 */
static long top_up(struct fz_slot *s, int fd, int conn, long got, int flags)
{
    while (got < s->want && s->want <= ARENA) {
        ssize_t n =
            recv(fd, arena.linear, (size_t)(s->want - got), MSG_DONTWAIT | (flags & MSG_TRUNC));

        if (n <= 0)
            break;
        s->topups++;
        if (flags & MSG_TRUNC)
            fz_sh->rx_off[conn] += (uint64_t)n;
        else {
            char text[FZ_LINE] = "";

            fz_check(conn, arena.linear, n, true, text, sizeof(text));
            if (strstr(text, "WRONG"))
                fz_text(s, " top-up%s", text);
        }
        got += n;
    }
    return got;
}

struct extras {
    struct sockaddr_storage addr;
    socklen_t alen;
    char ctl[128];
    struct msghdr mh;
    struct mmsghdr mm[MAX_IOV];
};

static long receive(struct fz_slot *s, const struct fz_op *op, int fd, struct buffers *b, int flags,
                    struct extras *x)
{
    const char *kind = fz_str(op, "kind", "recv");
    struct iovec *v = b->iov;
    long total = 0, ret;

    x->alen = (socklen_t)fz_num(op, "addr", 0);
    if (!strcmp(kind, "read"))
        return read(fd, v->iov_base, v->iov_len);
    if (!strcmp(kind, "readv"))
        return readv(fd, v, b->n);
    if (!strcmp(kind, "preadv2"))
        return preadv2(fd, v, b->n, -1, fz_num(op, "nowait", 0) ? RWF_NOWAIT : 0);
    if (!strcmp(kind, "recvfrom"))
        return recvfrom(fd, v->iov_base, v->iov_len, flags,
                        x->alen ? (struct sockaddr *)&x->addr : NULL, x->alen ? &x->alen : NULL);
    if (!strcmp(kind, "recvmsg")) {
        x->mh.msg_iov = v;
        x->mh.msg_iovlen = (size_t)b->n;
        x->mh.msg_name = x->alen ? &x->addr : NULL;
        x->mh.msg_namelen = x->alen;
        x->mh.msg_controllen = (size_t)fz_num(op, "ctl", 0);
        x->mh.msg_control = x->mh.msg_controllen ? x->ctl : NULL;
        x->mh.msg_flags = 0x5a5a;
        return recvmsg(fd, &x->mh, flags);
    }
    if (strcmp(kind, "recvmmsg"))
        return recv(fd, v->iov_base, v->iov_len, flags);
    for (int i = 0; i < b->n; i++) {
        x->mm[i].msg_hdr.msg_iov = &v[i];
        x->mm[i].msg_hdr.msg_iovlen = 1;
    }
    ret = recvmmsg(fd, x->mm, (unsigned)b->n, flags, NULL);
    for (int i = 0; i < ret; i++) {
        fz_cat(s->soft, sizeof(s->soft), " m%d:%u/%x", i, x->mm[i].msg_len,
               x->mm[i].msg_hdr.msg_flags);
        total += x->mm[i].msg_len;
        v[i].iov_len = x->mm[i].msg_len;
    }
    return ret < 0 ? ret : total;
}

static void do_recv(struct fz_slot *s, const struct fz_op *op)
{
    int flags = (int)fz_flags(fz_str(op, "flags", ""), fz_msg_flags), conn, err;
    int fd = fz_fd_of(op, 0, &conn);
    struct extras x = {.alen = 0};
    struct buffers b;
    char text[FZ_TEXT] = "";
    long ret, total;

    arena_open();
    lay_out(&b, op);
    ret = receive(s, op, fd, &b, flags, &x);
    err = errno;
    total = ret;
    if (ret > 0 && conn >= 0) {
        if (flags & MSG_OOB)
            fz_cat(text, sizeof(text), " urgent %02x", gather(s, &b, ret)[0]);
        else if (!(flags & MSG_TRUNC))
            fz_check(conn, gather(s, &b, ret), ret, !(flags & MSG_PEEK), text, sizeof(text));
        else if (!(flags & MSG_PEEK))
            fz_sh->rx_off[conn] += (uint64_t)ret;
        if (!(flags & (MSG_PEEK | MSG_OOB)) && ret < s->want) {
            total = top_up(s, fd, conn, ret, flags);
            if (total > ret && !strstr(text, "WRONG") && !(flags & MSG_TRUNC)) {
                text[0] = 0;
                fz_cat(text, sizeof(text), " c%d[%llu..%llu)", conn,
                       (unsigned long long)fz_sh->rx_off[conn] - (unsigned long long)total,
                       (unsigned long long)fz_sh->rx_off[conn]);
            }
        }
    }
    fz_result(s, total, err);
    fz_text(s, "%s", text);
    if (!strcmp(fz_str(op, "kind", ""), "recvfrom") && fz_num(op, "addr", 0))
        fz_text(s, " alen=%u", x.alen);
    if (!strcmp(fz_str(op, "kind", ""), "recvmsg") && ret >= 0)
        fz_text(s, " flags=%#x namelen=%u ctl=%zu", x.mh.msg_flags, x.mh.msg_namelen,
                x.mh.msg_controllen);
}

bool fz_exec_recv(struct fz_slot *s, const struct fz_op *op)
{
    if (strcmp(op->verb, "recv"))
        return false;
    do_recv(s, op);
    return true;
}

static long transmit(const char *kind, int fd, const unsigned char *data, size_t len, int flags)
{
    struct iovec v[3] = {{(void *)data, len / 3},
                         {(void *)(data + len / 3), len / 3},
                         {(void *)(data + len / 3 * 2), len - len / 3 * 2}};
    struct msghdr mh = {.msg_iov = v, .msg_iovlen = 3};
    struct mmsghdr mm = {.msg_hdr = mh};
    int n;

    if (!strcmp(kind, "write"))
        return write(fd, data, len);
    if (!strcmp(kind, "writev"))
        return writev(fd, v, 3);
    if (!strcmp(kind, "sendto"))
        return sendto(fd, data, len, flags, NULL, 0);
    if (!strcmp(kind, "sendmsg"))
        return sendmsg(fd, &mh, flags);
    if (strcmp(kind, "sendmmsg"))
        return send(fd, data, len, flags);
    n = sendmmsg(fd, &mm, 1, flags);
    return n < 0 ? n : (long)mm.msg_len;
}

bool fz_exec_send(struct fz_slot *s, const struct fz_op *op)
{
    int flags = (int)fz_flags(fz_str(op, "flags", ""), fz_msg_flags), conn;
    long len = fz_num(op, "len", 1), ret;
    int fd = fz_fd_of(op, 0, &conn), err;
    extern __thread int fz_sigpipes;
    uint64_t off;

    if (strcmp(op->verb, "send"))
        return false;
    arena_open();
    off = conn < 0 ? 0 : fz_sh->tx_off[conn];
    for (long i = 0; i < len && i < ARENA; i++)
        arena.linear[i] = fz_byte(FZ_TO_PEER(conn < 0 ? 0 : conn), off + (uint64_t)i);
    fz_sigpipes = 0;
    ret = transmit(fz_str(op, "kind", "send"), fd, arena.linear, (size_t)len, flags);
    err = errno;
    if (ret > 0 && conn >= 0)
        fz_sh->tx_off[conn] += (uint64_t)ret;
    fz_result(s, ret, err);
    if (fz_sigpipes)
        fz_text(s, " SIGPIPE x%d", fz_sigpipes);
    return true;
}

#include "stall.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "payload.h"

#define RCVBUF (2 << 20)
#define SNDBUF (64 << 10)
#define WRITE 8192

static void widen(int fd)
{
    int size = RCVBUF;

    /* Without the privilege what the system grants is still enough. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
}

struct pair pair_open_roomy(void)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof(addr);
    int listener = MUST(listener_open(AF_INET)), near, far, one = 1;
    struct pair p = {.us = -1};

    widen(listener); /* what it accepts inherits */
    near = MUST(socket(AF_INET, SOCK_STREAM, 0));
    widen(near);
    MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
    MUST(connect(near, (struct sockaddr *)&addr, len));
    far = MUST(accept(listener, NULL, NULL));
    close(listener);
    p.us = test_side == SIDE_ACCEPTED ? far : near;
    p.peer = test_side == SIDE_ACCEPTED ? near : far;
    MUST(setsockopt(p.peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    warm_up(&p);
    return p;
}

struct pair pair_from(int listener)
{
    int near = connect_to(listener), far = MUST(accept(listener, NULL, NULL)), one = 1;
    struct pair p = {.us = test_side == SIDE_ACCEPTED ? far : near,
                     .peer = test_side == SIDE_ACCEPTED ? near : far};

    MUST(setsockopt(p.peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    return p;
}

void pair_drop(struct pair *p)
{
    if (p->us >= 0)
        MUST(close(p->us));
    if (p->peer >= 0)
        reset_close(p->peer);
    p->us = p->peer = -1;
}

void put_in_parts(struct pair *p, size_t n, void (*between)(void *arg), void *arg)
{
    static const size_t parts[] = {20000, 1, 300, 4096, 65, 12000, 511, 33000};

    for (int i = 0; n; i++) {
        size_t part = parts[i % COUNT_OF(parts)];

        part = part < n ? part : n;
        put(p, part);
        n -= part;
        if (between)
            between(arg);
    }
}

void take_in_parts(struct pair *p, size_t n)
{
    static const size_t parts[] = {1, 4096, 7, 60000, 512, 63, 20000};
    uint8_t buf[65536];

    for (int i = 0; n; i++) {
        size_t part = parts[i % COUNT_OF(parts)];
        ssize_t got;

        part = part < n ? part : n;
        got = recv(p->us, buf, part, MSG_WAITALL);
        if (got != (ssize_t)part)
            FAIL("recv of %zu bytes at offset %llu gives %zd (errno %d)", part,
                 (unsigned long long)p->got, got, errno);
        check_next(p, buf, part);
        n -= part;
    }
}

static void *write_on(void *arg)
{
    struct writer *w = arg;
    uint8_t some[WRITE];

    while (w->done < w->total) {
        size_t n = w->total - w->done < WRITE ? w->total - w->done : WRITE;
        ssize_t sent;

        payload_fill(0, some, w->p->sent + w->done, n);
        sent = send(w->p->peer, some, n, MSG_NOSIGNAL);
        if (sent < 0) {
            w->error = errno;
            break;
        }
        w->done += (unsigned long long)sent;
    }
    return NULL;
}

void writer_start(struct writer *w, struct pair *p, uint64_t total)
{
    int size = SNDBUF;

    MUST(setsockopt(p->peer, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
    w->p = p;
    w->total = total;
    w->done = 0;
    w->error = 0;
    worker_start(&w->w, write_on, w);
}

int writer_join(struct writer *w)
{
    worker_join(&w->w);
    w->p->sent += w->done;
    if (w->done != w->total && !w->error)
        FAIL("the writer ended with %llu of %llu bytes", w->done, (unsigned long long)w->total);
    return w->error;
}

static long line_count(const char *path)
{
    FILE *f = fopen(path, "re");
    long n = 0;
    int c;

    CHECK(f);
    while ((c = fgetc(f)) != EOF)
        n += c == '\n';
    fclose(f);
    return n;
}

int maps_count(void)
{
    return (int)line_count("/proc/self/maps");
}

int fds_count(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    CHECK(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 3; /* . and .. and this one */
}

long resident_kib(void)
{
    long all, resident;
    FILE *f = fopen("/proc/self/statm", "re");

    CHECK(f && fscanf(f, "%ld %ld", &all, &resident) == 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

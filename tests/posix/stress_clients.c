/* The clients of the stress: threads that send what they have announced. */
#include "stress.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "payload.h"
#include "test.h"

static int64_t ends_at;

struct client {
    pthread_t thread;
    struct sockaddr_in addr;
    uint64_t random;
};

static bool send_all(int fd, const void *p, size_t n)
{
    while (n) {
        ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

        if (done < 0)
            FAIL("client: send: errno %d", errno);
        p = (const uint8_t *)p + done;
        n -= (size_t)done;
    }
    return true;
}

static void one_connection(struct client *c)
{
    struct linger abort_it = {1, 0};
    uint8_t buf[16384];
    struct head h = {MAGIC, (uint32_t)next_random(&c->random), 0,
                     (uint32_t)upto(&c->random, ENDINGS)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char reply;

    h.len = (uint32_t)upto(&c->random, upto(&c->random, 8) ? 8000 : LARGEST);
    if (fd < 0 || connect(fd, (struct sockaddr *)&c->addr, sizeof(c->addr)))
        FAIL("client: connect: errno %d", errno);
    send_all(fd, &h, sizeof(h));
    for (size_t sent = 0, n; sent < h.len; sent += n) {
        n = size_of_piece(&c->random);
        n = n < h.len - sent ? n : h.len - sent;
        payload_fill(h.seed, buf, sent, n);
        send_all(fd, buf, n);
        if (upto(&c->random, 8) == 0)
            test_yield();
    }
    if (h.ending == END_RESET) {
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
    } else {
        if (h.ending == END_FIN)
            shutdown(fd, SHUT_WR);
        /* The server's word that all was right, and then its end: no reset, nothing unread. */
        if (recv(fd, &reply, 1, 0) != 1 || reply != 'k')
            FAIL("client: no word for stream %08x of %u bytes (errno %d)", h.seed, h.len, errno);
        if (h.ending == END_FIN && recv(fd, &reply, 1, 0) != 0)
            FAIL("client: no clean end for stream %08x (errno %d)", h.seed, errno);
    }
    close(fd);
}

static void *client_main(void *arg)
{
    while (now_ms() < ends_at)
        one_connection(arg);
    return NULL;
}

int stress_clients(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 0;
    struct client *all = calloc((size_t)threads, sizeof(*all));

    if (argc < 4 || threads < 1 || !all)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ends_at = now_ms() + atoll(argv[3]);
    for (int i = 0; i < threads; i++) {
        all[i].addr = (struct sockaddr_in){.sin_family = AF_INET,
                                           .sin_port = htons((uint16_t)atoi(argv[1])),
                                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        all[i].random = 0x9e3779b97f4a7c15ULL * ((uint64_t)i + 1) ^ (uint64_t)getpid();
        MUST0(pthread_create(&all[i].thread, NULL, client_main, &all[i]));
    }
    for (int i = 0; i < threads; i++)
        pthread_join(all[i].thread, NULL);
    free(all);
    return 0;
}

/*
 * What the peer sees of a close: its end at once, a reset when bytes were left unread, and nothing
 * before the last descriptor is gone. Every way of closing is taken.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "tcp.h"
#include "test.h"

void closefrom(int lowest);

static uint8_t buf[4096];

static void by_close(int fd)
{
    MUST(close(fd));
}

static void by_dup2(int fd)
{
    int null = MUST(open("/dev/null", O_RDWR));

    CHECK_EQ(dup2(null, fd), fd);
    CHECK_EQ(read(fd, buf, 1), 0);
    close(null);
    close(fd);
}

static void by_dup3(int fd)
{
    int null = MUST(open("/dev/null", O_RDWR));

    CHECK_EQ(dup3(null, fd, O_CLOEXEC), fd);
    CHECK_EQ(read(fd, buf, 1), 0);
    close(null);
    close(fd);
}

static void by_close_range(int fd)
{
    MUST(close_range((unsigned)fd, (unsigned)fd, 0));
}

static void by_closefrom(int fd)
{
    /* The peer's descriptor must stay: ours goes to a number above it. */
    int high = MUST(fcntl(fd, F_DUPFD, 500));

    close(fd);
    closefrom(high);
}

static void by_fclose(int fd)
{
    FILE *f = fdopen(fd, "r+");

    CHECK(f);
    CHECK_EQ(fclose(f), 0);
}

static void by_freopen(int fd)
{
    FILE *f = fdopen(fd, "r+");

    CHECK(f);
    CHECK(freopen("/dev/null", "r", f) == f);
    fclose(f);
}

static const struct {
    const char *name;
    void (*call)(int fd);
} ways[] = {
    {"close", by_close},         {"dup2", by_dup2},
    {"dup3", by_dup3},           {"close_range", by_close_range},
    {"closefrom", by_closefrom}, {"fclose", by_fclose},
    {"freopen", by_freopen},
};

static void check_end(size_t way, const char *when, struct pair *p, enum seen wanted)
{
    enum seen seen;

    ways[way].call(p->us);
    p->us = -1;
    seen = peer_sees(p->peer, slack(100));
    if (seen != wanted)
        FAIL("%s %s: the peer saw %s, wanted %s", ways[way].name, when, seen_name(seen),
             seen_name(wanted));
    pair_close(p);
}

static void test_close_all_read_is_fin_at_once(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair p = pair_open();

        check_end(way, "of a fresh socket", &p, SEEN_FIN);
        p = pair_open_warm();
        check_end(way, "with all read", &p, SEEN_FIN);
        p = pair_open_held(30);
        take(&p, 30);
        check_end(way, "with all read at last", &p, SEEN_FIN);
        p = pair_open_warm();
        check_empty(p.us);
        check_end(way, "after EAGAIN", &p, SEEN_FIN);
    }
}

static void test_close_bytes_unread_is_reset(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with(where, 30);

            check_end(way, "with bytes unread", &p, SEEN_RESET);
            p = pair_open_with(where, 30);
            take(&p, 20);
            check_end(way, "with a part unread", &p, SEEN_RESET);
            p = pair_open_with(where, 30);
            CHECK_EQ(recv(p.us, buf, 30, MSG_PEEK), 30);
            check_end(way, "with bytes only looked at", &p, SEEN_RESET);
        }
    }
}

static void test_close_bytes_unread_and_taken_in_elsewhere_is_reset(void)
{
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct pair other = pair_open_warm();
        struct pair p = pair_open_warm();

        put(&p, 30);
        sleep_on_other(&other);
        check_end(way, "with bytes unread, after a receive elsewhere", &p, SEEN_RESET);
        p = pair_open_warm();
        sleep_on_other(&other);
        check_end(way, "with all read, after a receive elsewhere", &p, SEEN_FIN);
        pair_close(&other);
    }
}

static void test_close_after_peers_end_is_clean(void)
{
    for (int unread = 0; unread < 2; unread++) {
        struct pair p = pair_open_held(20);

        take(&p, unread ? 10 : 20);
        peer_fin(&p);
        if (!unread)
            CHECK_EQ(recv(p.us, buf, 10, 0), 0);
        MUST(close(p.us));
        p.us = -1;
        CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
        pair_close(&p);
    }
}

static void test_close_with_linger_zero_is_reset(void)
{
    struct pair p = pair_open_warm();

    reset_close(p.us);
    p.us = -1;
    CHECK_PEER_SEES(p.peer, SEEN_RESET);
    pair_close(&p);
}

static void test_close_one_of_two_dups_is_unseen_the_other_reads_on(void)
{
    for (int where = 0; where < WHERES; where++) {
        for (int first = 0; first < 2; first++) {
            struct pair p = pair_open_with(where, 60);
            int dupped = MUST(dup(p.us));
            int stays = first ? dupped : p.us;
            struct pair q;

            take(&p, 10);
            q = p;
            q.us = dupped;
            take(&q, 10);
            MUST(close(first ? p.us : dupped));
            CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
            q.us = stays;
            take(&q, 40);
            check_empty(stays);
            put(&q, 10);
            take(&q, 10);
            MUST(close(stays));
            CHECK_PEER_SEES(q.peer, SEEN_FIN);
            close(q.peer);
        }
    }
}

static void test_close_last_of_dups_unread_is_reset(void)
{
    struct pair p = pair_open_held(30);
    int dupped = MUST(fcntl(p.us, F_DUPFD_CLOEXEC, 100));

    MUST(close(p.us));
    CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
    MUST(close(dupped));
    CHECK_PEER_SEES(p.peer, SEEN_RESET);
    close(p.peer);
}

static void test_dup2_onto_itself_changes_nothing(void)
{
    struct pair p = pair_open_held(30);

    CHECK_EQ(dup2(p.us, p.us), p.us);
    CHECK_ERR(dup3(p.us, p.us, 0), EINVAL);
    CHECK_EQ(dup2(p.us, 700), 700);
    CHECK_EQ(dup2(p.us, 700), 700);
    take(&p, 10);
    MUST(close(p.us));
    p.us = 700;
    take(&p, 20);
    check_end(0, "of the dup2", &p, SEEN_FIN);
}

static void test_dup2_of_one_connection_over_another_moves_it(void)
{
    struct pair a = pair_open_held(20), b = pair_open_held(30);

    CHECK_EQ(dup2(a.us, b.us), b.us);
    CHECK_PEER_SEES(b.peer, SEEN_RESET);
    close(b.peer);
    MUST(close(a.us));
    a.us = b.us;
    take(&a, 20);
    check_empty(a.us);
    check_end(0, "of what was moved", &a, SEEN_FIN);
}

static void test_close_keeps_errno_and_number_is_gone(void)
{
    struct pair p = pair_open_held(10);

    errno = 4711;
    CHECK_EQ(close(p.us), 0);
    CHECK_EQ(errno, 4711);
    CHECK_ERR(recv(p.us, buf, 1, 0), EBADF);
    CHECK_ERR(close(p.us), EBADF);
    CHECK_PEER_SEES(p.peer, SEEN_RESET);
    close(p.peer);
}

static void test_close_range_with_cloexec_closes_nothing(void)
{
    struct pair p = pair_open_held(20);

    MUST(close_range((unsigned)p.us, (unsigned)p.us, CLOSE_RANGE_CLOEXEC));
    CHECK_EQ(fcntl(p.us, F_GETFD), FD_CLOEXEC);
    take(&p, 20);
    CHECK_EQ(peer_sees(p.peer, 20), SEEN_NOTHING);
    pair_close(&p);
}

static void test_close_many_each_is_seen(void)
{
    static struct pair all[200];

    for (size_t i = 0; i < COUNT_OF(all); i++)
        all[i] = i % 2 ? pair_open_held(10) : pair_open_warm();
    for (size_t i = 0; i < COUNT_OF(all); i++)
        MUST(close(all[i].us));
    for (size_t i = 0; i < COUNT_OF(all); i++) {
        CHECK_PEER_SEES(all[i].peer, i % 2 ? SEEN_RESET : SEEN_FIN);
        close(all[i].peer);
    }
}

static void test_bytes_sent_before_a_close_arrive(void)
{
    struct pair p = pair_open_warm();

    memset(buf, 'x', sizeof(buf));
    CHECK_EQ(send(p.us, buf, sizeof(buf), 0), sizeof(buf));
    MUST(close(p.us));
    CHECK_EQ(recv(p.peer, buf, sizeof(buf), MSG_WAITALL), sizeof(buf));
    CHECK_EQ(recv(p.peer, buf, sizeof(buf), 0), 0);
    close(p.peer);
}

/* A process of its own connects, reads 33 bytes one at a time, and ends in one of these ways. */
static const char *const exits[] = {"exit", "_exit", "_Exit", "quick_exit", "return", "abort"};

static int ending_main(int argc, char **argv)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *how = argv[0];
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (argc < 2)
        return 2;
    addr.sin_port = htons((uint16_t)atoi(argv[1]));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
        return 3;
    for (int i = 0; i < 33; i++)
        if (recv(fd, buf, 1, 0) != 1)
            return 4;
    if (strcmp(how, "exit") == 0)
        exit(0);
    if (strcmp(how, "_exit") == 0)
        _exit(0);
    if (strcmp(how, "_Exit") == 0)
        _Exit(0);
    if (strcmp(how, "quick_exit") == 0)
        quick_exit(0);
    if (strcmp(how, "abort") == 0)
        abort();
    return 0;
}

static void test_process_end_is_seen_at_once(void)
{
    for (size_t i = 0; i + 1 < COUNT_OF(exits); i++) {
        for (size_t unread = 0; unread <= 50; unread += 50) {
            int listener = MUST(listener_open(AF_INET));
            struct sockaddr_in addr;
            socklen_t len = sizeof(addr);
            struct pair p = {.us = -1};
            char port[16];
            int status;
            pid_t pid;

            MUST(getsockname(listener, (struct sockaddr *)&addr, &len));
            snprintf(port, sizeof(port), "%d", ntohs(addr.sin_port));
            pid = MUST(fork());
            if (pid == 0) {
                close(listener);
                execl(test_self, test_self, "--helper", exits[i], port, (char *)NULL);
                _exit(9);
            }
            p.peer = MUST(accept(listener, NULL, NULL));
            close(listener);
            put_now(&p, 33 + unread);
            CHECK_EQ(waitpid(pid, &status, 0), pid);
            if (status != 0)
                FAIL("%s: status %x", exits[i], status);
            CHECK_PEER_SEES(p.peer, unread ? SEEN_RESET : SEEN_FIN);
            close(p.peer);
        }
    }
}

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = ending_main;
}

const struct test_case test_cases[] = {
    CASE(test_close_all_read_is_fin_at_once),
    CASE(test_close_bytes_unread_is_reset),
    CASE(test_close_bytes_unread_and_taken_in_elsewhere_is_reset),
    CASE(test_close_after_peers_end_is_clean),
    CASE(test_close_with_linger_zero_is_reset),
    CASE(test_close_one_of_two_dups_is_unseen_the_other_reads_on),
    CASE(test_close_last_of_dups_unread_is_reset),
    CASE(test_dup2_onto_itself_changes_nothing),
    CASE(test_dup2_of_one_connection_over_another_moves_it),
    CASE(test_close_keeps_errno_and_number_is_gone),
    CASE(test_close_range_with_cloexec_closes_nothing),
    CASE(test_close_many_each_is_seen),
    CASE(test_bytes_sent_before_a_close_arrive),
    CASE_ONCE(test_process_end_is_seen_at_once),
    CASES_END,
};

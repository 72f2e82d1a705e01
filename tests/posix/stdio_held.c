/*
 * A connection wrapped in a FILE while bytes are unread: fgets and fread give them first, whoever
 * goes on with the number itself gets them there, and a child or a next image reads on.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asleep.h"
#include "proc.h"
#include "tcp.h"
#include "test.h"

static uint8_t buf[4096];

static void read_from(FILE *f, struct pair *p, size_t n)
{
    CHECK_EQ(fread(buf, 1, n, f), n);
    check_next(p, buf, n);
}

static void test_fread_gives_these_and_then_what_comes(void)
{
    static const char *const modes[] = {"r", "r+", "w+", "a+"};

    for (size_t m = 0; m < COUNT_OF(modes); m++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 100);
            FILE *f = fdopen(p.us, modes[m]);
            struct later_put lp;

            CHECK(f);
            read_from(f, &p, 100);
            later_put(&lp, &p, 20);
            read_from(f, &p, 20);
            later_join(&lp.l);
            peer_fin(&p);
            CHECK_EQ(fgetc(f), EOF);
            CHECK(feof(f));
            CHECK_EQ(fclose(f), 0);
            CHECK_ERR(recv(p.us, buf, 1, 0), EBADF);
            close(p.peer);
        }
    }
}

static void test_any_buffering_gives_the_same_bytes(void)
{
    static const int modes[] = {_IONBF, _IOLBF, _IOFBF};
    static char room[64];

    for (size_t m = 0; m < COUNT_OF(modes); m++) {
        for (size_t size = 1; size <= sizeof(room); size += 63) {
            struct pair p = pair_open_held(300);
            FILE *f = fdopen(p.us, "r");

            CHECK(f);
            CHECK_EQ(setvbuf(f, size > 1 ? room : NULL, modes[m], size), 0);
            for (int i = 0; i < 100; i++)
                read_from(f, &p, 3);
            put(&p, 50);
            read_from(f, &p, 50);
            CHECK_EQ(fclose(f), 0);
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
        }
    }
}

/* What the program pushes back before it has read anything is in front of what has arrived. */
static void test_pushed_back_characters_come_first(void)
{
    for (int unbuffered = 0; unbuffered < 2; unbuffered++) {
        for (int pushed = 1; pushed < 4; pushed++) {
            struct pair p = pair_open_held(60);
            FILE *f = fdopen(p.us, "r");

            CHECK(f);
            if (unbuffered)
                CHECK_EQ(setvbuf(f, NULL, _IONBF, 0), 0);
            for (int i = 0; i < pushed; i++)
                CHECK_EQ(ungetc('A' + i, f), 'A' + i);
            CHECK_EQ(fread(buf, 1, (size_t)pushed + 20, f), pushed + 20);
            for (int i = 0; i < pushed; i++)
                CHECK_EQ(buf[i], 'A' + pushed - 1 - i);
            check_next(&p, buf + pushed, 20);
            CHECK_EQ(ungetc('B', f), 'B');
            CHECK_EQ(fgetc(f), 'B');
            read_from(f, &p, 40);
            CHECK_EQ(fclose(f), 0);
            close(p.peer);
        }
    }
}

/* What the FILE has not read the number gives: fdopen itself reads nothing. */
static void test_number_itself_reads_what_the_file_has_not(void)
{
    static const char *const modes[] = {"r", "w", "r+"};

    for (size_t m = 0; m < COUNT_OF(modes); m++) {
        for (int where = 0; where < WHERES; where++) {
            struct pair p = pair_open_with((enum where)where, 100);
            FILE *f = fdopen(p.us, modes[m]);

            CHECK(f);
            CHECK_EQ(poll_now(p.us, POLLIN), POLLIN);
            take(&p, 60);
            take(&p, 40);
            CHECK_EQ(poll_now(p.us, POLLIN), 0);
            check_empty(p.us);
            put(&p, 10);
            take(&p, 10);
            CHECK_EQ(fclose(f), 0);
            CHECK_PEER_SEES(p.peer, SEEN_FIN);
            close(p.peer);
        }
    }
}

/* One FILE to read, one on a copy of the number to write, as many programs have it. */
static void test_two_files_on_copies_of_the_number(void)
{
    struct pair p = pair_open_held(100);
    FILE *in = fdopen(p.us, "r"), *out = fdopen(MUST(dup(p.us)), "w");

    CHECK(in && out);
    for (int i = 0; i < 10; i++) {
        read_from(in, &p, 10);
        CHECK_EQ(fprintf(out, "line %d\n", i), 7);
        CHECK_EQ(fflush(out), 0);
        CHECK_EQ(recv(p.peer, buf, 7, MSG_WAITALL), 7);
    }
    CHECK_EQ(fclose(in), 0);
    CHECK_EQ(peer_sees(p.peer, 10), SEEN_NOTHING);
    CHECK_EQ(fclose(out), 0);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_fclose_with_bytes_unread_is_a_reset(void)
{
    for (int where = 0; where < WHERES; where++) {
        struct pair p = pair_open_with((enum where)where, 50);
        FILE *f = fdopen(p.us, "r");

        CHECK(f);
        CHECK_EQ(fclose(f), 0);
        CHECK_PEER_SEES(p.peer, SEEN_RESET);
        close(p.peer);
    }
}

static void test_freopen_over_it_closes_the_connection(void)
{
    struct pair p = pair_open_held(50);
    FILE *f = fdopen(p.us, "r");

    CHECK(f);
    read_from(f, &p, 50);
    f = freopen("/dev/null", "r", f);
    CHECK(f);
    CHECK_EQ(fgetc(f), EOF);
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    fclose(f);
    close(p.peer);
}

/* As a shell script's interpreter has it: standard input is the connection. */
static void test_standard_input_moved_onto_it(void)
{
    static const char text[] = "first line\nsecond line\nthird";
    struct pair p = pair_open_warm();
    char line[64];

    CHECK_EQ(send(p.peer, text, sizeof(text) - 1, 0), sizeof(text) - 1);
    settle(p.us, p.sent + sizeof(text) - 1);
    CHECK_EQ(recv(p.us, buf, 1, 0), 1);
    MUST(dup2(p.us, 0));
    MUST(close(p.us));
    CHECK(fgets(line, sizeof(line), stdin));
    CHECK_EQ(strcmp(line, "irst line\n"), 0);
    CHECK(fgets(line, sizeof(line), stdin));
    CHECK_EQ(strcmp(line, "second line\n"), 0);
    MUST(shutdown(p.peer, SHUT_WR));
    CHECK(fgets(line, sizeof(line), stdin));
    CHECK_EQ(strcmp(line, "third"), 0);
    CHECK(!fgets(line, sizeof(line), stdin));
    MUST(close(0));
    CHECK_PEER_SEES(p.peer, SEEN_FIN);
    close(p.peer);
}

static void test_fork_then_each_with_its_own_file(void)
{
    for (int parent_first = 0; parent_first < 2; parent_first++) {
        struct shared *s = pair_share(pair_open_held(100));
        pid_t pid = MUST(fork());
        FILE *f;

        if (pid == 0) {
            turn_wait(s, parent_first);
            f = fdopen(s->p.us, "r");
            CHECK(f);
            setvbuf(f, NULL, _IONBF, 0);
            read_from(f, &s->p, 50);
            _exit(0);
        }
        if (parent_first) {
            take(&s->p, 50);
            turn_to(s, 1);
        }
        check_child(pid);
        if (!parent_first)
            take(&s->p, 50);
        check_empty(s->p.us);
        shared_close(s);
    }
}

/* Not read by the FILE, so not in its buffer: parent and child share it as any number. */
static void test_file_made_before_the_fork_is_read_by_the_child(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    FILE *f = fdopen(s->p.us, "r");
    pid_t pid;

    CHECK(f);
    setvbuf(f, NULL, _IONBF, 0);
    read_from(f, &s->p, 20);
    pid = MUST(fork());
    if (pid == 0) {
        read_from(f, &s->p, 40);
        _exit(0);
    }
    check_child(pid);
    read_from(f, &s->p, 40);
    check_empty(s->p.us);
    put(&s->p, 10);
    read_from(f, &s->p, 10);
    fclose(f);
    CHECK_PEER_SEES(s->p.peer, SEEN_FIN);
    s->p.us = -1;
    shared_close(s);
}

static void test_file_made_before_an_exec_the_image_reads_on(void)
{
    struct shared *s = pair_share(pair_open_held(100));
    pid_t pid = MUST(fork());

    if (pid == 0) {
        FILE *f = fdopen(s->p.us, "r+");

        CHECK(f);
        setvbuf(f, NULL, _IONBF, 0);
        read_from(f, &s->p, 30);
        execv(test_self, reader_args("exact", s->p.us, &s->p, 50));
        _exit(9);
    }
    check_child(pid);
    s->p.got += 50;
    take(&s->p, 20);
    check_empty(s->p.us);
    shared_close(s);
}

const struct test_case test_cases[] = {
    CASE(test_fread_gives_these_and_then_what_comes),
    CASE(test_any_buffering_gives_the_same_bytes),
    CASE(test_pushed_back_characters_come_first),
    CASE(test_number_itself_reads_what_the_file_has_not),
    CASE(test_two_files_on_copies_of_the_number),
    CASE(test_fclose_with_bytes_unread_is_a_reset),
    CASE(test_freopen_over_it_closes_the_connection),
    CASE(test_standard_input_moved_onto_it),
    CASE(test_fork_then_each_with_its_own_file),
    CASE(test_file_made_before_the_fork_is_read_by_the_child),
    CASE(test_file_made_before_an_exec_the_image_reads_on),
    CASES_END,
};

__attribute__((constructor)) static void set_helper(void)
{
    test_helper = reader_main;
}

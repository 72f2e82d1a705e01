/*
 * The processor time that a process has used so far, all its threads, as the kernel counts it.
 *
 *   cputime PID
 *
 * Prints nanoseconds.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(int argc, char **argv)
{
    struct timespec ts;
    clockid_t clock;
    int error;

    if (argc != 2) {
        fprintf(stderr, "usage: cputime PID\n");
        return 2;
    }
    error = clock_getcpuclockid(atoi(argv[1]), &clock);
    if (error) {
        fprintf(stderr, "cputime: %s: %s\n", argv[1], strerror(error));
        return 1;
    }
    if (clock_gettime(clock, &ts) < 0) {
        perror("cputime");
        return 1;
    }
    printf("%lld\n", ts.tv_sec * 1000000000LL + ts.tv_nsec);
    return 0;
}

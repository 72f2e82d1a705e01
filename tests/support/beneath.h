/*
 * The last moment before a wait goes to sleep: for programs that link the library `beneath`.
 */
#ifndef TESTS_SUPPORT_BENEATH_H
#define TESTS_SUPPORT_BENEATH_H

/* Called once, then NULL again, by the next epoll_wait, epoll_pwait, poll, select or recv that is about
 * to make a system call that may sleep. */
extern void (*beneath_sleep)(void);

#endif

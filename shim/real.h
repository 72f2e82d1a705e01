/*
 * libc beneath us. The one way to the real calls, and the only module that asks the dynamic linker.
 *
 * real.NAME may be called at any time by any thread: before the constructor has run it binds the
 * table at the first use, and while that is under way (a malloc of the program's that reads a file)
 * it makes the raw system call.
 */
#ifndef PBS_REAL_H
#define PBS_REAL_H

#include <aio.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <termios.h>
#include <wordexp.h>

/* Macros of <stdio.h> that would stand for them. */
#undef fgetc_unlocked
#undef fread_unlocked
#undef getc
#undef getc_unlocked
#undef getchar
#undef getchar_unlocked

#include "real_list.h"

#define PBS_REAL_FIELD(ret, name, params, args, nr) ret(*name) params;
struct pbs_real {
    PBS_REAL_LIST(PBS_REAL_FIELD)
};

extern struct pbs_real real;

/* Binds every entry. False while another bind is under way on any thread. */
bool pbs_real_bind(void);

#endif

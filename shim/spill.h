/*
 * Bytes that two processes may read, or that outlive this image: a memory file, mapped shared, with
 * what was held of a few sockets and a cursor for each. Whoever asks first gets a byte, and nobody
 * gets it again.
 *
 * A file is a number of ours for as long as something in it may be unread (as high as the limit
 * allows, close-on-exec): it is what a new image is given. Where no number is to be had it is memory
 * alone, which a forked child shares all the same.
 *
 * Any thread and any process that shares the file; in a critical section (thread.h).
 */
#ifndef PBS_SPILL_H
#define PBS_SPILL_H

#include "base.h"

/* One socket's, in shared memory. What is behind `at` is unread; the bytes themselves never change. */
struct pbs_spill {
    uint64_t cookie; /* the kernel's name for the socket (SO_COOKIE) */
    uint64_t off;    /* of the first byte, from here */
    uint64_t len;
    _Atomic(uint64_t) at;
    _Atomic(int) error; /* behind the bytes; given once; 0: none */
    uint32_t alone;     /* nobody but the process that made it, or its next image, has the socket */
};

/* NULL: none. */
static inline size_t pbs_spill_left(struct pbs_spill *e)
{
    return e ? (size_t)(e->len - atomic_load_explicit(&e->at, memory_order_relaxed)) : 0;
}

/* Takes up to n bytes, which are at *data then. Returns how many. */
size_t pbs_spill_claim(struct pbs_spill *e, size_t n, const uint8_t **data);

/* The bytes that a claim would give now, and how many: another process may claim them meanwhile. */
static inline size_t pbs_spill_look(struct pbs_spill *e, const uint8_t **data)
{
    uint64_t at = atomic_load_explicit(&e->at, memory_order_relaxed);

    *data = (const uint8_t *)e + e->off + at;
    return (size_t)(e->len - at);
}

/* ---- files; they are counted by those of this process that may read in them ---- */

struct pbs_spill_pen {
    int file; /* its place here */
    struct pbs_spill *next;
    uint8_t *bytes;
    size_t room;
    unsigned left;
};

/* A new file for so many sockets and bytes in all, of which the caller is a reader. False: no. */
bool pbs_spill_begin(struct pbs_spill_pen *pen, unsigned socks, size_t bytes);

/* The next socket's; its len bytes are to be written to *data. NULL: there is no room. */
struct pbs_spill *pbs_spill_add(struct pbs_spill_pen *pen, uint64_t cookie, size_t len, int error,
                                uint8_t **data);

/* It has a number, by which an image can be given it. */
bool pbs_spill_lasts(int file);

void pbs_spill_join(int file);
void pbs_spill_leave(int file);

/* What is unread in it may be in flight in a message: it stays when its last reader here has left. */
void pbs_spill_sent(int file);

/* Something may be unread in a file. */
bool pbs_spill_any(void);

/* What is unread of the socket of that name; the caller joins with it. NULL: nothing. */
struct pbs_spill *pbs_spill_find(uint64_t cookie, int *file);

/* In a forked child: nobody reads. After its readers have joined: what none of them reads is let go. */
void pbs_spill_reset(void);
void pbs_spill_sweep(void);

/* ---- numbers of ours ---- */

extern atomic_uint pbs_spill_numbers; /* how many there are */

/* fd is one: to the program it is not open. */
bool pbs_spill_owns(int fd);

/* The lowest of ours from lo on; -1: none. */
int pbs_spill_next(unsigned lo);

/* The program is about to use the number fd: ours moves. */
void pbs_spill_yield(int fd);

/* ---- to another image ---- */

#define PBS_SPILL_ENV "PBUFSHIM_SPILL"
#define PBS_SPILL_TEXT 1024

/*
 * Writes the variable that names the files in which something is unread, and lets their numbers
 * outlive an exec. False: there are none. Undone by pbs_spill_keep().
 */
bool pbs_spill_name(char text[PBS_SPILL_TEXT]);
void pbs_spill_keep(void);

/* In the new image: what the variable's value names; `each` is called for every socket of which
 * something is unread, and joins if it reads there. */
void pbs_spill_inherit(const char *value, void (*each)(struct pbs_spill *e, int file));

#endif

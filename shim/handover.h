/*
 * Bytes that nobody has read, from one image of a process to the next: the memory files that hold
 * them (spill.h) outlive the exec, and one variable of the environment names them. The library there
 * takes the variable away and finds the sockets by the kernel's own names for them, whatever
 * numbers they have. An image without the library cannot see them.
 *
 * Calling thread only, no lock held.
 */
#ifndef PBS_HANDOVER_H
#define PBS_HANDOVER_H

#include <sys/socket.h>

#include "spill.h"
#include "thread.h"

#define PBS_PARTINGS 16

struct pbs_handover {
    char text[PBS_SPILL_TEXT];
    char **envp; /* ours; NULL: the caller's was good */
    size_t size;

    /* Sockets that the exec closes with bytes unread: the kernel resets them then. */
    struct {
        int fd;
        struct linger was;
    } parting[PBS_PARTINGS];
    unsigned npartings;
};

/* This image is about to be replaced: before the environment is made. */
void pbs_handover_part(struct pbs_handover *h);

/* The environment for the new image: envp, or a copy of it with the variable. */
char *const *pbs_handover_begin(struct pbs_handover *h, char *const *envp);

/* There was no exec after all, or it was another process's. errno is kept. */
void pbs_handover_end(struct pbs_handover *h);

/* The record of the socket of that name (SO_COOKIE), if something of it is unread in shared memory: made
 * at need. NULL: none. */
struct pbs_file *pbs_handover_known(uint64_t cookie);

/* At the start of an image, before there are threads: takes what an earlier one left. */
void pbs_handover_receive(bool enabled);

#endif

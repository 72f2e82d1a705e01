/*
 * Epoll instances of this process and what was added to them. The kernel names an event by its
 * 64 bits of data alone, so every member is known here, sockets of ours or not: an event may be
 * merged with what we hold only where its data says unmistakably whose it is.
 *
 * An item is in its set's tables and, for a socket of ours, in sock->items: it is removed under
 * both locks, so either lock keeps it. Order: sock, then set.
 */
#ifndef PBS_ITEM_H
#define PBS_ITEM_H

#include <sys/epoll.h>

#include "ring.h"
#include "sock.h"
#include "thread.h"

struct pbs_epoll;

struct pbs_item {
    struct pbs_epoll *set;
    struct pbs_sock *sock; /* NULL: no socket of ours */
    struct pbs_item *sock_next;
    struct pbs_item *prev, *next; /* in set->ready */
    uint64_t data;
    uint32_t events;
    unsigned round;
    unsigned
        early; /* the round in which it is reported before what the kernel has beside (takeover.c) */
    unsigned turn; /* and at which place there */
    unsigned last; /* the round in which it was last reported */
    int place;     /* and at which place then */
    bool twin;     /* another member has the same data: an event cannot be told apart */
    bool by_data;  /* in set->by_data */
    bool fresh;    /* bytes or an error arrived since it was last reported (edge-triggered) */
    bool spent;    /* EPOLLONESHOT: reported, disabled until the next MOD */
    bool listed;   /* in set->ready */
    bool masked;   /* EPOLLIN is the ring's to tell, and not asked of the kernel (takeover.c) */
    bool poked;    /* the kernel is asked for output, too, to end a sleep in it (takeover.c) */
    /* Down to here it is what every event touches: one cache line. */
    struct pbs_epoll *inner; /* it is an epoll instance itself; NULL: no */
    uint64_t inner_life;     /* of inner, when it was added */
    int epfd, fd;            /* the numbers it was added by */
    struct pbs_item_key {
        struct pbs_file *file; /* sock or inner; NULL: neither */
        uintptr_t fd;
    } key; /* as in the kernel: a number may stand for a second file while a dup keeps the first */
    UT_hash_handle hh, hd;
};

struct pbs_epoll {
    struct pbs_file file;     /* its lock guards all here */
    _Atomic(uint64_t) waiter; /* id of the one thread that waits on it; 0 none yet */
    atomic_bool refused; /* shared in a way that a merge could not be exact: no member is adopted */
    atomic_uint nready;  /* members in `ready` */
    _Atomic(uint64_t) life; /* moves when it is put: who has it as a member has another one then */
    struct pbs_item *by_key, *by_data;
    struct pbs_item *ready; /* members that may hold bytes or an error */
    unsigned round;
    bool our_turn; /* the kernel alone filled the caller's array last time, and we had more */
    /* Takeover (takeover.c). */
    atomic_uint nmasked;
    unsigned exclusive;   /* members with EPOLLEXCLUSIVE */
    unsigned inners;      /* members that are instances */
    atomic_uint reported; /* the round of the last report, if that had room for all; else 0 */
    atomic_uint turns;    /* the last item's turn; 0: none is early */
    uint64_t dry_epoch;   /* waiter's ready_epoch when all masked members were last seen empty */
    struct pbs_watch
        watch; /* the kernel's side of the instance, while the waiter sleeps in its ring */
    struct pbs_epoll *next_free;
};

/* A new set, nfds 0; NULL when out of memory. */
struct pbs_epoll *pbs_epoll_get(void);

/* nfds is 0: forgets all members, then the set. Not locked. */
void pbs_epoll_drop(struct pbs_thread *self, struct pbs_epoll *set);

/* After epoll_ctl succeeded; f is fd's record or NULL. False: out of memory, the set can no longer
 * be trusted. */
bool pbs_item_add(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int epfd,
                  int fd, const struct epoll_event *ev);
void pbs_item_mod(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd,
                  const struct epoll_event *ev, bool masked);
void pbs_item_del(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd);

/* The last number of s is gone, and with it its memberships. s locked. */
void pbs_items_drop(struct pbs_sock *s);

/* Takes s out of its sets in the kernel too. s locked. */
void pbs_items_leave_kernel(struct pbs_sock *s);

/* pbs_ring_arrived: something of s is held now. s locked. */
void pbs_items_arrived(struct pbs_sock *s);

/* May thread id adopt s, as far as its memberships go? Becomes the set's waiter if there is none.
 * s locked. */
bool pbs_items_allow(struct pbs_sock *s, uint64_t id);

/* Its socket, or a member of the instance that it is, holds something. Its set locked. */
bool pbs_item_inner_holds(const struct pbs_item *it);

static inline bool pbs_item_holds(const struct pbs_item *it)
{
    return pbs_likely(it->sock != NULL) ? pbs_sock_holds(it->sock) : pbs_item_inner_holds(it);
}

/* A member of the set holds something that its events ask for. Not locked; the locks of instances
 * are taken from the outside in, and the kernel allows no circles. */
bool pbs_epoll_holds(struct pbs_epoll *set);

/* Instances in it of which members hold something join the ready list: nobody tells it when they begin
 * to. set locked. */
void pbs_epoll_list_inners(struct pbs_epoll *set);

/* Out of the ready list; to its end, also from outside. set locked. */
void pbs_item_unlist(struct pbs_item *it);
void pbs_item_rotate(struct pbs_item *it);

/* In a forked child: forgets the free list. */
void pbs_item_reset(void);

/* ---- takeover.c: the wait on an instance happens in the ring of its one waiter ---- */

/* s has been armed by self: from now on the ring tells when it is readable, if its membership allows
 * it. s locked. */
void pbs_items_mask(struct pbs_thread *self, struct pbs_sock *s);

/* pbs_ring_unarmed: the kernel tells it again. s locked. */
void pbs_items_unmask(struct pbs_sock *s);

/* The number fd of s is about to be closed and others stay: its memberships can be changed no more.
 * s locked. */
void pbs_items_unmask_fd(struct pbs_sock *s, int fd);

/* All of a set. Not locked. */
void pbs_epoll_unmask(struct pbs_thread *self, struct pbs_epoll *set);

/* What the kernel is asked for when the member fd of set is changed to events; *masked: the ring
 * goes on telling when it is readable. */
uint32_t pbs_item_asks(struct pbs_thread *self, struct pbs_epoll *set, struct pbs_file *f, int fd,
                       uint32_t events, bool *masked);

/*
 * A thread that sleeps in the kernel for the member is not woken by what we hold of it. It is by
 * output, which there nearly always is; who is told of that takes it back. told: the event has been
 * given. set locked.
 */
void pbs_item_poke(struct pbs_item *it);
void pbs_item_unpoke(struct pbs_item *it, bool told);

/*
 * The ring tells of a masked member: in the round to come it is early if the kernel has told of nothing
 * else since it was asked last. set locked.
 */
void pbs_item_told(struct pbs_item *it);

/* Does self wait on set in its ring? */
bool pbs_epoll_taken(struct pbs_thread *self, struct pbs_epoll *set);

/* The member of f and fd; NULL: none. set locked. */
struct pbs_item *pbs_item_find(struct pbs_epoll *set, struct pbs_file *f, int fd);

/* masked, counted. set locked. */
void pbs_item_set_masked(struct pbs_item *it, bool masked);

/* A set's member that is a socket of ours and was not yet seen in this round; NULL: no more. The
 * set's lock is taken and released. */
struct pbs_sock *pbs_epoll_next_sock(struct pbs_epoll *set, unsigned round);
unsigned pbs_epoll_new_round(struct pbs_epoll *set);

#endif

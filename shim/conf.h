/*
 * PBUFSHIM_* from the environment, read once at start. Read-only afterwards, any thread.
 */
#ifndef PBS_CONF_H
#define PBS_CONF_H

#include <stdbool.h>

enum pbs_policy_name { PBS_POLICY_AUTO, PBS_POLICY_ALWAYS, PBS_POLICY_NEVER };
enum pbs_inc_name { PBS_INC_AUTO, PBS_INC_ON, PBS_INC_OFF };
enum pbs_groups_name { PBS_GROUPS_AUTO, PBS_GROUPS_SHARED, PBS_GROUPS_SOCKET };

struct pbs_conf {
    enum pbs_policy_name policy;
    bool enabled; /* false: no record is ever made, every call is the plain one */
    bool verbose;
    enum pbs_inc_name inc;       /* buffers that are filled bit by bit */
    enum pbs_groups_name groups; /* whose buffers they are */
    unsigned bufs;        /* buffers of a group, a power of two, 2 to 1024; 0: as many as fit */
    unsigned buf_size;    /* bytes of a buffer, 64 to 65536; 0: what fits */
    unsigned long memory; /* bytes that the library may use */
    char stats[256];      /* "" none, "1" stderr, else a path that may hold %p */
    char log[256];        /* "" stderr, else a path */
};

extern struct pbs_conf pbs_conf;

/* Reads the environment. Complaints about bad values go to pbs_log when verbose. */
void pbs_conf_init(void);

/* False: PBUFSHIM_ONLY or PBUFSHIM_EXCLUDE speaks against sockets bound to this local port. */
bool pbs_conf_allows_port(unsigned port);

/* One line of text to PBUFSHIM_LOG, else to stderr if that is still what it was at start. */
void pbs_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes text as pbs_log does (path "" or "1": stderr under the same rule); %p in path is the pid. */
void pbs_conf_write(const char *path, const char *text, unsigned long len);

#endif

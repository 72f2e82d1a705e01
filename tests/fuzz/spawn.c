/* Starting the runner in a leg, and adding up what the library counted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

const char *const fz_leg_name[FZ_LEGS] = {"plain", "shim",        "auto",  "starved",
                                          "inc",   "starved-inc", "crowd", "noring"};

/* What tests/support/leg.sh sets for the leg of the same name, NAME=VALUE; starved-inc and crowd are ours alone:
 * in the latter a flood is more than a queue of completions has room for. */
static char *const settings[FZ_LEGS][8] = {
    [FZ_SHIM] = {"PBUFSHIM_POLICY=always"},
    [FZ_AUTO] = {"PBUFSHIM_POLICY=auto"},
    [FZ_STARVED] = {"PBUFSHIM_POLICY=always", "PBUFSHIM_INC=off", "PBUFSHIM_BUFS=2",
                    "PBUFSHIM_BUF_SIZE=64"},
    [FZ_INC] = {"PBUFSHIM_POLICY=always", "PBUFSHIM_INC=on", "PBUFSHIM_GROUPS=socket",
                "PBUFSHIM_BUFS=4", "PBUFSHIM_BUF_SIZE=512"},
    [FZ_STARVED_INC] = {"PBUFSHIM_POLICY=always", "PBUFSHIM_INC=on", "PBUFSHIM_GROUPS=shared",
                        "PBUFSHIM_BUFS=2", "PBUFSHIM_BUF_SIZE=64"},
    [FZ_CROWD] = {"PBUFSHIM_POLICY=always", "PBUFSHIM_GROUPS=shared", "PBUFSHIM_BUFS=1024",
                  "PBUFSHIM_BUF_SIZE=64"},
    [FZ_NORING] = {"PBUFSHIM_POLICY=always"},
};

bool fz_leg_serves(enum fz_leg leg)
{
    return leg == FZ_SHIM || leg == FZ_STARVED || leg == FZ_INC || leg == FZ_STARVED_INC ||
           leg == FZ_CROWD;
}

/* io_uring is refused as a container would: by a filter, with EPERM or with ENOSYS. */
static void refuse_rings(int err)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
        _exit(126);
}

static void set_leg(const struct fz_setup *setup)
{
    char path[512];

    unsetenv("LD_PRELOAD");
    if (setup->leg == FZ_PLAIN)
        return;
    snprintf(path, sizeof(path), "%s/%%p", setup->dir);
    setenv("PBUFSHIM_STATS", path, 1);
    for (char *const *s = settings[setup->leg]; *s; s++)
        putenv(*s);
    setenv("LD_PRELOAD", setup->preload, 1);
    if (setup->leg == FZ_NORING)
        refuse_rings(setup->noring_errno);
}

int fz_spawn(struct fz_run *r)
{
    int mem = memfd_create("fuzz", MFD_CLOEXEC);

    if (mem < 0 || ftruncate(mem, sizeof(*r->sh)))
        return -errno;
    r->sh = mmap(NULL, sizeof(*r->sh), PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
    if (r->sh == MAP_FAILED)
        return -errno;
    for (int k = 0; k < FZ_PROCS; k++) {
        for (int i = 0; i < FZ_FDS; i++)
            r->sh->fd[k][i].num = r->sh->fd[k][i].conn = -1;
        for (int i = 0; i < FZ_EPOLLS; i++)
            r->sh->ep[k][i] = -1;
    }
    r->sh->driver = getpid();
    r->sh->way[0] = r->sh->way[1] = -1;
    snprintf(r->sh->again, sizeof(r->sh->again), "/proc/%d/fd/%d", (int)getpid(), mem);
    for (int i = 0; i < FZ_LISTENERS; i++)
        r->sh->listener[i] = -1;
    r->pid = fork();
    if (r->pid < 0)
        return -errno;
    if (r->pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, 0);
        if (mem == FZ_SHM_FD)
            fcntl(mem, F_SETFD, 0);
        else
            dup2(mem, FZ_SHM_FD);
        close_range(FZ_SHM_FD + 1, ~0u, 0);
        set_leg(r->setup);
        execl(r->setup->runner, r->setup->runner, (char *)NULL);
        _exit(127);
    }
    r->mem = mem;
    r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
    return r->pidfd < 0 ? -errno : 0;
}

#define MAX_COUNTERS 128

static struct {
    char name[48];
    long val;
} counter[MAX_COUNTERS];

static int counters;

static void count(const char *name, long val)
{
    int i = 0;

    while (i < counters && strcmp(counter[i].name, name))
        i++;
    if (i == MAX_COUNTERS)
        return;
    if (i == counters) {
        snprintf(counter[i].name, sizeof(counter[i].name), "%s", name);
        counters++;
    }
    counter[i].val += val;
}

long fz_counter(const char *name)
{
    for (int i = 0; i < counters; i++)
        if (!strcmp(counter[i].name, name))
            return counter[i].val;
    return 0;
}

void fz_counters_print(FILE *out)
{
    for (int i = 0; i < counters; i++)
        if (counter[i].val)
            fprintf(out, "%s %ld\n", counter[i].name, counter[i].val);
}

void fz_counters_read(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        char line[128], name[48];
        long val;
        FILE *in;
        int fd;

        if (e->d_name[0] == '.')
            continue;
        fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        in = fd < 0 ? NULL : fdopen(fd, "r");
        while (in && fgets(line, sizeof(line), in)) {
            /* each process writes its version once */
            if (!strncmp(line, "version ", 8))
                count("processes", 1);
            else if (sscanf(line, "%47s %ld", name, &val) == 2)
                count(name, val);
        }
        if (in)
            fclose(in);
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}

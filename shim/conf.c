#include "conf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base.h"

struct pbs_conf pbs_conf = {
    .policy = PBS_POLICY_AUTO,
    .memory = 256UL << 20,
};

static struct stat stderr_at_start;
static bool stderr_known;

/* Under inetd fd 2 is the client, and a daemon puts its own file there: only the first one is ours
 * to write to, and never a socket. */
static bool stderr_usable(void)
{
    struct stat now;

    return stderr_known && fstat(2, &now) == 0 && !S_ISSOCK(now.st_mode) &&
           now.st_dev == stderr_at_start.st_dev && now.st_ino == stderr_at_start.st_ino;
}

/* A file that may not grow so long: SIGXFSZ would be the process's. */
static bool fits(int fd, unsigned long len)
{
    struct rlimit64 lim = {.rlim_cur = RLIM64_INFINITY};
    struct stat st;

    pbs_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &lim);
    return lim.rlim_cur == RLIM64_INFINITY || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
           (rlim64_t)st.st_size + len <= lim.rlim_cur;
}

static void write_all(int fd, const char *text, unsigned long len)
{
    while (len && fits(fd, len)) {
        long n = pbs_sys3(SYS_write, fd, text, len);

        if (n == -EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        len -= (unsigned long)n;
    }
}

void pbs_conf_write(const char *path, const char *text, unsigned long len)
{
    char name[320];
    size_t at = 0;
    long fd;

    if (!path[0] || !strcmp(path, "1")) {
        if (stderr_usable())
            write_all(2, text, len);
        return;
    }
    for (const char *p = path; *p && at + 16 < sizeof(name); p++) {
        if (p[0] == '%' && p[1] == 'p') {
            at += (size_t)snprintf(name + at, sizeof(name) - at, "%ld", pbs_sys0(SYS_getpid));
            p++;
        } else {
            name[at++] = *p;
        }
    }
    name[at] = '\0';
    fd = pbs_sys4(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return;
    write_all((int)fd, text, len);
    pbs_sys1(SYS_close, fd);
}

void pbs_log(const char *fmt, ...)
{
    char line[512];
    int saved = errno, n;
    va_list ap;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (n > 0) {
        if (n > (int)sizeof(line) - 2)
            n = (int)sizeof(line) - 2;
        line[n++] = '\n';
        pbs_conf_write(pbs_conf.log, line, (unsigned long)n);
    }
    errno = saved;
}

static void complain(const char *name, const char *value, const char *used)
{
    if (pbs_conf.verbose)
        pbs_log("pbufshim: %s=%.100s is not valid, using %s", name, value, used);
}

static unsigned number(const char *name, unsigned lo, unsigned hi, bool power_of_two, unsigned def)
{
    const char *s = getenv(name);
    char *end, text[16];
    unsigned long v;

    if (!s || !*s)
        return def;
    errno = 0;
    v = strtoul(s, &end, 10);
    if (errno || *end || *s == '-' || v < lo || v > hi || (power_of_two && (v & (v - 1)))) {
        snprintf(text, sizeof(text), "%u", def);
        complain(name, s, def ? text : "the default");
        return def;
    }
    return (unsigned)v;
}

static bool flag(const char *name)
{
    const char *s = getenv(name);

    if (!s || !*s || !strcmp(s, "0"))
        return false;
    if (strcmp(s, "1") != 0)
        complain(name, s, "1");
    return true;
}

static void text(const char *name, char *to, size_t room)
{
    const char *s = getenv(name);

    if (!s)
        return;
    if (strlen(s) >= room) {
        complain(name, s, "nothing");
        return;
    }
    memcpy(to, s, strlen(s) + 1);
}

/* One of `names`, of which the first is the default; its place among them. */
static unsigned choice(const char *name, const char *const names[3])
{
    const char *s = getenv(name);

    for (unsigned i = 0; s && *s && i < 3; i++)
        if (!strcmp(s, names[i]))
            return i;
    if (s && *s)
        complain(name, s, names[0]);
    return 0;
}

/* Bytes, or with a K, M or G behind it so many KiB, MiB or GiB. */
static unsigned long size(const char *name, unsigned long def)
{
    static const char units[] = "KMG";
    const char *s = getenv(name), *unit;
    unsigned long v, shift = 0;
    char *end;

    if (!s || !*s)
        return def;
    errno = 0;
    v = strtoul(s, &end, 10);
    for (unit = units; *unit && *unit != *end;)
        unit++;
    if (*unit) {
        shift = 10 * (unsigned long)(unit - units + 1);
        end++;
    }
    if (errno || *end || *s < '0' || *s > '9' || v > (unsigned long)LONG_MAX >> shift) {
        complain(name, s, "the default");
        return def;
    }
    return v << shift;
}

static const char *program_name(void)
{
    static char exe[512];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    const char *slash;

    if (n <= 0)
        return program_invocation_short_name;
    exe[n] = '\0';
    slash = strrchr(exe, '/');
    return slash ? slash + 1 : exe;
}

#define PORTS 16

/* Ports named for this program by a list; all: an entry named it without a port. */
struct port_list {
    unsigned n, port[PORTS];
    bool named, all;
};

static struct port_list only, exclude;

static bool is_this_program(const char *name, size_t len)
{
    const char *exe = program_name();

    return (strlen(exe) == len && !strncmp(name, exe, len)) ||
           (strlen(program_invocation_short_name) == len &&
            !strncmp(name, program_invocation_short_name, len));
}

/* Reads a comma-separated list of NAME or NAME:PORT. */
static void read_list(const char *var, struct port_list *list)
{
    const char *s = getenv(var);

    while (s && *s) {
        size_t len = strcspn(s, ","), name = strcspn(s, ":,");

        if (name && is_this_program(s, name)) {
            char *end;
            unsigned long port = name < len ? strtoul(s + name + 1, &end, 10) : 0;

            list->named = true;
            if (name == len)
                list->all = true;
            else if (end != s + len || !port || port > 65535 || list->n == PORTS)
                complain(var, s, "the list without this entry");
            else
                list->port[list->n++] = (unsigned)port;
        }
        s += len + (s[len] == ',');
    }
}

static bool has_port(const struct port_list *list, unsigned port)
{
    for (unsigned i = 0; i < list->n; i++)
        if (list->port[i] == port)
            return true;
    return list->all;
}

bool pbs_conf_allows_port(unsigned port)
{
    if (only.named && !has_port(&only, port))
        return false;
    return !exclude.named || !has_port(&exclude, port);
}

void pbs_conf_init(void)
{
    const char *only_env;
    const char *verbose;
    int saved = errno;

    stderr_known = fstat(2, &stderr_at_start) == 0;
    pbs_conf.enabled = true;
    if (getauxval(AT_SECURE))
        goto out;
    verbose = getenv("PBUFSHIM_VERBOSE"); /* needed to complain about the rest */
    pbs_conf.verbose = verbose && *verbose;
    text("PBUFSHIM_LOG", pbs_conf.log, sizeof(pbs_conf.log));
    pbs_conf.verbose = flag("PBUFSHIM_VERBOSE");
    text("PBUFSHIM_STATS", pbs_conf.stats, sizeof(pbs_conf.stats));
    if (!strcmp(pbs_conf.stats, "0"))
        pbs_conf.stats[0] = '\0';
    pbs_conf.policy = choice("PBUFSHIM_POLICY", (const char *[]){"auto", "always", "never"});
    pbs_conf.inc = choice("PBUFSHIM_INC", (const char *[]){"auto", "on", "off"});
    pbs_conf.groups = choice("PBUFSHIM_GROUPS", (const char *[]){"auto", "shared", "socket"});
    pbs_conf.bufs = number("PBUFSHIM_BUFS", 2, 1024, true, 0);
    pbs_conf.buf_size = number("PBUFSHIM_BUF_SIZE", 64, 65536, false, 0);
    pbs_conf.memory = size("PBUFSHIM_MEMORY", pbs_conf.memory);
    if (flag("PBUFSHIM_DISABLE"))
        pbs_conf.enabled = false;
    only_env = getenv("PBUFSHIM_ONLY");
    read_list("PBUFSHIM_ONLY", &only);
    read_list("PBUFSHIM_EXCLUDE", &exclude);
    if ((only_env && *only_env && !only.named) || exclude.all)
        pbs_conf.enabled = false;
out:
    errno = saved;
}

#include "script.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

const struct fz_name fz_msg_flags[] = {
    {"PEEK", MSG_PEEK},         {"WAITALL", MSG_WAITALL},   {"DONTWAIT", MSG_DONTWAIT},
    {"TRUNC", MSG_TRUNC},       {"OOB", MSG_OOB},           {"NOSIGNAL", MSG_NOSIGNAL},
    {"CTRUNC", MSG_CTRUNC},     {"EOR", MSG_EOR},           {"WAITFORONE", MSG_WAITFORONE},
    {"ERRQUEUE", MSG_ERRQUEUE}, {"CMSG", MSG_CMSG_CLOEXEC}, {NULL, 0},
};

const struct fz_name fz_poll_bits[] = {
    {"IN", POLLIN},         {"PRI", POLLPRI},       {"OUT", POLLOUT},       {"RDHUP", POLLRDHUP},
    {"ERR", POLLERR},       {"HUP", POLLHUP},       {"NVAL", POLLNVAL},     {"RDNORM", POLLRDNORM},
    {"RDBAND", POLLRDBAND}, {"WRNORM", POLLWRNORM}, {"WRBAND", POLLWRBAND}, {NULL, 0},
};

const struct fz_name fz_epoll_bits[] = {
    {"IN", EPOLLIN},
    {"PRI", EPOLLPRI},
    {"OUT", EPOLLOUT},
    {"RDHUP", EPOLLRDHUP},
    {"ERR", EPOLLERR},
    {"HUP", EPOLLHUP},
    {"RDNORM", EPOLLRDNORM},
    {"RDBAND", EPOLLRDBAND},
    {"WRNORM", EPOLLWRNORM},
    {"WRBAND", EPOLLWRBAND},
    {"ONESHOT", EPOLLONESHOT},
    {"ET", EPOLLET},
    {NULL, 0},
};

static long futex(_Atomic uint32_t *word, long what, long val, const struct timespec *limit)
{
    register const struct timespec *r10 __asm__("r10") = limit;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"((long)SYS_futex), "D"(word), "S"(what), "d"(val), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}

int fz_futex_wait(_Atomic uint32_t *word, uint32_t val, long us)
{
    struct timespec ts = {us / 1000000, us % 1000000 * 1000};

    return (int)futex(word, FUTEX_WAIT, (long)val, us < 0 ? NULL : &ts);
}

void fz_futex_wake(_Atomic uint32_t *word)
{
    futex(word, FUTEX_WAKE, 0x7fffffff, NULL);
}

int fz_parse(struct fz_op *op, const char *line)
{
    char *save, *tok, *end;

    memset(op, 0, sizeof(*op));
    if (strlen(line) >= sizeof(op->store))
        return -EINVAL;
    strcpy(op->store, line);
    tok = strtok_r(op->store, " \n", &save);
    if (!tok || !strchr("tkpd", tok[0]))
        return -EINVAL;
    op->actor = tok[0];
    op->idx = (int)strtol(tok + 1, &end, 10);
    op->mode = *end;
    if (op->idx < 0 || (op->actor == 't' && op->idx >= FZ_THREADS) ||
        (op->actor == 'k' && op->idx >= FZ_KIDS))
        return -EINVAL;
    op->verb = strtok_r(NULL, " \n", &save);
    if (!op->verb)
        return -EINVAL;
    while ((tok = strtok_r(NULL, " \n", &save))) {
        if (op->nwords == FZ_WORDS)
            return -EINVAL;
        op->word[op->nwords++] = tok;
    }
    return 0;
}

const char *fz_word(const struct fz_op *op, int n)
{
    for (int i = 0; i < op->nwords; i++)
        if (!strchr(op->word[i], '=') && n-- == 0)
            return op->word[i];
    return "";
}

const char *fz_str(const struct fz_op *op, const char *key, const char *def)
{
    size_t len = strlen(key);

    for (int i = 0; i < op->nwords; i++)
        if (!strncmp(op->word[i], key, len) && op->word[i][len] == '=')
            return op->word[i] + len + 1;
    return def;
}

long fz_num(const struct fz_op *op, const char *key, long def)
{
    const char *s = fz_str(op, key, NULL);

    return s ? strtol(s, NULL, 0) : def;
}

int fz_ref(const char *s, char kind, int max)
{
    char *end;
    long n;

    if (s[0] != kind || s[1] < '0' || s[1] > '9')
        return -1;
    n = strtol(s + 1, &end, 10);
    return n < max ? (int)n : -1;
}

unsigned long fz_flags(const char *s, const struct fz_name *table)
{
    unsigned long val = 0;

    while (*s) {
        size_t len = strcspn(s, "|,");

        for (const struct fz_name *t = table; t->name; t++)
            if (strlen(t->name) == len && !strncmp(t->name, s, len))
                val |= t->val;
        s += len;
        if (*s != '|')
            break;
        s++;
    }
    return val;
}

void fz_cat(char *out, size_t size, const char *fmt, ...)
{
    size_t used = strlen(out);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out + used, size - used, fmt, ap);
    va_end(ap);
}

void fz_flags_text(char *out, size_t size, unsigned long val, const struct fz_name *table)
{
    const char *sep = "";

    if (!val)
        fz_cat(out, size, "0");
    for (; table->name; table++) {
        if (!(val & table->val))
            continue;
        fz_cat(out, size, "%s%s", sep, table->name);
        val &= ~table->val;
        sep = "|";
    }
    if (val)
        fz_cat(out, size, "%s%#lx", sep, val);
}

void fz_script_add(struct fz_script *s, const char *fmt, ...)
{
    char buf[FZ_LINE];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    if (s->n < FZ_MAX_LINES)
        s->line[s->n++] = strdup(buf);
}

void fz_script_free(struct fz_script *s)
{
    for (int i = 0; i < s->n; i++)
        free(s->line[i]);
    s->n = 0;
}

int fz_script_load(struct fz_script *s, const char *path)
{
    FILE *in = fopen(path, "re");
    char buf[FZ_LINE];
    struct fz_op op;
    int err = 0;

    if (!in)
        return -errno;
    while (!err && fgets(buf, sizeof(buf), in)) {
        buf[strcspn(buf, "#\n")] = 0;
        if (!buf[strspn(buf, " \t")])
            continue;
        err = fz_parse(&op, buf);
        if (err)
            fprintf(stderr, "%s: cannot read: %s\n", path, buf);
        else
            fz_script_add(s, "%s", buf);
    }
    fclose(in);
    return err;
}

void fz_script_print(const struct fz_script *s, FILE *out)
{
    for (int i = 0; i < s->n; i++)
        fprintf(out, "%s\n", s->line[i]);
}

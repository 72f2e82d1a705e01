/*
 * The program under test: it is told what to call through shared memory and knows nothing of an
 * interposer. Started by the driver, one process a script, with the mapping as descriptor 3.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

extern __thread struct fz_slot *fz_mine;
extern __thread sigjmp_buf *fz_back;

struct fz_shared *fz_sh;
int fz_proc;

void fz_text(struct fz_slot *s, const char *fmt, ...)
{
    size_t used = strlen(s->text);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(s->text + used, sizeof(s->text) - used, fmt, ap);
    va_end(ap);
}

void fz_result(struct fz_slot *s, long ret, int err)
{
    char head[64];

    s->ret = ret;
    if (ret < 0)
        snprintf(head, sizeof(head), "-> %ld %s", ret, strerrorname_np(err));
    else
        snprintf(head, sizeof(head), "-> %ld", ret);
    /* complaints may already stand there */
    memmove(s->text + strlen(head), s->text,
            strnlen(s->text, sizeof(s->text) - strlen(head) - 1) + 1);
    memcpy(s->text, head, strlen(head));
    s->text[sizeof(s->text) - 1] = 0;
}

int fz_fd_of(const struct fz_op *op, int n, int *conn)
{
    int var = fz_ref(fz_word(op, n), 'f', FZ_FDS);

    if (conn)
        *conn = var < 0 || !fz_fds[var].open ? -1 : fz_fds[var].conn;
    if (var >= 0)
        return fz_fds[var].num;
    /* a listener stands for itself where a call is to fail on it */
    var = fz_ref(fz_word(op, n), 'l', FZ_LISTENERS);
    return var < 0 ? -1 : fz_sh->listener[var];
}

void fz_fd_set(int var, int num, int conn)
{
    if (var < 0)
        return;
    fz_fds[var].conn = conn;
    fz_fds[var].num = num;
    fz_fds[var].open = num >= 0;
}

void fz_fd_closed(int num)
{
    for (int i = 0; i < FZ_FDS; i++)
        if (fz_fds[i].num == num)
            fz_fds[i].open = 0;
    for (int i = 0; i < FZ_EPOLLS; i++)
        if (fz_eps[i] == num)
            fz_eps[i] = -1;
}

static long now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void execute(struct fz_slot *s)
{
    struct fz_op op;
    long begin = now_ms();

    if (fz_parse(&op, s->line) ||
        !(fz_exec_recv(s, &op) || fz_exec_send(s, &op) || fz_exec_wait(s, &op) ||
          fz_exec_life(s, &op) || fz_exec_opt(s, &op) || fz_exec_task(s, &op) ||
          fz_exec_proc(s, &op)))
        fz_text(s, "no such verb");
    /* a jiffy of grace: timeouts are kept in them */
    if (op.mode == '~')
        fz_text(s, now_ms() - begin >= fz_num(&op, "limit", 0) - 5 ? " waited" : " at once");
}

static void set_state(struct fz_slot *s, uint32_t state)
{
    s->state = state;
    fz_futex_wake(&s->state);
}

static void gone(void *arg)
{
    set_state(arg, FZ_GONE);
}

/* For the next line; a child whose driver has died has nobody left to end it. */
static void wait_posted(struct fz_slot *s)
{
    uint32_t state;

    while ((state = s->state) != FZ_POSTED) {
        fz_futex_wait(&s->state, state, fz_proc ? 1000000 : -1);
        if (fz_proc && kill(fz_sh->driver, 0) && errno == ESRCH)
            _exit(1);
    }
}

void fz_serve(int n, uint32_t state)
{
    struct fz_slot *s = &fz_sh->slot[n];
    sigjmp_buf back;

    fz_mine = s;
    s->tid = (int)syscall(SYS_gettid);
    set_state(s, state);
    pthread_cleanup_push(gone, s);
    for (;;) {
        wait_posted(s);
        s->state = FZ_RUNNING;
        if (!sigsetjmp(back, 1)) {
            fz_back = &back;
            execute(s);
        } else
            fz_text(s, "jumped out");
        fz_back = NULL;
        set_state(s, FZ_DONE);
    }
    pthread_cleanup_pop(0);
}

/*
 * ThreadSanitizer, if it is preloaded, reads the symbols at its first report, also at one that is then
 * suppressed, and closes what it has opened by the library's close(): what it finds there it cannot report,
 * and so it waits for itself.
 */
static void read_symbols(void)
{
    void (*symbolize)(void *pc, const char *fmt, char *buf, size_t size) =
        dlsym(RTLD_DEFAULT, "__sanitizer_symbolize_pc");
    char name[100];

    if (symbolize && dlsym(RTLD_DEFAULT, "__tsan_init"))
        symbolize(__builtin_return_address(0), "%f", name, sizeof(name));
}

/* runner: serves slot 0. With arguments it is an image that a script has executed: exec_proc.c. */
int main(int argc, char **argv)
{
    int shm = argc > 1 ? open(argv[1], O_RDWR | O_CLOEXEC) : FZ_SHM_FD, slot = 0;

    fz_sh = mmap(NULL, sizeof(*fz_sh), PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0);
    if (fz_sh == MAP_FAILED)
        return 1;
    close(shm);
    if (argc > 1 && !fz_proc_resume(argc, argv, &slot))
        return 0;
    read_symbols();
    fz_task_init();
    fz_serve(slot, argc > 1 ? FZ_DONE : FZ_IDLE);
    return 0;
}

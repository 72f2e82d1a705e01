/*
 * Every function beneath us: type, name, parameters, arguments, and the system call that stands in
 * for it while it is being bound (NONE: it has none). Variadic functions are listed with the
 * arguments that they can have: the x86-64 ABI passes them alike.
 */
#define PBS_REAL_LIST(X)                                                                           \
    X(ssize_t, read, (int fd, void *buf, size_t n), (fd, buf, n), SYS_read)                        \
    X(ssize_t, readv, (int fd, const struct iovec *iov, int n), (fd, iov, n), SYS_readv)           \
    X(ssize_t, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags), NONE)          \
    X(ssize_t, recvfrom,                                                                           \
      (int fd, void *buf, size_t n, int flags, struct sockaddr *addr, socklen_t *addrlen),         \
      (fd, buf, n, flags, addr, addrlen), SYS_recvfrom)                                            \
    X(ssize_t, recvmsg, (int fd, struct msghdr *msg, int flags), (fd, msg, flags), SYS_recvmsg)    \
    X(int, recvmmsg,                                                                               \
      (int fd, struct mmsghdr *vec, unsigned n, int flags, struct timespec *timeout),              \
      (fd, vec, n, flags, timeout), SYS_recvmmsg)                                                  \
    X(ssize_t, preadv2, (int fd, const struct iovec *iov, int n, off_t off, int flags),            \
      (fd, iov, n, off, flags), NONE)                                                              \
    X(ssize_t, preadv64v2, (int fd, const struct iovec *iov, int n, off64_t off, int flags),       \
      (fd, iov, n, off, flags), NONE)                                                              \
    X(ssize_t, __read_chk, (int fd, void *buf, size_t n, size_t room), (fd, buf, n, room), NONE)   \
    X(ssize_t, __recv_chk, (int fd, void *buf, size_t n, size_t room, int flags),                  \
      (fd, buf, n, room, flags), NONE)                                                             \
    X(ssize_t, __recvfrom_chk,                                                                     \
      (int fd, void *buf, size_t n, size_t room, int flags, struct sockaddr *addr,                 \
       socklen_t *addrlen),                                                                        \
      (fd, buf, n, room, flags, addr, addrlen), NONE)                                              \
    X(int, socket, (int domain, int type, int proto), (domain, type, proto), SYS_socket)           \
    X(int, socketpair, (int domain, int type, int proto, int *sv), (domain, type, proto, sv),      \
      SYS_socketpair)                                                                              \
    X(int, accept, (int fd, struct sockaddr *addr, socklen_t *len), (fd, addr, len), SYS_accept)   \
    X(int, accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags),                    \
      (fd, addr, len, flags), SYS_accept4)                                                         \
    X(int, connect, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len),         \
      SYS_connect)                                                                                 \
    X(int, listen, (int fd, int backlog), (fd, backlog), SYS_listen)                               \
    X(int, shutdown, (int fd, int how), (fd, how), SYS_shutdown)                                   \
    X(int, setsockopt, (int fd, int level, int name, const void *val, socklen_t len),              \
      (fd, level, name, val, len), SYS_setsockopt)                                                 \
    X(int, getsockopt, (int fd, int level, int name, void *val, socklen_t *len),                   \
      (fd, level, name, val, len), SYS_getsockopt)                                                 \
    X(int, getpeername, (int fd, struct sockaddr *addr, socklen_t *len), (fd, addr, len),          \
      SYS_getpeername)                                                                             \
    X(int, getsockname, (int fd, struct sockaddr *addr, socklen_t *len), (fd, addr, len),          \
      SYS_getsockname)                                                                             \
    X(int, close, (int fd), (fd), SYS_close)                                                       \
    X(int, close_range, (unsigned lo, unsigned hi, int flags), (lo, hi, flags), SYS_close_range)   \
    X(int, unshare, (int flags), (flags), SYS_unshare)                                             \
    X(void, closefrom, (int lo), (lo), NONE)                                                       \
    X(int, dup, (int fd), (fd), SYS_dup)                                                           \
    X(int, dup2, (int fd, int to), (fd, to), SYS_dup2)                                             \
    X(int, dup3, (int fd, int to, int flags), (fd, to, flags), SYS_dup3)                           \
    X(int, fcntl, (int fd, int cmd, long arg), (fd, cmd, arg), SYS_fcntl)                          \
    X(int, fcntl64, (int fd, int cmd, long arg), (fd, cmd, arg), SYS_fcntl)                        \
    X(int, ioctl, (int fd, unsigned long req, long arg), (fd, req, arg), SYS_ioctl)                \
    X(FILE *, fdopen, (int fd, const char *mode), (fd, mode), NONE)                                \
    X(int, fgetc, (FILE * f), (f), NONE)                                                           \
    X(int, fgetc_unlocked, (FILE * f), (f), NONE)                                                  \
    X(int, getc, (FILE * f), (f), NONE)                                                            \
    X(int, getc_unlocked, (FILE * f), (f), NONE)                                                   \
    X(int, getchar, (void), (), NONE)                                                              \
    X(int, getchar_unlocked, (void), (), NONE)                                                     \
    X(int, getw, (FILE * f), (f), NONE)                                                            \
    X(int, __uflow, (FILE * f), (f), NONE)                                                         \
    X(int, __underflow, (FILE * f), (f), NONE)                                                     \
    X(char *, fgets, (char *s, int n, FILE *f), (s, n, f), NONE)                                   \
    X(char *, fgets_unlocked, (char *s, int n, FILE *f), (s, n, f), NONE)                          \
    X(char *, __fgets_chk, (char *s, size_t room, int n, FILE *f), (s, room, n, f), NONE)          \
    X(char *, __fgets_unlocked_chk, (char *s, size_t room, int n, FILE *f), (s, room, n, f), NONE) \
    X(char *, gets, (char *s), (s), NONE)                                                          \
    X(char *, __gets_chk, (char *s, size_t room), (s, room), NONE)                                 \
    X(size_t, fread, (void *p, size_t size, size_t n, FILE *f), (p, size, n, f), NONE)             \
    X(size_t, fread_unlocked, (void *p, size_t size, size_t n, FILE *f), (p, size, n, f), NONE)    \
    X(size_t, __fread_chk, (void *p, size_t room, size_t size, size_t n, FILE *f),                 \
      (p, room, size, n, f), NONE)                                                                 \
    X(size_t, __fread_unlocked_chk, (void *p, size_t room, size_t size, size_t n, FILE *f),        \
      (p, room, size, n, f), NONE)                                                                 \
    X(ssize_t, getline, (char **line, size_t *n, FILE *f), (line, n, f), NONE)                     \
    X(ssize_t, getdelim, (char **line, size_t *n, int end, FILE *f), (line, n, end, f), NONE)      \
    X(int, vfscanf, (FILE * f, const char *fmt, va_list ap), (f, fmt, ap), NONE)                   \
    X(int, vscanf, (const char *fmt, va_list ap), (fmt, ap), NONE)                                 \
    X(int, __isoc99_vfscanf, (FILE * f, const char *fmt, va_list ap), (f, fmt, ap), NONE)          \
    X(int, __isoc99_vscanf, (const char *fmt, va_list ap), (fmt, ap), NONE)                        \
    X(int, fclose, (FILE * f), (f), NONE)                                                          \
    X(FILE *, freopen, (const char *path, const char *mode, FILE *f), (path, mode, f), NONE)       \
    X(FILE *, freopen64, (const char *path, const char *mode, FILE *f), (path, mode, f), NONE)     \
    X(int, fcloseall, (void), (), NONE)                                                            \
    X(ssize_t, write, (int fd, const void *buf, size_t n), (fd, buf, n), SYS_write)                \
    X(ssize_t, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n), SYS_writev)         \
    X(ssize_t, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags), NONE)    \
    X(ssize_t, sendto,                                                                             \
      (int fd, const void *buf, size_t n, int flags, const struct sockaddr *addr, socklen_t len),  \
      (fd, buf, n, flags, addr, len), SYS_sendto)                                                  \
    X(ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags),           \
      SYS_sendmsg)                                                                                 \
    X(ssize_t, pwritev2, (int fd, const struct iovec *iov, int n, off_t off, int flags),           \
      (fd, iov, n, off, flags), NONE)                                                              \
    X(ssize_t, pwritev64v2, (int fd, const struct iovec *iov, int n, off64_t off, int flags),      \
      (fd, iov, n, off, flags), NONE)                                                              \
    X(int, aio_read, (struct aiocb * cb), (cb), NONE)                                              \
    X(int, aio_read64, (struct aiocb64 * cb), (cb), NONE)                                          \
    X(int, sendmmsg, (int fd, struct mmsghdr *vec, unsigned n, int flags), (fd, vec, n, flags),    \
      SYS_sendmmsg)                                                                                \
    X(ssize_t, sendfile, (int to, int from, off_t *off, size_t n), (to, from, off, n),             \
      SYS_sendfile)                                                                                \
    X(ssize_t, splice,                                                                             \
      (int from, off64_t *offin, int to, off64_t *offout, size_t n, unsigned flags),               \
      (from, offin, to, offout, n, flags), SYS_splice)                                             \
    X(int, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout), SYS_poll)        \
    X(int, ppoll,                                                                                  \
      (struct pollfd * fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask),       \
      (fds, n, timeout, mask), NONE)                                                               \
    X(int, __poll_chk, (struct pollfd * fds, nfds_t n, int timeout, size_t room),                  \
      (fds, n, timeout, room), NONE)                                                               \
    X(int, __ppoll_chk,                                                                            \
      (struct pollfd * fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,        \
       size_t room),                                                                               \
      (fds, n, timeout, mask, room), NONE)                                                         \
    X(int, select, (int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout),              \
      (n, r, w, e, timeout), SYS_select)                                                           \
    X(int, pselect,                                                                                \
      (int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *timeout,                     \
       const sigset_t *mask),                                                                      \
      (n, r, w, e, timeout, mask), NONE)                                                           \
    X(int, epoll_create, (int size), (size), SYS_epoll_create)                                     \
    X(int, epoll_create1, (int flags), (flags), SYS_epoll_create1)                                 \
    X(int, epoll_ctl, (int ep, int op, int fd, struct epoll_event *ev), (ep, op, fd, ev),          \
      SYS_epoll_ctl)                                                                               \
    X(int, epoll_wait, (int ep, struct epoll_event *ev, int max, int timeout),                     \
      (ep, ev, max, timeout), SYS_epoll_wait)                                                      \
    X(int, epoll_pwait,                                                                            \
      (int ep, struct epoll_event *ev, int max, int timeout, const sigset_t *mask),                \
      (ep, ev, max, timeout, mask), NONE)                                                          \
    X(int, epoll_pwait2,                                                                           \
      (int ep, struct epoll_event *ev, int max, const struct timespec *timeout,                    \
       const sigset_t *mask),                                                                      \
      (ep, ev, max, timeout, mask), NONE)                                                          \
    X(pid_t, fork, (void), (), NONE)                                                               \
    X(pid_t, _Fork, (void), (), NONE)                                                              \
    X(int, execve, (const char *path, char *const argv[], char *const envp[]), (path, argv, envp), \
      SYS_execve)                                                                                  \
    X(int, execv, (const char *path, char *const argv[]), (path, argv), NONE)                      \
    X(int, execvp, (const char *path, char *const argv[]), (path, argv), NONE)                     \
    X(int, execvpe, (const char *path, char *const argv[], char *const envp[]),                    \
      (path, argv, envp), NONE)                                                                    \
    X(int, fexecve, (int fd, char *const argv[], char *const envp[]), (fd, argv, envp), NONE)      \
    X(int, execveat,                                                                               \
      (int fd, const char *path, char *const argv[], char *const envp[], int flags),               \
      (fd, path, argv, envp, flags), SYS_execveat)                                                 \
    X(int, posix_spawn,                                                                            \
      (pid_t * pid, const char *path, const posix_spawn_file_actions_t *acts,                      \
       const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),                     \
      (pid, path, acts, attr, argv, envp), NONE)                                                   \
    X(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t * acts, int fd, int to),  \
      (acts, fd, to), NONE)                                                                        \
    X(int, posix_spawnp,                                                                           \
      (pid_t * pid, const char *path, const posix_spawn_file_actions_t *acts,                      \
       const posix_spawnattr_t *attr, char *const argv[], char *const envp[]),                     \
      (pid, path, acts, attr, argv, envp), NONE)                                                   \
    X(int, system, (const char *command), (command), NONE)                                         \
    X(int, wordexp, (const char *words, wordexp_t *we, int flags), (words, we, flags), NONE)       \
    X(FILE *, popen, (const char *command, const char *mode), (command, mode), NONE)               \
    X(void *, dlopen, (const char *path, int mode), (path, mode), NONE)                            \
    X(void *, dlmopen, (long space, const char *path, int mode), (space, path, mode), NONE)        \
    X(int, daemon, (int nochdir, int noclose), (nochdir, noclose), NONE)                           \
    X(pid_t, forkpty, (int *master, char *name, const struct termios *t, const struct winsize *w), \
      (master, name, t, w), NONE)                                                                  \
    X(int, clone,                                                                                  \
      (int (*fn)(void *), void *stack, int flags, void *arg, void *ptid, void *tls, void *ctid),   \
      (fn, stack, flags, arg, ptid, tls, ctid), NONE)                                              \
    X(int, login_tty, (int fd), (fd), NONE)                                                        \
    X(void, _exit, (int status), (status), SYS_exit_group)                                         \
    X(int, prctl, (int op, unsigned long a, unsigned long b, unsigned long c, unsigned long d),    \
      (op, a, b, c, d), SYS_prctl)                                                                 \
    X(long, syscall, (long nr, long a, long b, long c, long d, long e, long f),                    \
      (nr, a, b, c, d, e, f), NONE)                                                                \
    X(int, sigaction, (int sig, const struct sigaction *act, struct sigaction *old),               \
      (sig, act, old), NONE)                                                                       \
    X(sighandler_t, sigset, (int sig, sighandler_t disp), (sig, disp), NONE)                       \
    X(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t off),                  \
      (at, n, prot, flags, fd, off), SYS_mmap)                                                     \
    X(int, munmap, (void *at, size_t n), (at, n), SYS_munmap)                                      \
    X(int, mprotect, (void *at, size_t n, int prot), (at, n, prot), SYS_mprotect)                  \
    X(int, pkey_mprotect, (void *at, size_t n, int prot, int key), (at, n, prot, key),             \
      SYS_pkey_mprotect)                                                                           \
    X(void *, mremap, (void *at, size_t n, size_t want, int flags, void *to),                      \
      (at, n, want, flags, to), SYS_mremap)                                                        \
    X(int, shmdt, (const void *at), (at), SYS_shmdt)

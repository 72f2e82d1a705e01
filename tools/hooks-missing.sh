#!/bin/bash
# hooks-missing.sh [--family]: prints the functions of this machine's libc that could concern the
# library and that shim/hooks.list does not decide about; with --family all of them.
#
# A libc update that brings a new way to receive, to make or close a descriptor, to wait, to make
# or end a process or to handle a signal shows up here, before a program uses it past the library.
set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
list=$top/shim/hooks.list

# Names without leading underscores and without the endings 64 and _chk. Left out on purpose: what
# only asks or changes the file behind a descriptor (fstat, fchmod, fsync, ftruncate, xattr), what
# only makes a descriptor for itself and closes it again (getaddrinfo, syslog, opendir's readdir).
family='
read|readv|pread|preadv|preadv2|preadv64v2
recv|recvfrom|recvmsg|recvmmsg
write|writev|pwrite|pwritev|pwritev2|pwritev64v2|send|sendto|sendmsg|sendmmsg|v?dprintf
sendfile|splice|tee|vmsplice|copy_file_range|process_vm_(read|write)v
aio_.*|lio_listio|getmsg|getpmsg|putmsg|putpmsg
socket|socketpair|accept|accept4|connect|bind|bindresvport|listen|shutdown
[gs]etsockopt|getsockname|getpeername|sockatmark|isfdtype|[gs]et(ipv4)?sourcefilter
rcmd|rcmd_af|rexec|rexec_af|rresvport|rresvport_af
open|openat|open_by_handle_at|open_tree|open.*_2|creat|fsopen|fspick|fsmount
close|close_range|closefrom|close_nocancel|dup|dup2|dup3|fcntl|fcntl_nocancel|fcntl_time|ioctl|lockf
pipe|pipe2|eventfd|eventfd_(read|write)|signalfd|timerfd_.*|inotify_.*|fanotify_.*
memfd_.*|pidfd_.*|userfaultfd|shm_open|mq_.*|mkos?temps?|tmpfile
posix_openpt|getpt|openpty|forkpty|login_tty
fdopen|IO_fdopen|freopen|fclose|IO_fclose|fcloseall|IO_file_close.*|fdopendir|popen|IO_popen|pclose|IO_pclose
poll|ppoll|select|pselect|epoll_.*
fork|Fork|vfork|libc_fork|clone|clone2|unshare|setns|exec.*|fexecve|posix_spawnp?|system|libc_system|daemon
wait|wait[34]|waitid|waitpid|exit|Exit|quick_exit|abort|pthread_exit|thrd_exit|at_quick_exit
pthread_(create|cancel|kill|sigqueue|sigmask|atfork|setcancel.*|testcancel|kill_other.*)|thrd_create
register_atfork|libc_current_sig.*|libc_allocate_rtsig.*|cxa_thread_atexit_impl
sig|sig[^n].*|signal|signalfd|bsd_signal|ssignal|sysv_signal|gsignal|raise|kill|killpg|tgkill|xpg_sigpause|pause|[gs]etitimer
timer_create|timer_settime|alarm|ualarm
(sig)?longjmp|libc_(sig)?longjmp|[gs]etcontext|swapcontext
syscall|prctl|arch_prctl|personality|ptrace
mmap|munmap|mremap|mprotect|pkey_mprotect|madvise|shmat|shmdt|remap_file_pages|brk|sbrk
'

libc_names() {
    local libc
    libc=$(ldd /bin/sh | awk '$1 == "libc.so.6" { print $3 }')
    nm -D --defined-only "$libc" |
        awk '$2 ~ /^[TWi]$/ && $3 !~ /GLIBC_PRIVATE/ { sub(/@.*/, "", $3); print $3 }' | sort -u
}

family_names() {
    local pattern
    pattern=$(sed '/^$/d' <<<"$family" | paste -sd'|')
    libc_names | grep -E "^_*($pattern)(64|_chk|64_chk)?\$"
}

case ${1-} in
--family) family_names ;;
'')
    [ -e "$list" ] || {
        printf 'hooks-missing.sh: no %s\n' "$list" >&2
        exit 2
    }
    comm -23 <(family_names) <(awk '!/^#/ && NF { print $1 }' "$list" | sort -u)
    ;;
*)
    printf 'usage: hooks-missing.sh [--family]\n' >&2
    exit 2
    ;;
esac

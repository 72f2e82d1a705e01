# Counts the kernel entries that a process makes to receive and to wait, in what `perf script -F
# tid,event,trace` prints of raw_syscalls:* and io_uring:io_uring_complete. sockets: the numbers of its
# TCP sockets, hexadecimal. Prints `name value` lines:
#
#   entries   receives on these sockets, waits (poll, select and epoll_wait in all their forms), and
#             io_uring_enter
#   wakeups   of the waits those that gave something, of the enters those in which a receive or a poll
#             of the ring completed
BEGIN {
    for (n = split(sockets, list, " "); n; n--)
        socket[list[n]] = 1
    # x86-64: read, readv, recvfrom, recvmsg, recvmmsg
    for (n = split("0 19 45 47 299", list, " "); n; n--)
        receives[list[n]] = 1
    # poll, select, epoll_wait, pselect6, ppoll, epoll_pwait, epoll_pwait2
    for (n = split("7 23 232 270 271 281 441", list, " "); n; n--)
        waits[list[n]] = 1
    enter = 426
    entries = wakeups = 0
}
# TID raw_syscalls:sys_enter: NR 45 (1a, 7f..., ...)
$2 == "raw_syscalls:sys_enter:" {
    call[$1] = $4
    fd[$1] = substr($5, 2)
    sub(/[,)].*/, "", fd[$1])
    completed[$1] = 0
    next
}
# TID io_uring:io_uring_complete: ring 0x..., req 0x..., user_data 0x1f, result 64, cflags ...
# The library's own numbers below 16 are neither receives nor polls.
$2 == "io_uring:io_uring_complete:" {
    for (i = 3; i < NF; i++)
        if ($i == "user_data" && length($(i + 1)) > length("0x1,"))
            completed[$1] = 1
    next
}
# TID raw_syscalls:sys_exit: NR 45 = 64
$2 == "raw_syscalls:sys_exit:" && call[$1] == $4 {
    if ($4 == enter) {
        entries++
        wakeups += completed[$1]
    } else if ($4 in waits) {
        entries++
        wakeups += $6 > 0
    } else if (($4 in receives) && (fd[$1] in socket)) {
        entries++
    }
    delete call[$1]
}
END { printf "entries %d\nwakeups %d\n", entries, wakeups }

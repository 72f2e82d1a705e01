#!/bin/bash
# ncat under the library: a stream each way, a program behind it, and a broker that passes on what
# one client sends to all others.
#
# ncat's client asks for EPOLLPRI with each read, and a socket whose urgent data is watched is left to
# the kernel: it must pass for just that reason. The server uses select() and is served.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need ncat openssl

MiB=$((1024 * 1024))

# upload LEG SIZE: client to server.
upload() {
    local leg=$1 name=upload.$1 size=$2 server
    sink_of "$name" "$size"
    input=/dev/null output=$work/$name.sink
    listen "$leg" "$name.server" ncat -l --recv-only 127.0.0.1 @PORT@
    server=$pid
    source_of "$name" "$name" "$size"
    input=$work/$name.in output=
    spawn "$leg" "$name.client" ncat --send-only 127.0.0.1 "$port"
    ends "$pid" 60 "the sending ncat"
    ends "$server" 60 "the receiving ncat"
    same "$name" "$(expected "$name" "$size")" "$(hashed "$name")"
    served "$leg" "$name.server" "ncat as server"
}

# download LEG SIZE: server to client.
download() {
    local leg=$1 name=download.$1 size=$2 server
    source_of "$name" "$name" "$size"
    input=$work/$name.in output=
    listen "$leg" "$name.server" ncat -l --send-only 127.0.0.1 @PORT@
    server=$pid
    sink_of "$name" "$size"
    input=/dev/null output=$work/$name.sink
    spawn "$leg" "$name.client" ncat --recv-only 127.0.0.1 "$port"
    ends "$pid" 60 "the receiving ncat"
    ends "$server" 60 "the sending ncat"
    same "$name" "$(expected "$name" "$size")" "$(hashed "$name")"
    passed "$leg" "$name.client" oob "ncat as client"
}

# programs LEG: a child with cat for each connection. Its socket is open at the fork, so it is plain.
# ncat ends the program as soon as the client has sent all, so the client's input stays open until
# everything has come back. And it does not read while it writes to the program: what is on its way
# must fit into the pipes.
programs() {
    local leg=$1 name=program.$1 server i
    input=/dev/null output=
    listen "$leg" "$name.server" ncat -l -k -e /bin/cat 127.0.0.1 @PORT@
    server=$pid
    for i in 1 2 3 4 5 6 7 8; do
        source_of "$name.$i" "$name.$i" $((i * 8009)) "$work/$name.$i.full"
        sink_of "$name.$i" $((i * 8009))
        input=$work/$name.$i.in output=$work/$name.$i.sink
        spawn "$leg" "$name.client" ncat 127.0.0.1 "$port"
        ends "$pid" 30 "client $i"
        same "$name.$i" "$(expected "$name.$i" $((i * 8009)))" "$(hashed "$name.$i")"
    done
    stop "$server" "the server with a program"
    passed "$leg" "$name.client" oob "clients of a program"
}

# sockets_of PID N: the process has N sockets.
sockets_of() {
    local link n=0
    for link in /proc/"$1"/fd/*; do
        case $(readlink "$link") in socket:*) n=$((n + 1)) ;; esac
    done
    [ "$n" -eq "$2" ]
}

# broker LEG SIZE: one sends, two receive. A broker knows no end, so the receivers are stopped when
# they have all of it; and it is ended by SIGTERM, which leaves it no time for counters.
broker() {
    local leg=$1 name=broker.$1 size=$2 server i receivers=()
    input=/dev/null output=
    listen "$leg" "$name.server" ncat -l --broker 127.0.0.1 @PORT@
    server=$pid
    for i in 1 2; do
        sink_of "$name.$i" "$size"
        input=/dev/null output=$work/$name.$i.sink
        spawn "$leg" "$name.client" ncat --recv-only 127.0.0.1 "$port"
        receivers+=("$pid")
    done
    # The listening socket and one for each client.
    wait_for 10 "the receivers at the broker" sockets_of "$server" 3
    source_of "$name" "$name" "$size"
    input=$work/$name.in output=
    spawn "$leg" "$name.client" ncat --send-only 127.0.0.1 "$port"
    ends "$pid" 60 "the sender"
    for i in 1 2; do
        wait_for 60 "all bytes at receiver $i" test -e "$work/$name.$i.full"
    done
    # Its end closes the receivers' connections: they end by themselves.
    stop "$server" "the broker"
    for i in 1 2; do
        ends "${receivers[i - 1]}" 20 "receiver $i"
        same "$name, receiver $i" "$(expected "$name" "$size")" "$(hashed "$name.$i")"
    done
    passed "$leg" "$name.client" oob "clients of a broker"
}

for leg in plain always auto; do
    size=$((64 * MiB))
    [ "$leg" = always ] || size=$((16 * MiB))
    upload "$leg" "$size"
    download "$leg" "$size"
    programs "$leg"
    broker "$leg" $((4 * MiB))
    printf 'leg %s: right\n' "$leg"
done

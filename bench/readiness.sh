#!/bin/bash
# Servers that wait before they receive: how often they enter the kernel for it, and what that costs.
# A server has a processor of its own, and the load another. LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"
here=$(dirname "$(realpath "$0")")

[ "$cpu_a" != "$cpu_b" ] || skip "needs two processors"

# ---- the servers, each sets $pid and $port ----

waitserver() {
    listen "$1" "$2" "$programs/waitserver" -p @PORT@ -c "$cpu_a" -l 64 "$3"
}

redis() {
    listen "$1" "$2" taskset -c "$cpu_a" redis-server --port @PORT@ --bind 127.0.0.1 --save '' \
        --dir "$work" --loglevel warning
}

memcached() {
    listen "$1" "$2" taskset -c "$cpu_a" memcached -u nobody -l 127.0.0.1 -p @PORT@ -t 2
}

mariadb() {
    [ -d "$work/mariadb" ] ||
        mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$work/mariadb" \
            --auth-root-authentication-method=normal --skip-test-db >"$work/mariadb.out" 2>&1 ||
        fail "mariadb-install-db: $(tail -n 1 "$work/mariadb.out")"
    listen "$1" "$2" taskset -c "$cpu_a" mariadbd --no-defaults --user="$(id -un)" \
        --datadir="$work/mariadb" --socket="$work/mariadb.sock" --bind-address=127.0.0.1 \
        --port=@PORT@ --skip-name-resolve
}

# ---- the loads, about four seconds each ----

lines() {
    "$BUILD/integration/demo/lineload" -c "$cpu_b" -n 20 -l 64 -w 0.5 -t "${1:-3}" "$port"
}

gets() {
    taskset -c "$cpu_b" redis-benchmark -h 127.0.0.1 -p "$port" -q --csv -t get -d 64 -P 1 -c "$1" \
        -n "$2"
}

memcache_gets() {
    taskset -c "$cpu_b" memcslap --servers="127.0.0.1:$port" --concurrency=20 \
        --execute-number=25000 --test=get
}

selects() {
    taskset -c "$cpu_b" mariadb-slap --no-defaults --protocol=tcp -h 127.0.0.1 -P "$port" -u root \
        --create-schema=mysql --no-drop --query='select 1' --concurrency=20 \
        --number-of-queries=400000
}

# ---- entries per wake-up, traced ----

# The numbers of a process's TCP sockets, hexadecimal.
tcp_sockets() {
    local link fd inode
    for link in /proc/"$1"/fd/*; do
        fd=$(readlink "$link") || continue
        inode=${fd#socket:[}
        [ "$inode" != "$fd" ] || continue
        ! awk -v i="${inode%]}" '$10 == i { found = 1 } END { exit !found }' \
            /proc/net/tcp /proc/net/tcp6 || printf '%x ' "${link##*/}"
    done
}

# entries NAME LEG RUN LOAD...: of half a second of the server $pid under the load.
entries() {
    local name=$1 leg=$2 run=$3 load out
    shift 3
    "$@" >"$work/load.out" 2>&1 &
    load=$!
    sleep 1
    perf record -q -m 4096 -e 'raw_syscalls:*,io_uring:io_uring_complete' -p "$pid" \
        -o "$work/perf.data" -- sleep 0.5 2>"$work/perf.err" ||
        fail "perf record: $(tail -n 1 "$work/perf.err")"
    alive "$load" || fail "the load of $name was over too early: $(tail -n 1 "$work/load.out")"
    out=$(perf script -i "$work/perf.data" -F tid,event,trace 2>"$work/perf.err" |
        awk -v sockets="$(tcp_sockets "$pid")" -f "$here/entries.awk")
    wait "$load" || fail "the load of $name: $(tail -n 1 "$work/load.out")"
    [ "$(value wakeups <<<"$out")" -ge 1000 ] || fail "$name: hardly a wake-up: $out"
    record "$name: receive-side kernel entries per wake-up" entries "$leg" "$run" \
        "$(per "$(value entries <<<"$out")" "$(value wakeups <<<"$out")")"
}

traced() {
    local run=$1 leg how
    for leg in "${legs[@]}"; do
        for how in poll packet loop; do
            waitserver "$leg" "traced.$how.$leg.$run" "$how"
            entries "$how server, 20 connections" "$leg" "$run" lines 3
            stop "$pid" waitserver 0
        done
        redis "$leg" "traced.redis.$leg.$run"
        entries "redis-server, 50 connections" "$leg" "$run" gets 50 500000
        stop "$pid" redis-server 0
        memcached "$leg" "traced.memcached.$leg.$run"
        entries "memcached, 20 connections" "$leg" "$run" memcache_gets
        stop "$pid" memcached
        mariadb "$leg" "traced.mariadb.$leg.$run"
        entries "MariaDB, 20 connections" "$leg" "$run" selects
        stop "$pid" mariadbd 0
    done
}

# ---- what it costs ----

cpu_ns() {
    "$programs/cputime" "$pid"
}

# The load warms up for half a second, which counts for the processor time, too, as its lines do.
costs_of_waitserver() {
    local how=$1 leg=$2 run=$3 out before name="$1 server, 20 connections, 64-byte messages"
    waitserver "$leg" "cost.$how.$leg.$run" "$how"
    before=$(cpu_ns)
    out=$(lines 2) || fail "the $how server (leg $leg)"
    record "$name" messages/s "$leg" "$run" "$(value lines_per_s <<<"$out")"
    record "$name: server CPU per message" ns "$leg" "$run" \
        "$(per $(($(cpu_ns) - before)) "$(value total_lines <<<"$out")")"
    record "$name: share of the load's processor in use" share "$leg" "$run" \
        "$(value load_cpu <<<"$out")"
    stop "$pid" waitserver 0
    served "$leg" "cost.$how.$leg.$run" "the $how server"
}

costs_of_redis() {
    local clients=$1 leg=$2 run=$3 n=200000 out before
    redis "$leg" "cost.redis.$clients.$leg.$run"
    gets "$clients" 20000 >"$work/warm"
    before=$(cpu_ns)
    out=$(gets "$clients" "$n") || fail "redis-benchmark (leg $leg): $out"
    record "redis-benchmark -t get -P 1 -c $clients: server CPU per request" ns "$leg" "$run" \
        "$(per $(($(cpu_ns) - before)) "$n")"
    record "redis-benchmark -t get -P 1 -c $clients" requests/s "$leg" "$run" \
        "$(awk -F'"' '$2 == "GET" { print $4 }' <<<"$out")"
    stop "$pid" redis-server 0
    served "$leg" "cost.redis.$clients.$leg.$run" redis-server
}

for what in poll packet loop; do
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            costs_of_waitserver "$what" "$leg" "$run"
        done
    done
done
for clients in 50 200; do
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            costs_of_redis "$clients" "$leg" "$run"
        done
    done
done
# One trace of a kind is much like the next.
if perf record -q -e raw_syscalls:sys_enter -o "$work/perf.data" true 2>"$work/perf.err"; then
    for ((run = 1; run <= (pairs + 1) / 2; run++)); do
        traced "$run"
    done
else
    printf 'no entries per wake-up: %s\n' "$(tail -n 1 "$work/perf.err")"
fi

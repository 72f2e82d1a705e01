#!/bin/bash
# Whole servers, on a processor of their own, with the load on another: the line server of the
# demonstration, and redis. LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"

[ "$cpu_a" != "$cpu_b" ] || skip "needs two processors"
# Here the library as it is by default is looked at, too.
[ -n "${LEGS:-}" ] || legs+=(auto)

# line LEG RUN DEPTH: DEPTH lines of each connection are on their way. With one, the load is near its
# own limit before a fast server is.
line() {
    local leg=$1 run=$2 depth=$3 name out
    name="line server, 20 connections, 64-byte lines, $depth at a time"
    listen "$leg" "line.$leg.$depth.$run" "$BUILD/integration/demo/lineserver" -p @PORT@ -c "$cpu_a"
    out=$("$BUILD/integration/demo/lineload" -c "$cpu_b" -n 20 -l 64 -d "$depth" -t 2 -w 0.5 \
        "$port") || fail "the line server (leg $leg)"
    stop "$pid" "the line server" 0
    record "$name" lines/s "$leg" "$run" "$(value lines_per_s <<<"$out")"
    record "$name: share of the load's processor in use" share "$leg" "$run" \
        "$(value load_cpu <<<"$out")"
    [ "$leg" = plain ] || record "$name: receive-side kernel entries per line" entries "$leg" "$run" \
        "$(per "$(stat_of "line.$leg.$depth.$run" kernel_entries)" "$(value total_lines <<<"$out")")"
    [[ $leg == @(plain|auto|never) ]] || served "$leg" "line.$leg.$depth.$run" "the line server"
    [ "$leg" = never ] ||
        recycling "$name" "$leg" "line.$leg.$depth.$run" "$run" $((64 * depth))
}

redis() {
    local leg=$1 run=$2 out
    listen "$leg" "redis.$leg.$run" taskset -c "$cpu_a" redis-server --port @PORT@ \
        --bind 127.0.0.1 --save '' --dir "$work" --loglevel warning
    out=$(taskset -c "$cpu_b" redis-benchmark -h 127.0.0.1 -p "$port" -q --csv -t set,get -d 64 \
        -P 1 -c 50 -n 200000) || fail "redis-benchmark (leg $leg): $out"
    stop "$pid" redis-server 0
    record "redis-benchmark -t get -d 64 -P 1 -c 50" requests/s "$leg" "$run" \
        "$(awk -F'"' '$2 == "GET" { print $4 }' <<<"$out")"
    [[ $leg == @(plain|auto) ]] || served "$leg" "redis.$leg.$run" redis-server
}

for depth in 1 4; do
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            line "$leg" "$run" "$depth"
        done
    done
    # Under policy never every receive is the plain call, and is counted. Its rate is not of interest.
    ! in_table plain || line never 1 "$depth"
done
for ((run = 1; run <= pairs; run++)); do
    for leg in "${legs[@]}"; do
        redis "$leg" "$run"
    done
done

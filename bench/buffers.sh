#!/bin/bash
# What is held of one connection, and what that is to the others: small messages that come several at a
# time, and peers that send to a loop which does not receive from them. LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"

[ "$cpu_a" != "$cpu_b" ] || skip "needs two processors"

# lines CONNECTIONS SECONDS PORT: four lines of each are on their way.
lines() {
    "$BUILD/integration/demo/lineload" -c "$cpu_b" -n "$1" -l 64 -d 4 -w 0.05 -t "$2" "$3"
}

server() {
    listen "$1" "$2" "$programs/waitserver" -p @PORT@ -c "$cpu_a" -l 64 "$3"
}

pipelined() {
    local how=$1 leg=$2 run=$3 out name="$1 server, 20 connections, 64-byte messages, 4 at a time"
    server "$leg" "pipelined.$how.$leg.$run" "$how"
    out=$(lines 20 1.5 "$port") || fail "the $how server (leg $leg)"
    stop "$pid" waitserver 0
    record "$name" messages/s "$leg" "$run" "$(value lines_per_s <<<"$out")"
    served "$leg" "pipelined.$how.$leg.$run" "the $how server"
    recycling "$name" "$leg" "pipelined.$how.$leg.$run" "$run" 256
}

# ---- stalled connections ----

counts=(0 1 20)

# three_servers HOW LEG: with so many stalled connections as counts says; sets servers, ports, peers.
three_servers() {
    local k
    servers=() ports=() peers=()
    for k in "${counts[@]}"; do
        server "$2" "stalled.$1.$2.$k" "$1"
        servers+=("$pid") ports+=("$port")
        [ "$k" -gt 0 ] || continue
        spawn plain "peers.$1.$2.$k" "$programs/stall" -n "$k" -l 64 "$port"
        peers+=("$pid")
        wait_for 20 "peers that are blocked" grep -q '^unread' "$work/peers.$1.$2.$k.out"
    done
}

# busy I: a short load on server I; sets rate, and cost: the server's processor time per message.
busy() {
    local before out
    before=$("$programs/cputime" "${servers[$1]}")
    out=$(lines 8 0.15 "${ports[$1]}") || fail "a server with ${counts[$1]} stalled connections"
    rate=$(value lines_per_s <<<"$out")
    cost=$(per $(($("$programs/cputime" "${servers[$1]}") - before)) "$(value total_lines <<<"$out")")
}

# lost A B: by how many percent A is less than B.
lost() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", 100 * (1 - a / b) }'
}

# The servers of a leg have short turns one after the other, so that what is compared are neighbours;
# which of them comes first goes round.
stalled() {
    local how=$1 leg=$2 round turn i rate cost rates=() costs=()
    local name="$how server, 8 busy connections"
    three_servers "$how" "$leg"
    for ((round = 1; round <= 4 * pairs; round++)); do
        for ((turn = 0; turn < ${#counts[@]}; turn++)); do
            i=$(((round + turn - 1) % ${#counts[@]}))
            busy "$i"
            rates[i]=$rate costs[i]=$cost
            record "$name, ${counts[i]} stalled" messages/s "$leg" "$round" "$rate"
        done
        for i in 1 2; do
            record "$name, ${counts[i]} stalled: loss of throughput" % "$leg" "$round" \
                "$(lost "${rates[i]}" "${rates[0]}")"
            record "$name, ${counts[i]} stalled: loss by the server's CPU per message" % "$leg" \
                "$round" "$(lost "${costs[0]}" "${costs[i]}")"
        done
    done
    for pid in "${peers[@]}"; do
        alive "$pid" || fail "a peer that was to be blocked is gone: $(cat "$work"/peers.*.out)"
        stop "$pid" stall
    done
    for i in "${!servers[@]}"; do
        stop "${servers[$i]}" waitserver 0
        served "$leg" "stalled.$how.$leg.${counts[$i]}" "the $how server, ${counts[$i]} stalled"
    done
}

for ((run = 1; run <= pairs; run++)); do
    for leg in "${legs[@]}"; do
        pipelined epoll "$leg" "$run"
    done
done
for how in loop epoll edge; do
    for leg in "${legs[@]}"; do
        stalled "$how" "$leg"
    done
done

#!/bin/bash
# Node under the library: streams echoed with back-pressure, lines on 16 connections, and HTTP with bodies
# both ways, server and client. Hashes are compared, or every answer is known.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
python=/usr/bin/python3
# Debian's, or another one that is there.
need node socat openssl "$python"
here=$(dirname "$(realpath "$0")")

MiB=$((1024 * 1024))

# echoed SIZE NAME
echoed() {
    same "$2, $1 bytes there and back" "$(bytes "$2" "$1" | hash_of)" \
        "$(bytes "$2" "$1" | timeout 60 socat -t 30 STDIO "TCP4:127.0.0.1:$port" | hash_of)"
}

# start LEG MODE
start() {
    listen "$1" "$2.$1" node "$here/server.js" "$2" @PORT@
    server=$pid
}

# finish LEG MODE
finish() {
    stop "$server" "the $2 server" 0
    [ ! -s "$work/$2.$1.out" ] || fail "the $2 server: $(tail -n 1 "$work/$2.$1.out")"
    served "$1" "$2.$1" "the $2 server"
}

# run LEG SIZE LINES ROUNDS
run() {
    local leg=$1 size who out running=()
    start "$leg" echo
    for size in 1 65537 "$2"; do
        echoed "$size" "echo.$leg.$size"
    done
    for size in 1 2 3 4; do
        echoed $((size * MiB)) "echo.$leg.$size" &
        running+=($!)
    done
    for pid in "${running[@]}"; do
        wait "$pid" || fail "of four streams at once one was wrong"
    done
    finish "$leg" echo

    start "$leg" lines
    out=$(timeout 60 "$python" "$here/../python/client.py" "$port" "$3" 2>&1) ||
        fail "client of the lines server in leg $leg: ${out//$'\n'/; }"
    finish "$leg" lines

    start "$leg" http
    for who in plain "$leg"; do
        out=$( (in_leg "$who" "client.$leg" timeout 60 node "$here/client.js" "$port" "$4") 2>&1) ||
            fail "client in leg $who of the http server in leg $leg: ${out//$'\n'/; }"
    done
    finish "$leg" http
    served "$leg" "client.$leg" "the http client"
    printf 'leg %s: right\n' "$leg"
}

run plain "$MiB" 20 20
run always $((32 * MiB)) 300 200
run starved "$MiB" 50 20
run auto $((32 * MiB)) 300 200

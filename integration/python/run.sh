#!/bin/bash
# Python's line servers under the library: a thread per connection (buffered lines, recv(1), with a
# timeout) and asyncio. The client compares every answer; it runs plain and under the library.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
# Not one of a version manager's scripts.
python=/usr/bin/python3
[ -x "$python" ] || skip "$python is not installed"
here=$(dirname "$(realpath "$0")")

# run LEG MODE LINES
run() {
    local leg=$1 mode=$2 tag=$1.$2 server who out
    listen "$leg" "server.$tag" "$python" "$here/server.py" "$mode" @PORT@
    server=$pid
    for who in plain "$leg"; do
        out=$(in_leg "$who" "client.$tag" timeout 60 "$python" "$here/client.py" "$port" "$3" 2>&1) ||
            fail "client in leg $who, $mode server in leg $leg: ${out//$'\n'/; } $(cat "$work/server.$tag.out")"
    done
    stop "$server" "the $mode server" 0
    [ ! -s "$work/server.$tag.out" ] || fail "the $mode server: $(tail -n 1 "$work/server.$tag.out")"
    served "$leg" "server.$tag" "the $mode server"
    served "$leg" "client.$tag" "its client"
    printf '%s, leg %s: right\n' "$mode" "$leg"
}

for mode in rfile recv1 timeout asyncio; do
    run plain "$mode" 40
    run always "$mode" 200
    run auto "$mode" 200
done

#!/bin/bash
# memcached under the library: four workers, each a libevent loop over its connections. The client
# keeps a model of what it has stored and compares every answer; it runs plain and under the library.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
python=/usr/bin/python3
need memcached "$python"
here=$(dirname "$(realpath "$0")")

# run LEG ROUNDS
run() {
    local leg=$1 server who out
    listen "$leg" "server.$leg" memcached -u root -t 4 -m 256 -l 127.0.0.1 -p @PORT@ -U 0
    server=$pid
    for who in plain "$leg"; do
        runs=$((runs + 1))
        out=$(in_leg "$who" "client.$leg" timeout 60 "$python" "$here/client.py" "$port" "$2" "$runs" 2>&1) ||
            fail "client in leg $who, memcached in leg $leg: ${out//$'\n'/; }"
    done
    stop "$server" memcached
    served "$leg" "server.$leg" memcached
    served "$leg" "client.$leg" "its client"
    printf 'leg %s: right\n' "$leg"
}

runs=0
run plain 100
run always 1000
run starved 200
run auto 1000

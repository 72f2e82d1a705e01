#!/bin/bash
# Java under the library: servers with a thread for each connection that read in pieces or byte by byte,
# with and without setSoTimeout(), and one with a Selector. Python's client and Java's own compare every
# answer; Java's also waits out timeouts and closes sockets under sleeping reads.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
python=/usr/bin/python3
need java javac "$python"
here=$(dirname "$(realpath "$0")")

javac -d "$work/classes" "$here/Server.java" "$here/Client.java" || fail "not compiled"
java=(java -Xshare:auto -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx128m -cp "$work/classes")

# run LEG MODE TIMEOUT LINES
run() {
    local leg=$1 mode=$2 timeout=$3 tag=$2.$3.$1 server out
    listen "$leg" "server.$tag" "${java[@]}" Server "$mode" @PORT@ "$timeout"
    server=$pid
    out=$(timeout 60 "$python" "$here/../python/client.py" "$port" "$4" 2>&1) ||
        fail "Python's client, $mode server in leg $leg: ${out//$'\n'/; }"
    out=$( (in_leg "$leg" "client.$tag" timeout 60 "${java[@]}" Client "$port" "$4" "$timeout") 2>&1) ||
        fail "client of the $mode server, both in leg $leg: ${out//$'\n'/; }"
    stop "$server" "the $mode server" 143
    served "$leg" "server.$tag" "the $mode server"
    served "$leg" "client.$tag" "its client"
    printf '%s, timeout %s, leg %s: right\n' "$mode" "$timeout" "$leg"
}

run plain stream 500 20
run plain bytewise 0 10
run plain selector 0 20
run always stream 0 50
run always stream 500 50
run always bytewise 0 10
run always bytewise 500 10
run always selector 0 50
run auto stream 500 50
run auto bytewise 0 10
run starved stream 500 20
run starved bytewise 0 10

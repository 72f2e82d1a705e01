#!/bin/bash
# Servers in Python and Perl that fork for each connection, under the library: lines buffered and byte by
# byte, a parent that reads the first line itself, and a pool of children that accept. The client
# compares every answer; it runs plain and under the library.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
# Not one of a version manager's scripts.
python=/usr/bin/python3
need "$python" perl
here=$(dirname "$(realpath "$0")")

# run LEG MODE LINES COMMAND...
run() {
    local leg=$1 mode=$2 tag=$2.$1 server who out clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    listen "$leg" "server.$tag" "${@:4}" "${mode#*.}" @PORT@
    server=$pid
    for who in "${clients[@]}"; do
        out=$(in_leg "$who" "client.$tag" timeout 60 "$python" "$here/../python/client.py" "$port" "$3" 2>&1) ||
            fail "client in leg $who, server $mode in leg $leg: ${out//$'\n'/; } $(cat "$work/server.$tag.out")"
    done
    stop "$server" "the server $mode" 0
    [ ! -s "$work/server.$tag.out" ] || fail "the server $mode: $(tail -n 1 "$work/server.$tag.out")"
    case $mode in
    *.pool | *.first) served "$leg" "server.$tag" "the server $mode" ;;
    *) served_child "$leg" "server.$tag" "the server $mode" ;;
    esac
    served "$leg" "client.$tag" "its client"
    printf '%s, leg %s: right\n' "$mode" "$leg"
}

for leg in plain always starved auto; do
    lines=200
    [[ $leg != @(plain|starved) ]] || lines=40
    for mode in rfile recv1 first; do
        [ "$mode" != first ] || inherited "$leg" || continue
        run "$leg" "python.$mode" "$lines" "$python" "$here/server.py"
    done
    for mode in buffered bytes first pool; do
        [ "$mode" != first ] || inherited "$leg" || continue
        run "$leg" "perl.$mode" "$lines" perl "$here/server.pl"
    done
done

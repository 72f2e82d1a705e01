#!/bin/bash
# bash under the library, connected by its /dev/tcp: it reads lines by its builtin, byte by byte, and then
# lets children read what follows, who must find just the rest. The server is plain.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need socat openssl xxd
here=$(dirname "$(realpath "$0")")

# read_by LEG MODE FILE: five times, since what is held depends on what has arrived.
read_by() {
    local leg=$1 mode=$2 file=$3
    listen plain "server.$mode.$leg" socat -U TCP4-LISTEN:@PORT@,bind=127.0.0.1,fork,backlog=16 \
        "EXEC:cat $work/$file"
    for _ in 1 2 3 4 5; do
        same "what bash and its children read ($mode, leg $leg)" "$(hash_of <"$work/$file")" \
            "$( (in_leg "$leg" "$mode.$leg" timeout 60 bash "$here/reader" "$mode" "$port") | hash_of)"
    done
    stop "$pid" "the server"
}

{
    twenty_lines first
    twenty_lines second
} >"$work/lines"
lines_and_more 500000 >"$work/more"

for leg in plain always starved auto; do
    for mode in alone bystanders; do
        read_by "$leg" "$mode" lines
        served "$leg" "$mode.$leg" "bash, $mode"
    done
    if inherited "$leg"; then
        for mode in children piped background turns; do
            read_by "$leg" "$mode" more
            # Counters do not outlive an exec.
            [ "$mode" = children ] || served "$leg" "$mode.$leg" "bash, $mode"
        done
    fi
    printf 'leg %s: right\n' "$leg"
done

#!/bin/bash
# openbsd-inetd, told to keep its environment, and tcpserver, both under the library with all that they
# start: cat, and a shell script that reads line by line and then lets its children read the rest. What
# comes back must be what was sent.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
PATH=$PATH:/usr/sbin
need inetd tcpserver socat openssl
here=$(dirname "$(realpath "$0")")
user=$(id -un)

# serve LEG TAG STARTER PROGRAM ARG...: sets $pid and $port.
serve() {
    local leg=$1 tag=$2 starter=$3
    shift 3
    if [ "$starter" = tcpserver ]; then
        listen "$leg" "$tag" tcpserver -q -H -R -l 0 -b 32 127.0.0.1 @PORT@ "$@"
        return
    fi
    config=$work/$tag.conf
    printf '127.0.0.1:@PORT@ stream tcp nowait.10000 %s %s %s\n' "$user" "$1" "$*" >"$config.in"
    listen "$leg" "$tag" inetd -E -i "$config"
    config=
}

# several LEG TAG FILE N: as many clients at once.
several() {
    local i running=() wanted
    wanted=$(hash_of <"$3")
    for ((i = 0; i < $4; i++)); do
        (same "what came back (leg $1, $2)" "$wanted" "$(exchange "$1" "$2" "$3")") &
        running+=($!)
    done
    for i in "${running[@]}"; do
        wait "$i" || fail "of $4 clients at once one was wrong (leg $1, $2)"
    done
}

# run LEG STARTER
run() {
    local leg=$1 starter=$2 tag=$2.$1 who clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    serve "$leg" "cat.$tag" "$starter" /bin/cat
    for who in "${clients[@]}"; do
        several "$who" "client.$tag" "$work/stream" 4
    done
    loaded "$leg" "$pid" "$starter"
    stop "$pid" "$starter with cat"
    serve "$leg" "lines.$tag" "$starter" /bin/sh "$here/lines"
    for who in "${clients[@]}"; do
        several "$who" "client.$tag" "$work/lines" 4
        several "$who" "client.$tag" "$work/few" 12
    done
    loaded "$leg" "$pid" "$starter"
    stop "$pid" "$starter with a script"
    served "$leg" "client.$tag" "socat as client"
    wrote "$leg" "cat.$tag" cat
    wrote "$leg" "lines.$tag" "the script"
    printf '%s, leg %s: right\n' "$starter" "$leg"
}

bytes stream $((4 * 1024 * 1024)) >"$work/stream"
lines_and_more 1048576 >"$work/lines"
{
    twenty_lines few
    bytes few 5
} >"$work/few"
for leg in plain always starved auto; do
    run "$leg" tcpserver
    run "$leg" inetd
done

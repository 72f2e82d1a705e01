#!/bin/bash
# Sockets that go from one program to the next, under the library: a server in Python reads a line and
# gives the socket away in every way that Python has, and chains of programs become one another, each of
# which reads a line. What comes back must be what was sent.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
# Not one of a version manager's scripts.
python=/usr/bin/python3
need "$python" perl tcpserver socat openssl
here=$(dirname "$(realpath "$0")")
chain=(/bin/sh "$here/chain" "$here")

# politely LEG TAG FILE: as exchange, by a client that waits for each of the first lines.
politely() {
    (in_leg "$1" "$2" timeout 60 "$python" "$here/polite.py" "$port" "$3") | hash_of
}

# answered LEG TAG HOW: the server that has just been started, asked by plain clients and others.
answered() {
    local leg=$1 tag=$2 how=$3 server=$pid who file clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    for who in "${clients[@]}"; do
        for file in few more; do
            same "what came back ($tag, client $who, $file)" "$(hash_of <"$work/$file")" \
                "$("$how" "$who" "client.$leg" "$work/$file")"
        done
    done
    stop "$server" "the server $tag"
    [ ! -s "$work/$tag.out" ] || fail "the server $tag: $(tail -n 1 "$work/$tag.out")"
    printf '%s, %s: right\n' "$tag" "$how"
}

twenty_lines few >"$work/few"
lines_and_more 500000 >"$work/more"
for leg in plain always starved auto; do
    for how in politely exchange; do
        listen "$leg" "chain.$leg" tcpserver -q -H -R -l 0 127.0.0.1 @PORT@ "${chain[@]}"
        answered "$leg" "chain.$leg" "$how"
        for mode in vanish alone popen shell redirected spawn fork passed thread; do
            [[ $how == politely || $mode == @(vanish|alone) ]] || inherited "$leg" || continue
            listen "$leg" "$mode.$leg" "$python" "$here/server.py" "$mode" @PORT@ "${chain[@]}"
            answered "$leg" "$mode.$leg" "$how"
        done
    done
    served "$leg" "client.$leg" "the clients"
    served "$leg" "popen.$leg" "Python's first lines"
done

#!/bin/bash
# netcat as server and as client, both under the library: streams each way, one way at a time and
# both at once. A stream is generated and hashed on the fly.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
# Debian's nc may be another one's.
nc=$(command -v nc.openbsd || true)
[ -n "$nc" ] || skip "netcat-openbsd is not installed"
need openssl

MiB=$((1024 * 1024))

# transfer LEG NAME UP DOWN: so many MiB from client to server, and from server to client.
# Debian's nc takes the peer's end for the end of all, even if its own input goes on. So a side that
# sends nothing does not end its direction (no -N), and with both at once the inputs stay open until
# both outputs are complete.
transfer() {
    local leg=$1 name=$2 up=$(($3 * MiB)) down=$(($4 * MiB)) server up_end=() down_end=() full=()
    [ "$up" -eq 0 ] || up_end=(-N)
    [ "$down" -eq 0 ] || down_end=(-N)
    if [ "$up" -gt 0 ] && [ "$down" -gt 0 ]; then
        full=("$work/$name.server.full" "$work/$name.client.full")
    fi
    source_of "$name.client" "up $name" "$up" "${full[@]}"
    source_of "$name.server" "down $name" "$down" "${full[@]}"
    sink_of "$name.client" "$down"
    sink_of "$name.server" "$up"

    input=$work/$name.server.in output=$work/$name.server.sink
    listen "$leg" "$name.server" "$nc" -l "${down_end[@]}" 127.0.0.1 @PORT@
    server=$pid
    input=$work/$name.client.in output=$work/$name.client.sink
    spawn "$leg" "$name.client" "$nc" "${up_end[@]}" 127.0.0.1 "$port"
    ends "$pid" 120 "the client"
    ends "$server" 60 "the server"

    same "$name: what the server got" "$(expected "up $name" "$up")" \
        "$(hashed "$name.server")"
    same "$name: what the client got" "$(expected "down $name" "$down")" \
        "$(hashed "$name.client")"
    [ "$up" -eq 0 ] || served "$leg" "$name.server" "the server"
    [ "$down" -eq 0 ] || served "$leg" "$name.client" "the client"
    printf '%s: %s MiB up, %s MiB down: right\n' "$name" "$3" "$4"
}

transfer plain plain 16 16
transfer always up 1024 0
transfer always down 0 1024
transfer always both 128 128
transfer auto auto 64 64

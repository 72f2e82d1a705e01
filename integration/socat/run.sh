#!/bin/bash
# socat under the library: to a file, from a file, as a relay between two connections, and with a
# program behind it. Both ends, hashes of what arrived.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need socat openssl

MiB=$((1024 * 1024))

# upload LEG NAME SIZE: client to server's file.
upload() {
    local leg=$1 name=upload.$1 size=$2 server
    input=/dev/null output=
    listen "$leg" "$name.server" socat -u TCP4-LISTEN:@PORT@,bind=127.0.0.1 "CREATE:$work/$name.file"
    server=$pid
    source_of "$name" "$name" "$size"
    input=$work/$name.in
    spawn "$leg" "$name.client" socat -u STDIN "TCP4:127.0.0.1:$port"
    ends "$pid" 60 "the sending socat"
    ends "$server" 60 "the receiving socat"
    same "$name" "$(bytes "$name" "$size" | hash_of)" "$(hash_of <"$work/$name.file")"
    rm "$work/$name.file"
    served "$leg" "$name.server" "socat to a file"
}

# download LEG SIZE: server's input to client's output.
download() {
    local leg=$1 name=download.$1 size=$2 server
    source_of "$name" "$name" "$size"
    input=$work/$name.in output=
    listen "$leg" "$name.server" socat -u STDIN TCP4-LISTEN:@PORT@,bind=127.0.0.1
    server=$pid
    sink_of "$name" "$size"
    input=/dev/null output=$work/$name.sink
    spawn "$leg" "$name.client" socat -u "TCP4:127.0.0.1:$port" STDOUT
    ends "$pid" 60 "the receiving socat"
    ends "$server" 60 "the sending socat"
    same "$name" "$(expected "$name" "$size")" "$(hashed "$name")"
    served "$leg" "$name.client" "socat from a server"
}

# echo_via LEG SIZE: client to a relay to a server that runs cat, and all the way back. The server's
# socket is open when it forks for cat, so it is plain there; the relay and the client are not.
echo_via() {
    local leg=$1 name=echo.$1 size=$2 server relay
    input=/dev/null output=
    listen "$leg" "$name.server" socat TCP4-LISTEN:@PORT@,bind=127.0.0.1 EXEC:cat
    server=$pid
    listen "$leg" "$name.relay" socat -t 60 TCP4-LISTEN:@PORT@,bind=127.0.0.1 "TCP4:127.0.0.1:$port"
    relay=$pid
    source_of "$name" "$name" "$size"
    sink_of "$name" "$size"
    input=$work/$name.in output=$work/$name.sink
    spawn "$leg" "$name.client" socat -t 60 STDIN!!STDOUT "TCP4:127.0.0.1:$port"
    ends "$pid" 60 "the client"
    ends "$relay" 60 "the relay"
    ends "$server" 60 "the server"
    same "$name" "$(expected "$name" "$size")" "$(hashed "$name")"
    served "$leg" "$name.relay" "the relay"
    served "$leg" "$name.client" "its client"
}

# many LEG: a server that forks for each connection, and clients that come one after the other. The
# sockets of the children are open at a fork, so they are plain.
many() {
    local leg=$1 name=many.$1 server i got
    input=/dev/null output=
    listen "$leg" "$name.server" socat TCP4-LISTEN:@PORT@,bind=127.0.0.1,fork,reuseaddr EXEC:cat
    server=$pid
    for i in 1 2 3 4 5 6 7 8; do
        got=$(bytes "$name $i" $((i * 10007)) |
            (in_leg "$leg" "$name.client" timeout 30 socat -t 20 STDIO "TCP4:127.0.0.1:$port") | hash_of)
        same "$name $i" "$(bytes "$name $i" $((i * 10007)) | hash_of)" "$got"
    done
    stop "$server" "the forking server"
    served "$leg" "$name.client" "clients of a forking server"
}

for leg in plain always auto; do
    size=$((64 * MiB))
    [ "$leg" = always ] || size=$((16 * MiB))
    upload "$leg" "$size"
    download "$leg" "$size"
    echo_via "$leg" "$size"
    many "$leg"
    printf 'leg %s: right\n' "$leg"
done

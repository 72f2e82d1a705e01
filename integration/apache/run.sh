#!/bin/bash
# Apache under the library, as worker, event and prefork: ab on kept connections, where every answer must
# be a good one of the right length; a large file by curl and wget, files put there, all with their hash.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need apache2 ab curl wget openssl
here=$(dirname "$(realpath "$0")")

web_files $((16 * 1024 * 1024))
large=$(hash_of <"$work/files/large")
mkdir -m 777 "$work/locks"
# Who its workers are when a master is root.
user=
[ "$(id -u)" -ne 0 ] || user=$'User nobody\\nGroup nogroup'

# fetch LEG TAG
fetch() {
    local how
    for how in "curl -sSf" "wget -q -O -"; do
        # shellcheck disable=SC2086
        same "$how (leg $1)" "$large" \
            "$( (in_leg "$1" "$2" timeout 60 $how "http://127.0.0.1:$port/large") | hash_of)"
    done
}

# put LEG TAG NAME: one connection brings all files, and then all of them back.
put() {
    local i from=() to=() wanted
    for i in 1 1000 8000 100000 5000000; do
        bytes "$3" "$i" >"$work/put.$i"
        from+=(-T "$work/put.$i" "http://127.0.0.1:$port/put/$3.$i")
        to+=("http://127.0.0.1:$port/put/$3.$i")
    done
    (in_leg "$1" "$2" timeout 60 curl -sSf "${from[@]}" >"$work/answer" 2>&1) ||
        fail "curl -T in leg $1: $(cat "$work/answer")"
    wanted=$(cat "$work"/put.{1,1000,8000,100000,5000000} | hash_of)
    same "what was put (leg $1)" "$wanted" \
        "$( (in_leg "$1" "$2" timeout 60 curl -sSf "${to[@]}") | hash_of)"
    same "what lies there (leg $1)" "$wanted" \
        "$(cat "$work/files/put/$3".{1,1000,8000,100000,5000000} | hash_of)"
}

# run LEG MPM N
run() {
    local leg=$1 mpm=$2 tag=$2.$1 server who
    config=$work/$tag.conf
    sed "s|@WORK@|$work|g; s|@MPM@|$mpm|g; s|@NAME@|$tag|g; s|@USER@|$user|" "$here/apache.conf" >"$config.in"
    # prefork ends its whole process group.
    listen "$leg" "server.$tag" setsid apache2 -D FOREGROUND -f "$config"
    server=$pid
    for who in plain "$leg"; do
        fetch "$who" "client.$tag"
        put "$who" "client.$tag" "$tag.$who"
        ab_load "$who" "ab.$tag" 12 "$3" "http://127.0.0.1:$port/small"
    done
    stop "$server" "Apache $mpm" 0
    ! grep -E ':(emerg|alert|crit|error)\]|exit signal' "$work/$tag.errors" || fail "Apache complained, see above"
    served "$leg" "server.$tag" "Apache $mpm"
    served "$leg" "client.$tag" "curl and wget"
    served "$leg" "ab.$tag" ab
    printf '%s, leg %s: right\n' "$mpm" "$leg"
}

for mpm in worker event prefork; do
    run plain "$mpm" 1000
    run always "$mpm" 10000
    run starved "$mpm" 1000
    run auto "$mpm" 10000
done

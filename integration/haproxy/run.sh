#!/bin/bash
# haproxy under the library, two threads, before a plain nginx: once it reads requests and answers and
# shares connections, once it passes on bytes. ab on kept connections, where every answer must be a good
# one of the right length; a large file each way, with its hash.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need haproxy nginx ab curl openssl
here=$(dirname "$(realpath "$0")")

web_files $((32 * 1024 * 1024))
large=$(hash_of <"$work/files/large")

# get LEG TAG URL HASH
get() {
    same "$3 (leg $1)" "$4" "$( (in_leg "$1" "$2" timeout 60 curl -sSf "$3") | hash_of)"
}

# run LEG MODE OPTION N
run() {
    local leg=$1 mode=$2 proxy url who i
    config=$work/$mode.$leg.cfg
    sed "s/@MODE@/$mode/; s/@OPTION@/$3/; s/@ORIGIN@/$origin_port/" "$here/haproxy.cfg" >"$config.in"
    listen "$leg" "$mode.$leg" haproxy -db -f "$config"
    proxy=$pid url=http://127.0.0.1:$port
    for who in plain "$leg"; do
        get "$who" "client.$mode.$leg" "$url/large" "$large"
        for i in 1 1000 300000 8000000; do
            bytes "$mode $leg $who" "$i" >"$work/body"
            (in_leg "$who" "client.$mode.$leg" timeout 60 curl -sSf -H 'Expect:' -T "$work/body" \
                "$url/put/$mode.$leg.$who.$i" >"$work/answer" 2>&1) ||
                fail "curl -T, $i bytes: $(cat "$work/answer")"
            same "what was put in $i bytes" "$(hash_of <"$work/body")" \
                "$(hash_of <"$work/files/put/$mode.$leg.$who.$i")"
        done
        ab_load "$who" "ab.$mode.$leg" 40 "$4" "$url/small"
    done
    # One connection, many answers.
    for i in {1..50}; do printf 'url = "%s/small"\n' "$url"; done >"$work/urls"
    same "a small file 50 times on one connection" \
        "$(for i in {1..50}; do cat "$work/files/small"; done | hash_of)" \
        "$( (in_leg "$leg" "client.$mode.$leg" timeout 60 curl -sSf -K "$work/urls") | hash_of)"
    # SIGTERM would leave it no time for counters.
    kill -USR1 "$proxy"
    ends "$proxy" 10 "haproxy, mode $mode"
    served "$leg" "$mode.$leg" "haproxy, mode $mode"
    # curl asks for urgent data, and is left to the kernel.
    passed "$leg" "client.$mode.$leg" oob curl
    served "$leg" "ab.$mode.$leg" ab
    printf 'mode %s, leg %s: right\n' "$mode" "$leg"
}

config=$work/origin.conf
sed "s|@WORK@|$work|g" "$here/origin.conf" >"$config.in"
listen plain origin nginx -c "$config" -e "$work/origin.errors"
origin=$pid origin_port=$port
for mode in http tcp; do
    option="http-reuse always"
    [ "$mode" = http ] || option=
    run plain "$mode" "$option" 2000
    run always "$mode" "$option" 10000
    run starved "$mode" "$option" 2000
    run auto "$mode" "$option" 10000
done
stop "$origin" nginx 0

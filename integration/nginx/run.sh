#!/bin/bash
# nginx under the library: two workers that serve files, and two more that are a proxy before them. wrk
# on kept connections, where every answer must be a good one; a large file by curl and wget, straight
# and by the proxy, and files put through it. All hashes are compared.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need nginx wrk curl wget openssl
here=$(dirname "$(realpath "$0")")

web_files $((24 * 1024 * 1024))
large=$(hash_of <"$work/files/large")

# nginx LEG NAME ORIGIN: sets $pid and $port.
start() {
    config=$work/$2.conf
    sed "s|@WORK@|$work|g; s|@NAME@|$2|g; s|@ORIGIN@|$3|g" "$here/nginx.conf" >"$config.in"
    listen "$1" "$2" nginx -c "$config" -e "$work/$2.errors"
}

# load LEG NAME URL
load() {
    local out
    out=$(in_leg "$1" "$2" timeout 60 wrk -t 2 -c 32 -d 1 "$3" 2>&1) || fail "wrk $3: $out"
    ! grep -E 'Socket errors|Non-2xx' <<<"$out" || fail "wrk $3: $out"
    printf '  wrk %s: %s\n' "${3##*/}" "$(awk '/Requests.sec/ { print $2 " requests/s" }' <<<"$out")"
}

# fetch LEG NAME URL HASH
fetch() {
    local how
    for how in "curl -sSf" "wget -q -O -"; do
        # shellcheck disable=SC2086
        same "$how $3 (leg $1)" "$4" "$( (in_leg "$1" "$2" timeout 60 $how "$3") | hash_of)"
    done
}

# put LEG NAME URL SIZE: some are larger than what nginx keeps of a body in memory.
put() {
    bytes "$3" "$4" >"$work/body"
    (in_leg "$1" "$2" timeout 60 curl -sSf -H 'Expect:' -T "$work/body" "$3" >"$work/answer" 2>&1) ||
        fail "curl -T $3: $(cat "$work/answer")"
}

# run LEG
run() {
    local leg=$1 origin direct proxy url who i
    start "$leg" "origin.$leg" 1
    origin=$pid direct=http://127.0.0.1:$port
    start "$leg" "proxy.$leg" "$port"
    proxy=$pid url=http://127.0.0.1:$port
    for who in plain "$leg"; do
        fetch "$who" "client.$leg" "$direct/large" "$large"
        fetch "$who" "client.$leg" "$url/proxied/large" "$large"
        fetch "$who" "client.$leg" "$url/streamed/large" "$large"
        for i in 1 100 16384 300000 3000000; do
            put "$who" "client.$leg" "$url/proxied/put/$i.$who" "$i"
            put "$who" "client.$leg" "$url/streamed/put/streamed.$i.$who" "$i"
            same "what was put in $i bytes" "$(bytes "$url/proxied/put/$i.$who" "$i" | hash_of)" \
                "$(curl -sSf "$direct/put/$i.$who" | hash_of)"
            same "what was streamed in $i bytes" \
                "$(bytes "$url/streamed/put/streamed.$i.$who" "$i" | hash_of)" \
                "$(curl -sSf "$direct/put/streamed.$i.$who" | hash_of)"
        done
    done
    load plain "wrk.$leg" "$direct/small"
    load "$leg" "wrk.$leg" "$url/proxied/small"
    stop "$proxy" "nginx as proxy" 0
    stop "$origin" "nginx" 0
    [ ! -s "$work/origin.$leg.errors" ] || fail "nginx: $(tail -n 1 "$work/origin.$leg.errors")"
    # That it kept a body in a file is a warning.
    ! grep -v 'is buffered to a temporary file' "$work/proxy.$leg.errors" >"$work/complaints" ||
        fail "nginx as proxy: $(tail -n 1 "$work/complaints")"
    served "$leg" "origin.$leg" nginx
    served "$leg" "proxy.$leg" "nginx as proxy"
    served "$leg" "client.$leg" "curl and wget"
    served "$leg" "wrk.$leg" wrk
    printf 'leg %s: right\n' "$leg"
}

for leg in plain always starved auto; do
    run "$leg"
done

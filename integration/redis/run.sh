#!/bin/bash
# redis-server under the library with plain clients, then redis-cli and redis-benchmark under it too,
# with BGSAVE and DEBUG RELOAD in between. The data set's digest and a large value are compared with
# those of a plain run of the same commands.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need redis-server redis-cli redis-benchmark openssl

# client LEG TAG COMMAND...: a client run to its end.
client() {
    (in_leg "$@")
}

cli() {
    redis-cli -p "$port" "$@"
}

# bench LEG NAME ARG...: redis-benchmark; every test that was asked for must have ended.
bench() {
    local leg=$1 name=$2 tests=$3 out
    shift 3
    out=$(client "$leg" "$name" redis-benchmark -h 127.0.0.1 -p "$port" -q --csv -t "$tests" "$@") ||
        fail "redis-benchmark -t $tests $* (leg $leg): $out"
    [ "$(grep -c '^"[A-Z]' <<<"$out")" -ge "$(tr ',' '\n' <<<"$tests" | wc -l)" ] ||
        fail "redis-benchmark -t $tests $*: not all tests ran: $out"
    ! grep -qi error <<<"$out" || fail "redis-benchmark: $out"
    printf '  redis-benchmark -t %s %s: %s\n' "$tests" "$*" \
        "$(awk -F'"' '/^"[A-Z]/ && $2 != "test" { printf "%s %s/s  ", $2, $4 }' <<<"$out")"
}

saved() {
    cli info persistence | tr -d '\r' | grep -qx 'rdb_bgsave_in_progress:0' &&
        cli info persistence | tr -d '\r' | grep -qx 'rdb_last_bgsave_status:ok'
}

# The commands of a data set with every simple type; the same in each leg.
commands() {
    awk 'BEGIN {
        for (i = 0; i < 20000; i++) {
            printf "SET key:%d value-%d-%d\r\n", i, i, i * 7919
            printf "RPUSH list:%d %d %d\r\n", i % 97, i, i * 31
            printf "HSET hash:%d f%d v%d\r\n", i % 89, i, i * 17
        }
    }'
}

# load LEG NAME: benchmarks, known data and a large value, by clients in this leg.
load() {
    local leg=$1 name=$2 tests=ping_inline,ping_mbulk,set,get,lpush,lrange_100 out
    bench "$leg" "$name" "$tests" -c 50 -n 10000 -P 1
    bench "$leg" "$name" "$tests" -c 50 -n 32000 -P 16
    bench "$leg" "$name" set,get -c 50 -n 3000 -P 1 -d 65536
    # How many elements the benchmark's own list gets is its affair.
    cli del mylist >"$work/deleted"
    out=$(commands | client "$leg" "$name" redis-cli -p "$port" --pipe) || fail "--pipe: $out"
    grep -q 'errors: 0, replies: 60000$' <<<"$out" || fail "--pipe: $out"
    bytes "large value" 1048576 | client "$leg" "$name" redis-cli -p "$port" -x set large >"$work/set"
    grep -qx OK "$work/set" || fail "the large value was not set: $(cat "$work/set")"
    # redis-cli ends its output with a newline.
    client "$leg" "$name" redis-cli -p "$port" --raw get large >"$work/get"
    same "the large value" "$(bytes "large value" 1048576 | hash_of)" \
        "$(head -c 1048576 "$work/get" | hash_of)"
    same "its length" 1048577 "$(wc -c <"$work/get")"
}

digest() {
    cli debug digest
}

persist() {
    local before
    before=$(digest)
    cli bgsave >"$work/bgsave"
    grep -q '^Background saving started' "$work/bgsave" || fail "BGSAVE: $(cat "$work/bgsave")"
    wait_for 20 "BGSAVE" saved
    same "DEBUG RELOAD" OK "$(cli debug reload)"
    same "the digest after DEBUG RELOAD" "$before" "$(digest)"
}

# run LEG: sets $result to the digest.
run() {
    local leg=$1 server
    printf 'leg %s\n' "$leg"
    mkdir -p "$work/data.$leg"
    listen "$leg" "server.$leg" redis-server --port @PORT@ --bind 127.0.0.1 --save '' \
        --dir "$work/data.$leg" --enable-debug-command yes --loglevel warning
    server=$pid
    load plain "none.$leg"
    persist
    load "$leg" "client.$leg"
    persist
    result=$(digest)
    stop "$server" redis-server 0
    served "$leg" "server.$leg" redis-server
    served "$leg" "client.$leg" "redis-cli and redis-benchmark"
}

run plain
plain=$result
for leg in always auto; do
    run "$leg"
    same "the digest in leg $leg" "$plain" "$result"
done
printf 'digest %s in all legs\n' "$plain"

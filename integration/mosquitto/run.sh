#!/bin/bash
# mosquitto under the library: publishers and subscribers with each quality of service, where every
# subscriber must get every payload of a publisher once and in order, and payloads of megabytes.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need mosquitto mosquitto_pub mosquitto_sub openssl
here=$(dirname "$(realpath "$0")")

MiB=$((1024 * 1024))

# Payloads of many lengths, a line each.
payloads() {
    awk -v seed="$1" -v n="$2" 'BEGIN {
        srand(seed)
        for (i = 0; i < n; i++) {
            text = ""
            for (k = int(rand() * rand() * rand() * 300); k > 0; k--)
                text = text sprintf("%d,", seed * i + k)
            printf "%d:%d:%s\n", seed, i, text
        }
    }'
}

# subscribed N: the broker has seen so many subscriptions.
subscribed() {
    [ "$(grep -cE ' [0-2] (topic|large)/' "$broker" || true)" -ge "$1" ]
}

# subscribe LEG TAG NAME ARG...: in the background; what comes is in $work/NAME.
subscribe() {
    rm -f "$work/$3"
    input=/dev/null output=$work/$3
    spawn "$1" "$2" timeout 60 mosquitto_sub -h 127.0.0.1 -p "$port" "${@:4}"
    output=
    subscriptions=$((subscriptions + 1))
    wait_for 10 "subscription $subscriptions" subscribed "$subscriptions"
}

# lines LEG WHO QOS N: two publishers at once, each on its own topic, two subscribers for each.
lines() {
    local leg=$1 who=$2 qos=$3 n=$4 topic copy name readers=() writers=()
    for topic in 1 2; do
        for copy in 1 2; do
            name=$leg.$who.$qos.$topic.$copy
            subscribe "$who" "sub.$leg" "$name" -q "$qos" -C "$n" -t "topic/$leg/$who/$qos/$topic"
            readers+=("$pid")
        done
    done
    for topic in 1 2; do
        payloads "$topic$qos" "$n" >"$work/lines.$topic"
        input=$work/lines.$topic
        spawn "$who" "pub.$leg" timeout 60 mosquitto_pub -h 127.0.0.1 -p "$port" -q "$qos" -l \
            -t "topic/$leg/$who/$qos/$topic"
        writers+=("$pid")
    done
    for pid in "${writers[@]}"; do
        ends "$pid" 60 mosquitto_pub
    done
    for pid in "${readers[@]}"; do
        ends "$pid" 60 mosquitto_sub
    done
    for topic in 1 2; do
        for copy in 1 2; do
            same "payloads with quality $qos, topic $topic (leg $leg, clients $who)" \
                "$(hash_of <"$work/lines.$topic")" "$(hash_of <"$work/$leg.$who.$qos.$topic.$copy")"
        done
    done
}

# large LEG WHO
large() {
    local leg=$1 who=$2 size name reader
    for size in 1 65535 $((5 * MiB)); do
        name=large.$leg.$who.$size
        bytes "$name" "$size" >"$work/payload"
        subscribe "$who" "sub.$leg" "$name" -q 1 -C 1 -N -t "large/$leg/$who/$size"
        reader=$pid
        (in_leg "$who" "pub.$leg" timeout 60 mosquitto_pub -h 127.0.0.1 -p "$port" -q 1 \
            -f "$work/payload" -t "large/$leg/$who/$size") || fail "mosquitto_pub failed"
        ends "$reader" 60 mosquitto_sub
        same "a payload of $size bytes (leg $leg, clients $who)" "$(hash_of <"$work/payload")" \
            "$(hash_of <"$work/$name")"
    done
}

# run LEG N
run() {
    local leg=$1 server who qos
    config=$work/$leg.conf
    cp "$here/mosquitto.conf" "$config.in"
    broker=$work/server.$leg.out subscriptions=0
    listen "$leg" "server.$leg" mosquitto -c "$config"
    server=$pid
    for who in plain "$leg"; do
        for qos in 0 1 2; do
            lines "$leg" "$who" "$qos" "$2"
        done
        large "$leg" "$who"
    done
    stop "$server" mosquitto 0
    ! grep -iE 'error|warning' "$broker" || fail "mosquitto complained, see above"
    served "$leg" "server.$leg" mosquitto
    served "$leg" "sub.$leg" mosquitto_sub
    served "$leg" "pub.$leg" mosquitto_pub
    printf 'leg %s: right\n' "$leg"
}

run plain 200
run always 2000
run starved 300
run auto 2000

#!/bin/bash
# What connections that wait cost in memory, each with a thread or all in one loop, and how far a
# user's limit of locked memory goes.
# LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"

# rss HOW CONNECTIONS MESSAGES: so many connections have each received so many messages of 64 bytes, and
# then nothing for some seconds, in which memory can be given back.
rss() {
    local how=$1 n=$2 messages=$3 run leg out tag name first rss base
    name="$n idle connections, a thread for each, after $messages messages"
    [ "$how" = threads ] || name="$n idle connections of one loop, after $messages messages"
    # One run is much like the next.
    for ((run = 1; run <= (pairs + 2) / 3; run++)); do
        for leg in "${legs[@]}"; do
            tag=rss.$how.$n.$messages.$leg.$run
            out=$(in_leg "$leg" "$tag" timeout 60 "$programs/idle" -m "$messages" -i 3 "$how" "$n") ||
                fail "idle (leg $leg): $out"
            same "connections of idle that were served to their end" "$n" "$(value answered <<<"$out")"
            first=$(value first_kib <<<"$out")
            rss=$(value rss_kib <<<"$out")
            record "$name: RSS" KiB "$leg" "$run" "$rss"
            [ "$leg" != plain ] || base=$rss
            [ "$leg" = plain ] || adopted "$how" "$n" "$messages" "$leg" "$tag"
            if [ "$leg" != plain ] && in_table plain; then
                record "$name: RSS above plain" KiB "$leg" "$run" $((rss - base))
                record "$name: RSS above plain, before the pause" KiB "$leg" "$run" $((first - base))
                record "$name: RSS above plain, of each" KiB "$leg" "$run" "$(per $((rss - base)) "$n")"
            fi
        done
    done
}

# adopted HOW CONNECTIONS MESSAGES LEG TAG: requests were armed for all, and most bytes came by the ring; or
# the figure says nothing.
adopted() {
    served "$4" "$5" "$2 idle connections"
    [ "$(stat_of "$5" arms)" -ge "$2" ] || fail "leg $4: not all of $2 idle connections were adopted"
    [ "$(stat_of "$5" ring_bytes)" -ge $((32 * $2 * ($3 + 1))) ] ||
        fail "leg $4: most of what $2 idle connections received did not come by the ring"
    [ "$1" = loop ] || same "rings of idle threads" "$2" "$(stat_of "$5" rings)"
}

# As a user without privileges, with the usual limit. What that user runs and writes must be his.
limited() {
    local run out threads=300 as=()
    if [ "$(id -u)" -eq 0 ]; then
        as=(setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all)
    fi
    cp "$programs/idle" "$LIB" "$work"
    chmod 755 "$work" "$work/idle"
    mkdir -m 777 "$work/stats.limited"
    for ((run = 1; run <= pairs; run++)); do
        rm -f "$work"/stats.limited/*
        out=$(LIB=$work/$(basename "$LIB") in_leg always limited \
            prlimit --memlock=8388608 "${as[@]}" "$work/idle" threads "$threads") || fail "idle, unprivileged"
        [ "$(value answered <<<"$out")" -eq "$threads" ] || fail "idle, unprivileged: $out"
        record "300 threads, no privilege, 8 MiB memlock: adopted" threads always "$run" \
            "$(stat_of limited rings)"
        record "300 threads, no privilege, 8 MiB memlock: right answers" threads always "$run" \
            "$(value answered <<<"$out")"
    done
}

rss threads 200 1
rss threads 200 1000
rss loop 1000 1
rss loop 1000 200
! in_table always || limited

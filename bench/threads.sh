#!/bin/bash
# What threads that wait cost in memory, and how far a user's limit of locked memory goes.
# LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"

rss() {
    local run leg threads=100 out
    for ((run = 1; run <= pairs; run++)); do
        for leg in plain always; do
            out=$(in_leg "$leg" "rss.$run" "$programs/idle" "$threads") || fail "idle (leg $leg)"
            [ "$(value answered <<<"$out")" -eq "$threads" ] || fail "idle: $out"
            record "100 waiting threads: RSS per thread" KiB "$leg" "$run" \
                "$(per "$(value rss_kib <<<"$out")" "$threads")"
        done
        record "100 waiting threads: of them adopted" threads always "$run" "$(stat_of "rss.$run" rings)"
    done
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
            prlimit --memlock=8388608 "${as[@]}" "$work/idle" "$threads") || fail "idle, unprivileged"
        [ "$(value answered <<<"$out")" -eq "$threads" ] || fail "idle, unprivileged: $out"
        record "300 threads, no privilege, 8 MiB memlock: adopted" threads always "$run" \
            "$(stat_of limited rings)"
        record "300 threads, no privilege, 8 MiB memlock: right answers" threads always "$run" \
            "$(value answered <<<"$out")"
    done
}

rss
limited

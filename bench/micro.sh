#!/bin/bash
# Single calls: bytes waiting, EAGAIN, files and pipes, and what loading the library costs.
# LIB, BUILD, CSV as in lib.sh.
set -euo pipefail
# shellcheck source=bench/lib.sh
. "$(dirname "$(realpath "$0")")/lib.sh"

# on_cpu LEG TAG COMMAND...
on_cpu() {
    (in_leg "$1" "$2" taskset -c "$cpu_a,$cpu_b" "${@:3}")
}

waiting() {
    local size=$1 rounds=$2 run leg out tag
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            tag=waiting.$size.$leg.$run
            out=$(on_cpu "$leg" "$tag" "$programs/micro" waiting "$size" "$rounds")
            record "read() of $size bytes, bytes waiting: median block" ns "$leg" "$run" \
                "$(value median_ns <<<"$out")"
            record "read() of $size bytes, bytes waiting: all calls" ns "$leg" "$run" \
                "$(value mean_ns <<<"$out")"
            [ "$leg" != plain ] || continue
            record "read() of $size bytes, bytes waiting: kernel entries per call" entries "$leg" "$run" \
                "$(per "$(stat_of "$tag" kernel_entries)" "$(stat_of "$tag" receives)")"
            served "$leg" "$tag" "read() of $size bytes"
        done
    done
}

eagain() {
    local run leg out tag calls=200000
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            tag=eagain.$leg.$run
            out=$(on_cpu "$leg" "$tag" "$programs/micro" eagain "$calls")
            record "EAGAIN on an empty socket" ns "$leg" "$run" "$(value median_ns <<<"$out")"
            [ "$leg" != plain ] || continue
            record "EAGAIN: kernel entries per call, counters" entries "$leg" "$run" \
                "$(per "$(stat_of "$tag" kernel_entries)" "$(stat_of "$tag" receives)")"
            served "$leg" "$tag" "the socket that answers EAGAIN"
        done
    done
}

# The same seen from outside: system calls that receive or enter a ring, of the parent alone.
eagain_traced() {
    local leg calls=5000 n
    for leg in "${legs[@]}"; do
        (in_leg "$leg" "traced.$leg" strace -c -U name,calls -e trace=recvfrom,recvmsg,io_uring_enter \
            -o "$work/strace" "$programs/micro" eagain "$calls") >"$work/traced"
        n=$(awk '$1 ~ /^(recvfrom|recvmsg|io_uring_enter)$/ { s += $2 } END { printf "%d", s }' \
            "$work/strace")
        record "EAGAIN: kernel entries per call, strace" entries "$leg" 1 "$(per "$n" "$calls")"
    done
}

# instructions LEG ARG...: that micro executes in user space, by callgrind.
instructions() {
    (in_leg "$1" callgrind valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        "$programs/micro" "${@:2}") 2>&1 | awk '/Collected/ { print $NF; found = 1 }
        END { exit !found }'
}

# Instructions per call are those of 20,000 calls less those of 10,000.
file_and_pipe() {
    local leg few many
    head -c 20000 /dev/zero >"$work/file"
    for leg in "${legs[@]}"; do
        few=$(instructions "$leg" read "$work/file" 10000)
        many=$(instructions "$leg" read "$work/file" 20000)
        record "read() of a file" instructions "$leg" 1 "$(per $((many - few)) 10000)"
        few=$(instructions "$leg" pipe 10000)
        many=$(instructions "$leg" pipe 20000)
        record "read() of a pipe" instructions "$leg" 1 "$(per $((many - few)) 10000)"
    done
}

loading() {
    local run leg settings
    for ((run = 1; run <= pairs; run++)); do
        for leg in "${legs[@]}"; do
            # env itself is started twice, plain, and execs true with or without the library.
            settings_of "$leg"
            hyperfine -N --style none --warmup 20 --runs 200 --export-csv "$work/hyperfine" \
                "$(printf '%q ' env "${settings[@]}" /bin/true)" >"$work/hyperfine.out" 2>&1 ||
                fail "hyperfine: $(tail -n 1 "$work/hyperfine.out")"
            record "/bin/true" ms "$leg" "$run" \
                "$(awk -F, 'NR == 2 { printf "%.3f", $4 * 1000 }' "$work/hyperfine")"
        done
    done
}

waiting 1 40
waiting 64 100
eagain
eagain_traced
file_and_pipe
loading

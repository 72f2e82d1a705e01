#!/bin/bash
# soak.sh [MINUTES [BUILD-DIR]]: the byte-exact stress under the library for hours.
#
# Rounds of ten minutes in turn: tests/posix/stress, and tests/posix/pool_soak, where connections are
# left unread beside busy ones; with the default buffers, with two tiny ones, and with few for each
# socket. Looks at the server process every ten seconds. Ends with an error when a
# byte is wrong, when memory or descriptors keep growing within a round, or when traffic stands
# still. One line a look: minutes, round, resident KiB, descriptors, bytes read so far by the process.
set -euo pipefail

minutes=${1:-60}
here=$(dirname "$(realpath "$0")")
build=${2:-$here/../build/release}
library=$build/libpbufshim.so
stress=$build/tests/posix/stress
pool_soak=$build/tests/posix/pool_soak
threads=16
starved=(PBUFSHIM_INC=off PBUFSHIM_BUFS=2 PBUFSHIM_BUF_SIZE=64)
inc=(PBUFSHIM_INC=on PBUFSHIM_GROUPS=socket PBUFSHIM_BUFS=4 PBUFSHIM_BUF_SIZE=512)
round_seconds=${SOAK_ROUND:-600}
look_seconds=10

for file in "$library" "$stress" "$pool_soak"; do
    [ -e "$file" ] || {
        echo "soak: no $file: build first" >&2
        exit 2
    }
done

log=$(mktemp -d "${TMPDIR:-/tmp}/soak.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$log"' EXIT

fail() {
    echo "soak: $*" >&2
    exit 1
}

rss_of() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$1/status" 2>/dev/null; }
fds_of() { find "/proc/$1/fd" -maxdepth 1 -type l 2>/dev/null | wc -l; }
# Voluntary switches of all threads: they stand still only if everybody sleeps for good.
pulse_of() { cat "/proc/$1"/task/*/status 2>/dev/null | awk '$1 == "voluntary_ctxt_switches:" { n += $2 } END { print n + 0 }'; }

# run_round NAME SECONDS PROGRAM [VARIABLE=VALUE...]
run_round() {
    local name=$1 seconds=$2 program=$3 base_rss=0 base_fds=0 looks=0 last=-1 rss fds pulse
    shift 3
    env "$@" PBUFSHIM_POLICY=always PBUFSHIM_STATS="$log/stats" LD_PRELOAD="$library" \
        "$program" "$seconds" "$threads" >"$log/out" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        # Not a synchronisation: the distance between two looks.
        for ((i = 0; i < look_seconds; i++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 1
        done
        rss=$(rss_of "$pid") || true
        [ -n "${rss:-}" ] || break
        fds=$(fds_of "$pid")
        pulse=$(pulse_of "$pid")
        looks=$((looks + 1))
        echo "$(((SECONDS) / 60)) min, $name: $rss KiB, $fds descriptors, pulse $pulse"
        [ "$pulse" -ne "$last" ] || fail "$name: nothing moved for $look_seconds s"
        last=$pulse
        # The third look is the measure: by then everything has been used once.
        if [ "$looks" -eq 3 ]; then
            base_rss=$rss
            base_fds=$fds
        elif [ "$looks" -gt 3 ]; then
            [ "$rss" -le $((base_rss * 3 / 2 + 8192)) ] || fail "$name: memory grew from $base_rss to $rss KiB"
            [ "$fds" -le $((base_fds + 8 * threads)) ] || fail "$name: descriptors grew from $base_fds to $fds"
        fi
    done
    wait "$pid" || { cat "$log/out" >&2; fail "$name: the program failed"; }
    pid=
    cat "$log/out"
    awk '$1 == "ring_bytes" { n = $2 } END { exit !(n > 0) }' "$log/stats" || fail "$name: no byte came by the ring"
}

end=$((SECONDS + minutes * 60))
round=1
while [ "$SECONDS" -lt "$end" ]; do
    left=$((end - SECONDS))
    seconds=$((left < round_seconds ? left : round_seconds))
    case $((round % 5)) in
    1) run_round "round $round" "$seconds" "$stress" ;;
    2) run_round "round $round, unread" "$seconds" "$pool_soak" ;;
    3) run_round "round $round, starved" "$seconds" "$stress" "${starved[@]}" ;;
    4) run_round "round $round, unread, own groups" "$seconds" "$pool_soak" "${inc[@]}" ;;
    0) run_round "round $round, unread, starved" "$seconds" "$pool_soak" "${starved[@]}" ;;
    esac
    round=$((round + 1))
done
echo "soak: $minutes minutes without a fault"

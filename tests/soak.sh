#!/bin/bash
# soak.sh [MINUTES [BUILD-DIR]]: the byte-exact stress under the library for hours.
#
# Runs tests/posix/stress in rounds of ten minutes, once with the default buffers and once with two
# tiny ones in turn, and looks at the server process every ten seconds. Ends with an error when a
# byte is wrong, when memory or descriptors keep growing within a round, or when traffic stands
# still. One line a look: minutes, round, resident KiB, descriptors, bytes read so far by the process.
set -euo pipefail

minutes=${1:-60}
here=$(dirname "$(realpath "$0")")
build=${2:-$here/../build/release}
library=$build/libpbufshim.so
stress=$build/tests/posix/stress
threads=16
round_seconds=600
look_seconds=10

for file in "$library" "$stress"; do
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

# One round; $1 names it, the rest is environment.
run_round() {
    local name=$1 seconds=$2 base_rss=0 base_fds=0 looks=0 last=-1 rss fds pulse
    shift 2
    env "$@" PBUFSHIM_POLICY=always PBUFSHIM_STATS="$log/stats" LD_PRELOAD="$library" \
        "$stress" "$seconds" "$threads" >"$log/out" 2>&1 &
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
    wait "$pid" || { cat "$log/out" >&2; fail "$name: the stress failed"; }
    pid=
    cat "$log/out"
    awk '$1 == "ring_bytes" { n = $2 } END { exit !(n > 0) }' "$log/stats" || fail "$name: no byte came by the ring"
}

end=$((SECONDS + minutes * 60))
round=1
while [ "$SECONDS" -lt "$end" ]; do
    left=$((end - SECONDS))
    seconds=$((left < round_seconds ? left : round_seconds))
    if [ $((round % 2)) -eq 1 ]; then
        run_round "round $round" "$seconds" PBUFSHIM_VERBOSE=0
    else
        run_round "round $round, starved" "$seconds" PBUFSHIM_INC=off PBUFSHIM_BUFS=2 PBUFSHIM_BUF_SIZE=64
    fi
    round=$((round + 1))
done
echo "soak: $minutes minutes without a fault"

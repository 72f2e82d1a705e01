#!/bin/bash
# run.sh LIBRARY: an ordinary line server under load, plain and with the library in turn.
#
# Builds nothing: lineserver and lineload are taken from the build tree that the library is in
# (BUILD=DIR: from there). About ten seconds.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: run.sh LIBRARY" >&2
    exit 2
fi
LIB=$(realpath -- "$1")
BUILD=${BUILD:-$(dirname "$LIB")}
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"

programs=$BUILD/integration/demo
for program in lineserver lineload; do
    [ -x "$programs/$program" ] || fail "$program is not built in $BUILD"
done
[ -e "$LIB" ] || fail "no library at $LIB"

connections=20
pairs=3
seconds=1
read -r server_cpu load_cpu < <(two_cpus)

# measure LEG TAG SECONDS: one server and one load; appends to $work/result.TAG.
measure() {
    local out
    [ -p "$work/ready" ] || mkfifo "$work/ready"
    in_leg "$1" "$2" "$programs/lineserver" -c "$server_cpu" >"$work/ready" &
    pid=$!
    exec 3<"$work/ready"
    read -r -t 10 _ port <&3 || fail "the line server did not start"
    out=$("$programs/lineload" -c "$load_cpu" -n "$connections" -t "$3" "$port") ||
        fail "the load was not answered rightly (leg $1)"
    printf '%s\n' "$out" >>"$work/result.$2"
    exec 3<&-
    stop "$pid" "the line server" 0
}

result() {
    awk -v n="$2" '$1 == n { print $2 }' "$work/result.$1"
}

# entries_per_line TAG: receive-side kernel entries by the lines that the server answered.
entries_per_line() {
    awk -v e="$(stat_of "$1" kernel_entries)" \
        -v l="$(result "$1" total_lines | awk '{ s += $1 } END { printf "%d", s }')" \
        'BEGIN { printf "%.2f", e / l }'
}

# Under policy never every receive is the plain call, so the library's count is plain's.
measure never count 0.3
for ((i = 0; i < pairs; i++)); do
    measure plain plain "$seconds"
    measure always shim "$seconds"
done

plain=$(result plain lines_per_s | median)
shim=$(result shim lines_per_s | median)
printf 'An ordinary line server: a thread per connection, a read() per byte.\n'
printf '%s connections in a closed loop, 64-byte lines, %s runs of %s s each, medians.\n\n' \
    "$connections" "$pairs" "$seconds"
printf '%-42s %10s %10s\n' '' plain 'with shim'
printf '%-42s %10.0f %10.0f\n' 'lines/s' "$plain" "$shim"
printf '%-42s %10s %10s\n' 'receive-side kernel entries per line' "$(entries_per_line count)" \
    "$(entries_per_line shim)"
printf '%-42s %10s %10s\n' 'ratio of lines/s' '' \
    "$(awk -v a="$shim" -v b="$plain" 'BEGIN { printf "%.2f", a / b }')"
if [ "$server_cpu" = "$load_cpu" ]; then
    printf '\nServer and load shared one processor, which lowers the ratio.\n'
elif result shim load_cpu | median | awk '{ exit !($1 > 0.95) }'; then
    printf '\nThe load used all of its processor: the server could have answered more.\n'
fi
if [ "$(stat_of shim ring_bytes)" -eq 0 ]; then
    printf '\nNothing was served from a ring here: preload.sh --check says why.\n'
fi

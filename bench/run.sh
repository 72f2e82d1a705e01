#!/bin/bash
# run.sh [LIBRARY]: all measurements, as markdown on stdout; the single figures are left in
# bench/results.csv of the build tree. About eight minutes on a machine that does nothing else.
# PAIRS=N: runs of each leg (5).
set -euo pipefail

here=$(dirname "$(realpath "$0")")
top=$(dirname "$here")
LIB=$(realpath -m -- "${1:-$top/build/release/libpbufshim.so}")
BUILD=${BUILD:-$(dirname "$LIB")}
CSV=$BUILD/bench/results.csv
export LIB BUILD CSV

for file in "$LIB" "$BUILD/bench/micro" "$BUILD/bench/idle" "$BUILD/bench/waitserver" \
    "$BUILD/bench/cputime" "$BUILD/integration/demo/lineserver"; do
    [ -e "$file" ] || {
        echo "$file is not built" >&2
        exit 2
    }
done
mapfile -t packages <"$here/packages"
"$top/tools/deps.sh" packages "${packages[@]}"

echo figure,unit,leg,run,value >"$CSV"
load=$(cut -d ' ' -f 1-3 /proc/loadavg)
for script in micro servers readiness threads; do
    # What the scripts say of themselves is no part of the table.
    "$here/$script.sh" >&2
done

printf '%s, %s processors, Linux %s, glibc %s, redis %s; load before: %s.\n' \
    "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" "$(uname -r)" \
    "$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)" \
    "$(redis-server --version | sed 's/.* v=\([^ ]*\).*/\1/')" "$load"
printf 'Median (least to greatest) of %s runs, legs in turn; "times plain" is the median of the pairs.\n\n' \
    "${PAIRS:-5}"
awk -f "$here/table.awk" "$CSV"

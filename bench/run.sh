#!/bin/bash
# run.sh [--inc] [LIBRARY]: all measurements, as markdown on stdout; the single figures are left in
# bench/results.csv of the build tree. About eleven minutes on a machine that does nothing else.
# --inc: the library alone, with incremental buffers (leg inc) against without (noinc), on the same
#   workloads; leaves bench/inc.csv.
# PAIRS=N: runs of each leg (5). LEGS="A B...": the legs (plain always auto); the first is the one with
# which the others are compared.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
top=$(dirname "$here")
results=results.csv
if [ "${1:-}" = --inc ]; then
    LEGS="noinc inc" results=inc.csv
    shift
fi
shown=${LEGS:-plain always auto}
LIB=$(realpath -m -- "${1:-$top/build/release/libpbufshim.so}")
BUILD=${BUILD:-$(dirname "$LIB")}
CSV=$BUILD/bench/$results
export LIB BUILD CSV LEGS="${LEGS:-}"

for file in "$LIB" "$BUILD/bench/micro" "$BUILD/bench/idle" "$BUILD/bench/waitserver" \
    "$BUILD/bench/stall" "$BUILD/bench/cputime" "$BUILD/integration/demo/lineserver"; do
    [ -e "$file" ] || {
        echo "$file is not built" >&2
        exit 2
    }
done
mapfile -t packages <"$here/packages"
"$top/tools/deps.sh" packages "${packages[@]}"

echo figure,unit,leg,run,value >"$CSV"
load=$(cut -d ' ' -f 1-3 /proc/loadavg)
for script in micro servers readiness buffers threads; do
    # What the scripts say of themselves is no part of the table.
    "$here/$script.sh" >&2
done
for leg in $shown; do
    # A table with an empty column would not say that nothing was measured.
    grep -q ",$leg,[0-9]*,[-0-9.]*\$" "$CSV" || {
        echo "nothing was measured in leg $leg" >&2
        exit 1
    }
done

printf '%s, %s processors, Linux %s, glibc %s, redis %s; load before: %s.\n' \
    "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" "$(uname -r)" \
    "$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)" \
    "$(redis-server --version | sed 's/.* v=\([^ ]*\).*/\1/')" "$load"
printf 'Median (least to greatest) of %s runs, legs in turn; "times %s" is the median of the pairs.\n\n' \
    "${PAIRS:-5}" "${shown%% *}"
awk -v legs="$shown" -f "$here/table.awk" "$CSV"

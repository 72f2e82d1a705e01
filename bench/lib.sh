# Common to the scripts that measure; sourced, not run.
#
# Figures go to $CSV as `figure,unit,leg,run,value`. Legs are measured in turn, so that whatever else
# the machine does falls on all of them; bench/table.awk makes medians of them.
#
# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is for those who source this
# shellcheck source=integration/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"

: "${CSV:?the file for the figures}"
pairs=${PAIRS:-5}
programs=$BUILD/bench
read -r cpu_a cpu_b < <(two_cpus)

record() {
    printf '%s,%s,%s,%s,%s\n' "$1" "$2" "$3" "$4" "$5" >>"$CSV"
}

# value NAME: of `name value` lines.
value() {
    awk -v n="$1" '$1 == n { v = $2; found = 1 } END { if (!found) exit 1; print v }'
}

# per A B: A/B with three decimals.
per() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'
}

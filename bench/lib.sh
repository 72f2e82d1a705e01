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
# The legs that are compared; the first is the one with which the others are.
read -ra legs <<<"${LEGS:-plain always}"
programs=$BUILD/bench
read -r cpu_a cpu_b < <(two_cpus)

# record FIGURE UNIT LEG RUN VALUE. What could not be measured is no figure.
record() {
    [[ $5 =~ ^-?[0-9]+(\.[0-9]+)?$ ]] || fail "$1, leg $3: not measured: '$5'"
    printf '%s,%s,%s,%s,%s\n' "$1" "$2" "$3" "$4" "$5" >>"$CSV"
}

# value NAME: of `name value` lines.
value() {
    awk -v n="$1" '$1 == n { v = $2; found = 1 } END { if (!found) exit 1; print v }'
}

# in_table LEG: whether this leg is among those that are compared.
in_table() {
    [[ " ${legs[*]} " == *" $1 "* ]]
}

# per A B: A/B with three decimals.
per() {
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'
}

# recycling FIGURE LEG TAG RUN BURST: how much a buffer of the process with this tag brought before it
# went home, under a load that sends BURST bytes at a time to each connection.
recycling() {
    local bytes buffers completions
    [ "$2" != plain ] || return 0
    bytes=$(stat_of "$3" ring_bytes)
    buffers=$(stat_of "$3" recycled)
    [ "$buffers" -gt 0 ] || fail "$1, leg $2: no buffer was recycled"
    # Of a library that does not count them: one for a burst.
    completions=$(cat "$work/stats.$3"/* | value pool_reuse_ratio) ||
        completions=$(per $((bytes / $5)) "$buffers")
    record "$1: receive completions per buffer recycled" completions "$2" "$4" "$completions"
    record "$1: bytes per buffer recycled" bytes "$2" "$4" "$(per "$bytes" "$buffers")"
}

#!/bin/bash
# clang-tidy finds nothing. Not in tests/posix and tests/fuzz: wrong calls are what they are for.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

tidy_one() {
    local out checks=()
    # The analyzer walks every path through a table of stubs for a minute, and finds none to end it.
    [[ $2 != */shim/real.c ]] || checks=(--checks=-clang-analyzer-*)
    out=$(clang-tidy --quiet "${checks[@]}" -p "$1" "$2" 2>/dev/null) || {
        printf '%s\n' "$out"
        return 1
    }
}
export -f tidy_one

mapfile -t files < <(grep -oE '"file": "[^"]*"' "$build/compile_commands.json" | cut -d'"' -f4 |
    grep -vE '/tests/(posix|fuzz)/' | sort -u)
[ ${#files[@]} -gt 0 ] || finding "no compile commands in $build"
printf '%s\0' "${files[@]}" |
    xargs -0 -P "$(nproc)" -I{} bash -c 'tidy_one "$0" "$1"' "$build" {} || finding "clang-tidy: see above"
conclude

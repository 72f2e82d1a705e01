#!/bin/bash
# coverage.sh [CTEST-ARG...]: which lines of the library the tests run. Builds preset coverage, runs the
# unit and posix tests, or what the arguments choose of all (coverage.sh -R epoll), and prints for each
# file of shim/ how much of it ran. The sources with a count before each line, ##### for never, are in
# build/coverage/lines. Needs gcc's gcov. Processes that end by _exit() or a signal, or replace
# themselves, do not count.
set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$top"
build=$top/build/coverage
jobs=$(nproc)
[ $# -gt 0 ] || set -- -L '^(unit|posix)$'

mkdir -p build/logs
{ cmake --preset coverage && cmake --build --preset coverage --parallel "$jobs"; } \
    >build/logs/build-coverage.log 2>&1 || {
    echo "cannot be built, see build/logs/build-coverage.log" >&2
    exit 1
}

# Counts add up over processes and runs.
find "$build" -name '*.gcda' -delete
status=0
ctest --test-dir "$build" --output-on-failure --parallel "$jobs" "$@" \
    >build/logs/coverage.log 2>&1 || status=$?
grep -E '\*\*\*|tests passed|No tests' build/logs/coverage.log || true

# All in one call, so that what headers define is summed over those who include them.
rm -rf "$build/lines"
mkdir "$build/lines"
mapfile -t counts < <(find "$build/shim" -name '*.gcda')
[ ${#counts[@]} -gt 0 ] || {
    echo "nothing of the library ran" >&2
    exit 1
}
(cd "$build/lines" && gcov --preserve-paths --relative-only --source-prefix "$top" "${counts[@]}") \
    >build/logs/gcov.log 2>&1
# `File 'shim/rx.c'`, `Lines executed:97.14% of 140`
awk -F"[':% ]+" '
    $1 == "File" { file = $2 }
    $1 == "Lines" && file ~ /^shim\// {
        printf "%6.1f %% of %4d  %s\n", $3, $5, file | "sort -k 5"
        ran += $3 * $5 / 100
        lines += $5
        file = ""
    }
    END {
        close("sort -k 5")
        printf "%6.1f %% of %4d  in all\n", 100 * ran / lines, lines
    }' build/logs/gcov.log
exit "$status"

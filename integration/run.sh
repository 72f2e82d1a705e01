#!/bin/bash
# run.sh [LIBRARY [NAME...]]: real programs under the library, each by its own NAME/run.sh; all of
# them but the demonstration, unless named. Installs what they need. Logs go to build/logs.
# A script exits with 0, with 77 if it cannot run here, or otherwise with what went wrong; the last
# line of its output says so.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
top=$(dirname "$here")
LIB=$(realpath -m -- "${1:-${LIB:-$top/build/release/libpbufshim.so}}")
BUILD=${BUILD:-$(dirname "$LIB")}
[ $# -eq 0 ] || shift
[ -e "$LIB" ] || {
    echo "no library at $LIB" >&2
    exit 2
}
export LIB BUILD

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for script in "$here"/*/run.sh; do
        name=$(basename "$(dirname "$script")")
        [ "$name" = demo ] || names+=("$name")
    done
fi

packages=()
for name in "${names[@]}"; do
    [ ! -e "$here/$name/packages" ] || mapfile -t -O ${#packages[@]} packages <"$here/$name/packages"
done
# A script whose program is still missing says so and is skipped.
"$top/tools/deps.sh" packages "${packages[@]}" ||
    echo "not all of these could be installed: ${packages[*]}"

logs=$top/build/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
for name in "${names[@]}"; do
    log=$logs/integration-$name.log
    status=0
    begin=$SECONDS
    timeout -k 10 240 "$here/$name/run.sh" >"$log" 2>&1 || status=$?
    took="$((SECONDS - begin)) s"
    reason=$(tail -n 1 "$log")
    case $status in
    0)
        printf 'PASS %s (%s)\n' "$name" "$took"
        passed=$((passed + 1))
        ;;
    77)
        printf 'SKIP %s: %s\n' "$name" "${reason#SKIP: }"
        skipped=$((skipped + 1))
        ;;
    *)
        [ "$status" -ne 124 ] || reason="not done after 240 s, last line: $reason"
        printf 'FAIL %s (%s): %s; see build/logs/%s\n' "$name" "$took" "${reason#FAIL: }" \
            "$(basename "$log")"
        failed=$((failed + 1))
        ;;
    esac
done
[ "$skipped" -eq 0 ] || printf '%s skipped\n' "$skipped"
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]

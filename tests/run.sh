#!/bin/bash
# run.sh [PART...]: installs what the tests need, builds, and runs all tests or those of the named
# parts. Output of each part goes to build/logs; the last line is the sum.
#
#   lint          rules that a compiler does not check            (build dev)
#   unit          modules without a kernel                        (build dev)
#   fuzz          the model of a pool, with strings from libFuzzer (build dev)
#   posix         plain programs in every leg                     (build dev)
#   diff          random scripts, plain and shimmed compared      (build release)
#   asan tsan     unit, posix and diff under the sanitizers       (builds asan, tsan)
#   stress        many threads, byte-exact                        (build release)
#   integration   real programs                                   (build release)
set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$top"
logs=build/logs
jobs=$(nproc)
all_parts=(lint unit fuzz posix diff asan tsan stress integration)

# A sanitizer build looks at the legs in which the library works: that of plain calls is libc's.
# Label no-asan or no-tsan takes a test out.
sanitized='^(unit|posix|diff)$'
not_sanitized='^(plain|noring-.*)$'
sanitized_seeds=300

passed=0 failed=0 skipped=0
declare -A built

say() {
    printf '%s\n' "$*"
}

# add PART PASSED FAILED SKIPPED. A part in which nothing passed has shown nothing.
add() {
    say "     $1: $2 passed, $3 failed, $4 skipped"
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
    if [ "$2" -eq 0 ] && [ "$3" -eq 0 ]; then
        say "     $1: the whole of it was skipped, which counts as a failure"
        failed=$((failed + 1))
    fi
}

# build PRESET: once; fails if it cannot be built.
build() {
    local log=$logs/build-$1.log
    local options=(-DPBUFSHIM_TESTS=ON)
    if [ -z "${built[$1]-}" ]; then
        say "==== building $1"
        built[$1]=yes
        [[ $1 != ?san ]] || options+=("-DPBUFSHIM_FUZZ_SEEDS=$sanitized_seeds")
        { cmake --preset "$1" "${options[@]}" && cmake --build "build/$1" --parallel "$jobs"; } \
            >"$log" 2>&1 || built[$1]=no
    fi
    [ "${built[$1]}" = yes ] && return 0
    grep -m 10 -E 'error|Error' "$log" || true
    say "     cannot be built, see $log"
    return 1
}

# run_ctest PART PRESET CTEST-ARG...
run_ctest() {
    local part=$1 preset=$2
    local log=$logs/$part.log
    local wrap=()
    shift 2
    if ! build "$preset"; then
        failed=$((failed + 1))
        return 0
    fi
    say "==== $part"
    # Some kernels lay memory out in more ways than the sanitizers' maps have room for.
    if [[ $part = ?san ]] && setarch -R true 2>/dev/null; then
        wrap=(setarch -R)
    fi
    "${wrap[@]}" ctest --test-dir "build/$preset" --output-on-failure --parallel "$jobs" "$@" \
        >"$log" 2>&1 || true
    awk -v log_name="$log" -v sum="$logs/.sum" '
        # `12/90 Test #12: posix.close.shim ....   Passed    0.10 sec`
        /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
            name = $0
            sub(/^[^:]*: /, "", name)
            sub(/ .*/, "", name)
            # A leg of which every test was skipped is no skip: it was never run.
            leg = name
            gsub(/^[^.]*\.|\.[^.]*$/, "", leg)
            leg = substr(name, 1, index(name, ".")) "*" substr(name, index(name, ".") + 1 + length(leg))
            legs[leg]++
            if (/ Passed  /) {
                p++
            } else if (/\*\*\*Skipped/) {
                s++
                leg_skipped[leg]++
                print "     SKIP " name
            } else {
                f++
                print "     FAIL " name " (" log_name ")"
            }
        }
        END {
            for (leg in legs)
                if (legs[leg] == leg_skipped[leg]) {
                    f++
                    print "     FAIL all of " leg " was skipped"
                }
            print p + 0, f + 0, s + 0 > sum
        }' "$log"
    # shellcheck disable=SC2046 # three numbers
    add "$part" $(cat "$logs/.sum")
}

run_integration() {
    local log=$logs/integration.log
    if ! build release; then
        failed=$((failed + 1))
        return 0
    fi
    say "==== integration"
    integration/run.sh build/release/libpbufshim.so 2>&1 | tee "$log" | sed 's/^/     /' || true
    add integration "$(grep -c '^PASS ' "$log" || true)" "$(grep -c '^FAIL ' "$log" || true)" \
        "$(grep -c '^SKIP ' "$log" || true)"
}

run_part() {
    case $1 in
    lint) run_ctest lint dev -L '^lint$' ;;
    unit) run_ctest unit dev -L '^unit$' ;;
    fuzz) run_ctest fuzz dev -L '^fuzz$' ;;
    posix) run_ctest posix dev -L '^posix$' ;;
    diff) run_ctest diff release -L '^diff$' ;;
    asan | tsan) run_ctest "$1" "$1" -L "$sanitized" -LE "$not_sanitized|^no-$1\$" \
        -E '^diff\.(plain|catches)|^diff\..*(auto|starved-inc|\.plain)$' ;;
    stress) run_ctest stress release -L '^stress$' ;;
    integration) run_integration ;;
    esac
}

parts=("$@")
[ $# -gt 0 ] || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
    [[ " ${all_parts[*]} " == *" $part "* ]] || {
        printf 'run.sh: no part %s; there are: %s\n' "$part" "${all_parts[*]}" >&2
        exit 2
    }
done

mkdir -p "$logs"
tools/deps.sh test
for part in "${parts[@]}"; do
    begin=$SECONDS
    run_part "$part"
    say "     $part took $((SECONDS - begin)) s"
done

sum="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || sum+=", $skipped skipped"
say "$sum"
[ "$failed" -eq 0 ]

#!/bin/bash
# leg.sh LEG PROGRAM [ARG...]: runs a plain test program in one leg.
#
#   plain           no library: the kernel's own answers, against which a test is written
#   shim            the library, which takes every socket it can
#   auto            the library as it is by default
#   starved         the library with two buffers of 64 bytes, each used once and then recycled
#   inc             the library with four buffers of 512 bytes for each socket, used bit by bit
#   slow            as shim, and what it submits to the ring comes late (slowenter.c)
#   slowclose       the same, and its closes, too
#   noring-EPERM    the library, io_uring refused by a seccomp filter
#   noring-ENOSYS   the same with the other errno
#
# No false green: legs shim, starved, inc and the slow ones fail when no byte came by a ring, the noring
# legs when one did; the slow ones fail when nothing came late. A program for which no ring byte can be
# right says so in a line of its source,
#   /* ring: none: the reason */
# and then fails if one did. Exit status 77 is a skip, with its reason on the last line.
#
# PBUFSHIM_LIB names the library (default: the build tree's), TEST_NORING and TEST_SLOWENTER the
# launchers, TEST_SOURCE_DIR where PROGRAM's source is.
set -euo pipefail

fail() {
    echo "leg $leg: $*" >&2
    exit 1
}

skip() {
    echo "leg $leg: skipped: $*" >&2
    exit 77
}

if [ $# -lt 2 ]; then
    echo "usage: leg.sh plain|shim|auto|starved|inc|slow|slowclose|noring-EPERM|noring-ENOSYS PROGRAM [ARG...]" >&2
    exit 2
fi
leg=$1
program=$(realpath "$2")
shift 2
here=$(dirname "$(realpath "$0")")
build=$(dirname "$(dirname "$(dirname "$program")")")
library=${PBUFSHIM_LIB:-$build/libpbufshim.so}
noring=${TEST_NORING:-$build/tests/support/noring}
slowenter=${TEST_SLOWENTER:-$build/tests/support/slowenter}
source=${TEST_SOURCE_DIR:-$here/../posix}/$(basename "$program").c

# Nothing of the caller's settings may reach the program.
for name in $(compgen -e PBUFSHIM_ || true); do
    unset "$name"
done
unset LD_PRELOAD TEST_RING TEST_STATS
export TEST_LEG=$leg
# The library never allocates; what a failing case leaves behind is not of interest.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0:handle_segv=0}
export TSAN_OPTIONS=${TSAN_OPTIONS:-die_after_fork=0:atexit_sleep_ms=0:report_thread_leaks=0:report_signal_unsafe=0:halt_on_error=1:suppressions=$here/tsan.supp}

if [ "$leg" = plain ]; then
    exec "$program" "$@"
fi

[ -e "$library" ] || skip "no library at $library"

# AddressSanitizer's runtime wants to be first; the library then is what it finds by RTLD_NEXT.
# ThreadSanitizer's has to be behind: what is called from within its poll() it does not see
# synchronise.
runtime=$(ldd "$library" | awk '$1 ~ /^lib(asan|tsan|clang_rt\.(asan|tsan))/ && !n++ { print $3 }')
case $runtime in
*tsan*) preload="$library $runtime" ;;
*) preload=${runtime:+$runtime }$library ;;
esac

stats=$(mktemp -d "${TMPDIR:-/tmp}/leg.XXXXXX")
trap 'rm -rf "$stats"' EXIT
export PBUFSHIM_STATS=$stats/%p
# For cases that ask whether a certain process was served (leg.h).
export TEST_STATS=$stats
case $leg in shim | starved | inc | slow | slowclose) export TEST_RING=must ;; esac

launch=()
case $leg in
shim) export PBUFSHIM_POLICY=always ;;
auto) export PBUFSHIM_POLICY=auto ;;
starved) export PBUFSHIM_POLICY=always PBUFSHIM_INC=off PBUFSHIM_BUFS=2 PBUFSHIM_BUF_SIZE=64 ;;
inc)
    export PBUFSHIM_POLICY=always PBUFSHIM_INC=on PBUFSHIM_GROUPS=socket
    export PBUFSHIM_BUFS=4 PBUFSHIM_BUF_SIZE=512
    ;;
slow | slowclose)
    [ -x "$slowenter" ] || skip "no launcher at $slowenter"
    export PBUFSHIM_POLICY=always PBUFSHIM_INC=on # which it is not by itself under a filter
    late=$(mktemp "${TMPDIR:-/tmp}/late.XXXXXX")
    trap 'rm -rf "$stats" "$late"' EXIT
    launch=("$slowenter" 300)
    [ "$leg" = slow ] || launch=("$slowenter" -c 300)
    ;;
noring-EPERM | noring-ENOSYS)
    [ -x "$noring" ] || skip "no launcher at $noring"
    export PBUFSHIM_POLICY=always
    launch=("$noring" "${leg#noring-}")
    ;;
*) fail "no such leg" ;;
esac

status=0
if [ ${#launch[@]} -gt 0 ]; then
    PRELOAD=$preload SLOWENTER_COUNT=${late-} "${launch[@]}" "$program" "$@" || status=$?
else
    LD_PRELOAD=$preload "$program" "$@" || status=$?
fi
[ "$status" -eq 0 ] || exit "$status"

files=("$stats"/*)
[ -e "${files[0]}" ] || fail "the library wrote no statistics: was it loaded?"
ring=$(awk '$1 == "ring_bytes" { n += $2 } END { printf "%d", n }' "${files[@]}")
none=$(sed -n 's|^/\* ring: none: \(.*\) \*/$|\1|p' "$source" 2>/dev/null | head -n 1)
echo "leg $leg: $ring bytes by the ring"
case $leg in
shim | starved | inc | slow | slowclose)
    if [ -n "$none" ]; then
        [ "$ring" -eq 0 ] || fail "$ring bytes came by a ring, though: $none"
    else
        [ "$ring" -gt 0 ] || fail "false green: no byte came by a ring"
    fi
    ;;
noring-*) [ "$ring" -eq 0 ] || fail "$ring bytes came by a ring that was refused" ;;
esac
[ -z "${late-}" ] || [ "$(cat "$late")" -gt 0 ] || fail "false green: nothing was submitted late"

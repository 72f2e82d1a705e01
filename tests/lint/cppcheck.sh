#!/bin/bash
# cppcheck finds nothing (wrong calls are what tests/posix and tests/fuzz are for). It is shown the macros of uthash and utlist, or it takes loops for calls.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    -j "$(nproc)" -D_GNU_SOURCE -D__x86_64__ -DPBS_DEBUG '-DPBS_VERSION="0"' -I shim -I tests/support \
    --include=/usr/include/utlist.h --include=/usr/include/uthash.h '--suppress=*:/usr/include/*' \
    --suppress=allocaCalled --suppress=ignoredReturnValue shim "${code[@]}" -i tests/posix -i tests/fuzz || finding "cppcheck: see above"
conclude

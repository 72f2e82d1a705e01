#!/bin/bash
# The library exports its version script's names and no other; its objects call libc's socket calls
# only through `real`, and never the allocator.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
library=$build/libpbufshim.so

[ -e "$library" ] || { finding "no library in $build"; conclude; }

have=$(nm -D --defined-only "$library" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort)
want=$(exported)
for name in $(comm -23 <(printf '%s\n' "$have") <(printf '%s\n' "$want")); do
    finding "exported, not in libpbufshim.map: $name"
done
for name in $(comm -13 <(printf '%s\n' "$have") <(printf '%s\n' "$want")); do
    finding "in libpbufshim.map, not exported: $name"
done
dynamic=$(readelf -d "$library")
segments=$(readelf -lW "$library")
[[ $dynamic != *SONAME* ]] || finding "the library has a soname"
[[ $dynamic != *TEXTREL* ]] || finding "the library has text relocations"
[[ $dynamic == *BIND_NOW* ]] || finding "the library is bound lazily"
[[ ! $segments =~ GNU_STACK[^$'\n']*RWE ]] || finding "the library wants an executable stack"

# A call to one of these would come back to our own hook, or take a lock that a signal handler holds.
allocator='malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf|fopen|aligned_alloc|posix_memalign'
taken=$(exported | paste -sd'|')
# liburing's own ways into the kernel, some of them behind inline functions (io_uring_peek_cqe): an enter
# is pbs_enter_call's, which no signal is slept over in.
enters='__io_uring_get_cqe|__io_uring_sqring_wait|io_uring_enter2?|io_uring_(submit|wait|get_events).*|io_uring_peek_batch_cqe'
objects=0
while read -r object; do
    objects=$((objects + 1))
    module=$(basename "$object" .c.o)
    undefined=$(nm -u "$object" | awk '{ sub(/@.*/, "", $2); print $2 }')
    while read -r name; do
        [ -z "$name" ] || finding "$module allocates: $name"
    done < <(grep -xE "$allocator" <<<"$undefined" || true)
    while read -r name; do
        # The self-test's ring is its own, and no enter of it sleeps.
        [ -z "$name" ] || [ "$module:$name" = inc:io_uring_submit_and_get_events ] ||
            finding "$module enters a ring by $name"
    done < <(grep -xE "$enters" <<<"$undefined" || true)
    [ "$module" != real ] || continue
    while read -r name; do
        [ -z "$name" ] || finding "$module calls $name past module real"
    done < <(grep -xE "$taken" <<<"$undefined" || true)
done < <(find "$build/shim" -name '*.c.o')
[ "$objects" -gt 0 ] || finding "no objects in $build/shim"
conclude

#!/bin/bash
# Who may include whom: includes.rules holds the library's layers, and is held to them itself.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
rules=$top/tests/lint/includes.rules

declare -A allowed
while read -r module rest; do
    [[ $module == *: ]] || { finding "includes.rules: not 'module: ...': $module"; continue; }
    module=${module%:}
    [ -z "${allowed[$module]+x}" ] || finding "includes.rules: $module stands twice"
    # Listed from the bottom up: what a module may include stands above it, so that there is no circle.
    for other in $rest; do
        [ -n "${allowed[$other]+x}" ] || finding "includes.rules: $module may include $other, which stands below it"
    done
    allowed[$module]=" $rest "
done < <(grep -vE '^(#|$)' "$rules")

# hook_recv.c and hook.h are of module hook; every other file is a module by its whole name.
module_of() {
    local name=${1##*/}
    name=${name%.[ch]}
    case $name in
    hook_*) name=hook ;;
    esac
    printf '%s' "$name"
}

declare -A direct
for file in "$shim"/*.[ch]; do
    name=${file##*/}
    module=$(module_of "$file")
    if [ -z "${allowed[$module]+x}" ]; then
        finding "shim/$name: module $module is not in includes.rules"
        continue
    fi
    while read -r header; do
        other=$(module_of "$header")
        [ "$other" = "$module" ] && continue
        direct[$module]+=" $other"
        [[ ${allowed[$module]} == *" $other "* ]] || finding "shim/$name: $module may not include $header"
    done < <(sed -n 's/^#include "\(.*\)"/\1/p' "$file")

    if grep -q '^#include <liburing' "$file" && [[ ! $module =~ ^(ring|ring_enter|pbuf|inc)$ ]]; then
        finding "shim/$name: <liburing.h> belongs to ring, pbuf and inc"
    fi
    if grep -q '^#include <dlfcn.h>' "$file" && [ "$module" != real ]; then
        finding "shim/$name: <dlfcn.h> belongs to real"
    fi
done

for module in "${!allowed[@]}"; do
    compgen -G "$shim/$module.[ch]" >/dev/null || compgen -G "$shim/${module}_*.c" >/dev/null ||
        finding "includes.rules: there is no module $module"
done

# All that a module includes, through others too.
reach() {
    local module=$1 other
    [ -z "${seen[$module]+x}" ] || return 0
    seen[$module]=1
    for other in ${direct[$module]-}; do
        reach "$other"
    done
}
never_meet() {
    local -A seen=()
    reach "$1"
    [ -z "${seen[$2]+x}" ] || finding "$1 includes $2, by whatever way: they never meet"
}
never_meet ring fdtab
never_meet fdtab ring
for low in pbuf sock policy; do
    for high in rx ready ring fdtab real; do
        never_meet "$low" "$high"
    done
done
conclude

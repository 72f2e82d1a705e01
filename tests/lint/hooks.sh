#!/bin/bash
# shim/hooks.list decides about every function of libc that could concern the library, and tells
# the truth about what the library takes over.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
list=$shim/hooks.list

[ -e "$list" ] || { finding "no shim/hooks.list"; conclude; }

while read -r number line; do
    read -r name verdict reason <<<"$line"
    case $verdict in
    hooked) ;;
    passed | na) [ -n "$reason" ] || finding "hooks.list:$number: $name is $verdict without a reason" ;;
    *) finding "hooks.list:$number: '$line' is not: name hooked|passed|na reason" ;;
    esac
done < <(awk '!/^#/ && NF { print NR, $0 }' "$list")

while read -r name; do
    [ -z "$name" ] || finding "hooks.list: $name stands twice"
done < <(awk '!/^#/ && NF { print $1 }' "$list" | sort | uniq -d)

hooked=$(awk '!/^#/ && $2 == "hooked" { print $1 }' "$list" | sort)
for name in $(comm -23 <(printf '%s\n' "$hooked") <(exported)); do
    finding "hooks.list says that $name is hooked, libpbufshim.map does not export it"
done
for name in $(comm -13 <(printf '%s\n' "$hooked") <(exported)); do
    finding "libpbufshim.map exports $name, hooks.list does not say hooked"
done
for name in $("$top/tools/hooks-missing.sh"); do
    finding "libc exports $name, hooks.list does not decide about it"
done
conclude

# shellcheck shell=bash
# Sourced by the lint scripts: where things are, and how a finding is told.
top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034 # for the scripts that look at what was built
build=${1:-$top/build/dev}
shim=$top/shim
findings=0
cd -- "$top" || exit
code=(tests tools integration)
[ ! -d bench ] || code+=(bench)

finding() {
    printf '%s\n' "$*"
    findings=$((findings + 1))
}

# Last line of each script.
conclude() {
    [ "$findings" -eq 0 ] || {
        printf '%s: %d findings\n' "$(basename "$0")" "$findings"
        exit 1
    }
}

c_files() {
    find shim "${code[@]}" -name '*.[ch]' | sort
}

# What the library takes over, by its version script.
exported() {
    sed -n '/global:/,/local:/p' "$shim/libpbufshim.map" | grep -oE '^ *[A-Za-z_0-9]+;' | tr -d ' ;' | sort
}

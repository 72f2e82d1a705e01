#!/bin/bash
# Runs a command under libpbufshim: fetches and builds what is missing first, and nothing otherwise.
# Installed (cmake --install), it uses the library beside it and never builds.
set -euo pipefail

die() {
    local status=$1
    shift
    printf 'preload.sh: %s\n' "$*" >&2
    exit "$status"
}

usage() {
    cat <<'USAGE'
usage: preload.sh [OPTION...] [COMMAND [ARG...]]

Runs COMMAND with its blocking receives on TCP sockets served from a hidden io_uring. Without a
COMMAND: a demonstration in a few seconds. The exit status is the command's.

  --policy P      auto (default): where it saves kernel entries; always; never: count only
  --stats[=FILE]  counters at exit, to stderr or to FILE (%p in it is the process id)
  --verbose       say what is wrong with settings
  --check         say what this kernel and this user can do; status 1 if no ring can be had
  --help          this text
USAGE
}

# Sets lib and check. Builds if the sources are newer than the last build that went well.
locate() {
    if [ ! -e "$here/CMakeLists.txt" ]; then
        lib=$here/../lib/libpbufshim.so
        check=$here/../lib/pbufshim/pbufshim-check
        [ -e "$lib" ] || die 1 "no library at $lib"
        lib=$(realpath -- "$lib")
        return
    fi
    build=$here/build/release
    lib=$build/libpbufshim.so
    check=$build/tools/pbufshim-check
    up_to_date || build
}

# A directory is newer when a file was added or taken away.
up_to_date() {
    [ -e "$lib" ] && [ -e "$build/.built" ] &&
        [ -z "$(cd -- "$here" && find CMakeLists.txt CMakePresets.json cmake shim tools \
            integration/CMakeLists.txt integration/demo -newer build/release/.built -print -quit)" ]
}

build() {
    local log=$here/build/release.log
    local jobs
    "$here/tools/deps.sh" build || exit 1
    mkdir -p "$build"
    exec 9>"$here/build/.release.lock"
    flock 9
    # Somebody else may have built while we waited.
    if ! up_to_date; then
        printf 'building libpbufshim\n' >&2
        jobs=$(nproc)
        # The time of the beginning counts: a source that is changed meanwhile is newer.
        touch "$build/.building"
        (
            cd -- "$here"
            [ -e "$build/CMakeCache.txt" ] || cmake --preset release -DPBUFSHIM_TESTS=OFF
            cmake --build "$build" --parallel "$jobs" --target runtime
        ) >"$log" 2>&1 || {
            grep -m 5 -E 'error|Error' "$log" >&2 || true
            die 1 "the build failed, see $log"
        }
        mv "$build/.building" "$build/.built"
    fi
    exec 9>&-
}

here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")
want_check=
while [ $# -gt 0 ]; do
    case $1 in
    --policy | --policy=*)
        if [ "$1" = --policy ]; then
            [ $# -ge 2 ] || die 2 "--policy needs a value: auto, always or never"
            shift
        fi
        value=${1#--policy=}
        case $value in
        auto | always | never) export PBUFSHIM_POLICY=$value ;;
        *) die 2 "unknown policy '$value': auto, always or never" ;;
        esac
        ;;
    --stats) export PBUFSHIM_STATS=1 ;;
    --stats=/*) export PBUFSHIM_STATS=${1#--stats=} ;;
    --stats=?*) export PBUFSHIM_STATS=$PWD/${1#--stats=} ;; # the command may change directory
    --verbose) export PBUFSHIM_VERBOSE=1 ;;
    --check) want_check=1 ;;
    --help | -h)
        usage
        exit 0
        ;;
    --)
        shift
        break
        ;;
    -*) die 2 "unknown option '$1' (--help lists them)" ;;
    *) break ;;
    esac
    shift
done

locate

if [ -n "$want_check" ]; then
    [ $# -eq 0 ] || die 2 "--check takes no command"
    exec "$check"
fi

case $lib in
*[[:space:]:]*) die 1 "the loader takes no library from a path with blanks or colons: $lib" ;;
esac

if [ $# -eq 0 ]; then
    [ -e "$here/CMakeLists.txt" ] || die 2 "no command (the demonstration is in the source tree)"
    exec "$here/integration/demo/run.sh" "$lib"
fi

# As a shell gives them; the words of exec's own failure would name a line of this script.
command=$(type -P -- "$1" || true)
if [ -z "$command" ]; then
    case $1 in
    */*) [ -e "$1" ] || die 127 "$1: no such file or directory" ;;
    *) die 127 "$1: command not found" ;;
    esac
    command=$1
fi
[ ! -d "$command" ] || die 126 "$1: is a directory"
[ -x "$command" ] || die 126 "$1: permission denied"

# Before what is preloaded already: the other libraries see the calls that we make.
export LD_PRELOAD=$lib${LD_PRELOAD:+ $LD_PRELOAD}
exec -- "$@"

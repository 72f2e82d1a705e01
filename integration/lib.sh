# Common to the scripts that run real programs; sourced, not run. Needs bash, awk, coreutils.
#
# LIB    the library
# BUILD  the build tree (default: the one that it is in)
#
# A leg is how a program is run:
#   plain    without the library: proves that the script itself is right
#   always   the library takes every socket it can
#   starved  the same with two tiny buffers for a thread
#   inc      as always, with incremental buffers wherever the kernel takes them
#   noinc    as always, without them
#   never    the library only counts
#   auto     the library as it is by default
# A program run in a leg writes its counters to $work/stats.TAG/PID, where TAG is the argument that
# follows the leg; several programs may share a tag.
#
# shellcheck shell=bash

: "${LIB:?the library}" "${BUILD:=$(dirname "$LIB")}"
# Whether held bytes survive a fork and an exec, so that whoever has the socket next goes on with them.
# Until then scripts leave such cases out, but in the plain leg. The one line that switches them on.
: "${INHERITED:=yes}"
work=$(mktemp -d "${TMPDIR:-/tmp}/pbufshim.XXXXXX")

# below PID: its children and theirs.
below() {
    local child
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
        printf '%s\n' "$child"
        below "$child"
    done
}

cleanup() {
    local pid
    # The shell's words about them would hide our own last line.
    exec 2>/dev/null
    # Only what still runs beneath us: any other number may be someone else's by now. A server's
    # workers do not end because it is killed.
    for pid in $(jobs -pr); do
        # shellcheck disable=SC2046
        kill -KILL "$pid" $(below "$pid") || true
    done
    wait || true
    rm -rf "$work"
}
trap cleanup EXIT

fail() {
    printf 'FAIL: %s\n' "$*"
    exit 1
}

skip() {
    printf 'SKIP: %s\n' "$*"
    exit 77
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip "$tool is not installed"
    done
}

# settings_of LEG: sets the array settings to the environment of this leg, as words for env.
settings_of() {
    local runtime
    settings=()
    [ "$1" != plain ] || return 0
    # A sanitizer's runtime wants to be first.
    runtime=$(ldd "$LIB" | awk '$1 ~ /^lib(asan|tsan|clang_rt\.(asan|tsan))/ && !n++ { print $3 }')
    settings=("LD_PRELOAD=${runtime:+$runtime }$LIB")
    case $1 in
    starved) settings+=(PBUFSHIM_POLICY=always PBUFSHIM_INC=off PBUFSHIM_BUFS=2 PBUFSHIM_BUF_SIZE=64) ;;
    inc) settings+=(PBUFSHIM_POLICY=always PBUFSHIM_INC=on) ;;
    noinc) settings+=(PBUFSHIM_POLICY=always PBUFSHIM_INC=off) ;;
    *) settings+=("PBUFSHIM_POLICY=$1") ;;
    esac
}

# in_leg LEG TAG COMMAND...: becomes the command. Use it in a subshell or in the background.
in_leg() {
    local leg=$1 tag=$2 name settings
    shift 2
    for name in $(compgen -e PBUFSHIM_ || true); do
        unset "$name"
    done
    [ "$leg" != plain ] || exec "$@"
    # Workers of a server that root has started are somebody else.
    mkdir -p "$work/stats.$tag"
    chmod 755 "$work"
    chmod 1777 "$work/stats.$tag"
    settings_of "$leg"
    exec env "${settings[@]}" PBUFSHIM_STATS="$work/stats.$tag/%p" "$@"
}

# spawn LEG TAG COMMAND...: in the background; its process is $pid. Input comes from $input, output
# goes to $output, errors and what has no other place go to $work/TAG.out.
input=/dev/null
output=
config=
spawn() {
    in_leg "$@" <"$input" >>"${output:-$work/$2.out}" 2>>"$work/$2.out" &
    pid=$!
}

alive() {
    local state
    state=$(awk '/^State:/ { print $2 }' "/proc/$1/status" 2>/dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

# listens_on PID PORT: whether this very process has a listening socket there.
listens_on() {
    local hex inode link
    hex=$(printf '%04X' "$2")
    for inode in $(awk -v p=":$hex\$" '$2 ~ p && $4 == "0A" { print $10 }' \
        /proc/net/tcp /proc/net/tcp6 2>/dev/null); do
        for link in /proc/"$1"/fd/*; do
            [ "$(readlink "$link")" != "socket:[$inode]" ] || return 0
        done
    done
    return 1
}

port_in_use() {
    awk -v p=":$(printf '%04X' "$1")\$" '$2 ~ p { found = 1 } END { exit !found }' \
        /proc/net/tcp /proc/net/tcp6 2>/dev/null
}

# listen LEG TAG COMMAND...: spawns a server that is told its port by the word @PORT@ and waits until
# it listens. Sets $pid and $port. A server that wants a file instead gets $config, in which the word
# stands as well: it is written from $config.in. Ports are taken below the range from which the kernel
# gives to outgoing connections; one that another process took meanwhile costs another try.
listen() {
    local try wait command
    for try in 1 2 3 4 5; do
        port=$((20000 + (RANDOM + try) % 12000))
        ! port_in_use "$port" || continue
        command=("${@:3}")
        [ -z "$config" ] || sed "s/@PORT@/$port/g" "$config.in" >"$config"
        spawn "$1" "$2" "${command[@]//@PORT@/$port}"
        for ((wait = 0; wait < 1000; wait++)); do
            ! listens_on "$pid" "$port" || return 0
            alive "$pid" || break
            sleep 0.01
        done
    done
    cat "$work/$2.out"
    fail "$3 did not begin to listen"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local left=$(($1 * 50)) what=$2
    shift 2
    until "$@"; do
        ((left-- > 0)) || fail "waited in vain for $what"
        sleep 0.02
    done
}

gone() {
    ! alive "$1"
}

# ends PID SECONDS NAME: the process ends by itself, with status 0.
ends() {
    local status=0
    wait_for "$2" "the end of $3" gone "$1"
    wait "$1" || status=$?
    [ "$status" -eq 0 ] || fail "$3 ended with status $status"
}

# stop PID NAME [STATUS]: TERM; the process must end within 10 s (with this status, if given).
stop() {
    local status=0
    kill -TERM "$1" 2>/dev/null || true
    wait_for 10 "the end of $2 after SIGTERM" gone "$1"
    wait "$1" || status=$?
    [ -z "${3:-}" ] || [ "$status" -eq "$3" ] || fail "$2 ended with status $status"
}

# stat_of TAG NAME: the sum of a counter over the processes with this tag.
stat_of() {
    cat "$work/stats.$1"/* 2>/dev/null | awk -v n="$2" '$1 == n { s += $2 } END { printf "%d", s }'
}

# served LEG TAG WHO: no false green. Under policy always some byte must have come by a ring.
served() {
    [ "$1" != plain ] || return 0
    local ring
    compgen -G "$work/stats.$2/*" >/dev/null || fail "$3: the library wrote no counters"
    ring=$(stat_of "$2" ring_bytes)
    printf '  %s, leg %s: %s bytes by the ring, %s receives, %s kernel entries\n' "$3" "$1" "$ring" \
        "$(stat_of "$2" receives)" "$(stat_of "$2" kernel_entries)"
    [[ $1 != @(always|starved|inc|noinc) ]] || [ "$ring" -gt 0 ] || fail "false green: $3 got no byte by a ring"
}

# unserved LEG TAG WHO: the library was there, and served nothing.
unserved() {
    [ "$1" != plain ] || return 0
    compgen -G "$work/stats.$2/*" >/dev/null || fail "$3: the library wrote no counters"
    same "bytes that $3 got by a ring" 0 "$(stat_of "$2" ring_bytes)"
}

# inherited LEG: whether a case that needs it can be run in this leg.
inherited() {
    [ "$1" = plain ] || [ "$INHERITED" = yes ]
}

# served_child LEG TAG WHO: as served, of a process that was forked with the socket open and is alone
# with it since.
served_child() {
    if inherited "$1"; then
        served "$@"
    else
        unserved "$@"
    fi
}

# loaded LEG PID WHO: the library is in this process, which may be unable to write its counters, or be
# free to serve nothing.
loaded() {
    [ "$1" = plain ] || grep -qF "$(basename "$LIB")" "/proc/$2/maps" || fail "$3 runs without the library"
}

# wrote LEG TAG WHO: some process with this tag had the library and came to its end.
wrote() {
    [ "$1" = plain ] || compgen -G "$work/stats.$2/*" >/dev/null || fail "$3: the library wrote no counters"
}

# passed LEG TAG REASON WHO: under policy always every socket that was given up was so for this reason, and
# at least one was.
passed() {
    local n
    [[ $1 == @(always|starved|inc|noinc) ]] || return 0
    n=$(stat_of "$2" "pass_$3")
    printf '  %s, leg %s: %s passed for reason %s\n' "$4" "$1" "$n" "$3"
    [ "$n" -gt 0 ] && [ "$n" -eq "$(stat_of "$2" passes)" ] ||
        fail "$4: $n of $(stat_of "$2" passes) passed for reason $3"
}

# same WHAT WANTED GOT: equal and not empty.
same() {
    [ -n "$2" ] || fail "$1: nothing to compare"
    [ "$2" = "$3" ] || fail "$1: wanted $2, got $3"
}

# A stream of so many bytes that depends on the seed alone: AES-CTR over zeros.
bytes() {
    # openssl fails when head has enough: that is how it ends.
    { openssl enc -aes-128-ctr -nosalt -pass "pass:$1" -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null ||
        true; } | head -c "$2"
}

hash_of() {
    openssl dgst -sha256 -r | cut -c 1-64
}

# web_files SIZE: what a web server serves from $work/files: large, of SIZE bytes, and small, of 1000.
# Workers, who are nobody when a master is root, may write to put.
web_files() {
    chmod 755 "$work"
    mkdir "$work/files"
    mkdir -m 777 "$work/files/put"
    bytes large "$1" >"$work/files/large"
    bytes small 1000 >"$work/files/small"
}

# ab_load LEG TAG CONNECTIONS N URL: ab on kept connections; each of N answers is a good one of the right
# length.
ab_load() {
    local out
    out=$(in_leg "$1" "$2" timeout 60 ab -q -k -c "$3" -n "$4" "$5" 2>&1) || fail "ab in leg $1: $out"
    grep -q "^Complete requests: *$4\$" <<<"$out" || fail "ab: not all requests were answered: $out"
    grep -q '^Failed requests: *0$' <<<"$out" || fail "ab: failed requests: $out"
    ! grep -q '^Non-2xx' <<<"$out" || fail "ab: $out"
    printf '  ab, client in leg %s: %s\n' "$1" "$(awk '/^Requests per/ { print $4 "/s" }' <<<"$out")"
}

# source_of NAME SEED SIZE [FILE...]: a pipe NAME.in from which SEED's SIZE bytes can be read, once. It
# stays open until all FILEs exist.
source_of() {
    mkfifo "$work/$1.in"
    {
        bytes "$2" "$3"
        for file in "${@:4}"; do
            until [ -e "$file" ]; do sleep 0.02; done
        done
    } >"$work/$1.in" &
}

# sink_of NAME SIZE: a pipe NAME.sink. NAME.full exists when SIZE bytes were written to it; their hash
# and the number of further bytes are given by hashed, when the writer has ended.
sink_of() {
    mkfifo "$work/$1.sink"
    {
        head -c "$2" | hash_of
        : >"$work/$1.full"
        wc -c
    } <"$work/$1.sink" >"$work/$1.hash" &
    printf '%s' "$!" >"$work/$1.hasher"
}

# hashed NAME: the hash of all that went into the sink, when its writer has ended.
hashed() {
    wait_for 60 "the end of $1's output" gone "$(cat "$work/$1.hasher")"
    tr '\n' ' ' <"$work/$1.hash"
}

# What hashed says of exactly SEED's SIZE bytes.
expected() {
    bytes "$1" "$2" | hash_of | tr '\n' ' '
    printf '0 '
}

# Two processors that we may use, as words; the same one twice if there is but one.
two_cpus() {
    awk '/^Cpus_allowed_list:/ {
        n = split($2, part, ",")
        for (i = 1; i <= n; i++) {
            m = split(part[i], r, "-")
            for (c = r[1]; c <= (m > 1 ? r[2] : r[1]); c++)
                cpu[k++] = c
        }
        print cpu[0], (k > 1 ? cpu[1] : cpu[0])
    }' /proc/self/status
}

# The median of the numbers on the input, one a line.
median() {
    sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# twenty_lines SEED: of many lengths, then the line "end".
twenty_lines() {
    awk -v seed="$1" 'BEGIN {
        srand(seed)
        for (i = 0; i < 20; i++) {
            text = sprintf("%s line %d ", seed, i)
            for (k = int(rand() * rand() * 300); k > 0; k--)
                text = text sprintf("%d,", i + k)
            print text
        }
        print "end"
    }'
}

# lines_and_more SIZE: lines, 71000 bytes, lines, and SIZE bytes.
lines_and_more() {
    twenty_lines first
    bytes middle 71000
    twenty_lines second
    bytes last "$1"
}

# exchange LEG TAG FILE: sends FILE to $port, says that this is all, and prints the hash of all
# that comes back. Needs socat.
exchange() {
    (in_leg "$1" "$2" timeout 60 socat -t 50 STDIO "TCP4:127.0.0.1:$port" <"$3") | hash_of
}

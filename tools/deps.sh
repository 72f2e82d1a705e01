#!/bin/bash
# Installs what is missing and makes liburing >= 2.9 available. Idempotent: when nothing is
# missing it costs one dpkg-query and no apt call.
#
#   tools/deps.sh build            what the library needs
#   tools/deps.sh test             what the tests need as well
#   tools/deps.sh packages NAME... these Debian packages
#
# A liburing before 2.9 silently drops the flags of io_uring_register_buf_ring. Where the
# distribution has only such a one (Debian 12), the headers and the static library of Debian 13 are
# downloaded from the archive that this machine's own apt sources name, with private apt lists, and
# unpacked under build/deps. The machine's apt sources and installed packages stay as they are.
set -euo pipefail

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
deps=$top/build/deps
uring_min=2.9
uring_suite=trixie

build_packages=(gcc libc6-dev cmake make uthash-dev)
# libclang-rt-dev: what clang's sanitizers and its fuzzer are linked with.
test_packages=(libcmocka-dev strace valgrind clang libclang-rt-dev clang-format clang-tidy cppcheck shellcheck)

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Prints those of the named packages that are not installed.
missing_of() {
    local have pkg
    have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for pkg in "$@"; do
        grep -qxF "installed $pkg" <<<"$have" || printf '%s\n' "$pkg"
    done
}

# Sets the array `root` to what makes a command run as root; fails if nothing does.
become_root() {
    root=()
    [ "$(id -u)" -eq 0 ] && return 0
    root=(sudo -n)
    sudo -n true 2>/dev/null
}

install_packages() {
    local missing root log
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} -eq 0 ] && return 0
    become_root ||
        die "missing packages; run as root: apt-get install -y --no-install-recommends ${missing[*]}"
    log=$top/build/apt.log
    mkdir -p "$top/build"
    printf 'installing %s\n' "${missing[*]}" >&2
    # A fresh machine has no package lists. An update that fails is no reason to stop: the install
    # says what is really missing.
    "${root[@]}" apt-get -q update >"$log" 2>&1 || true
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y --no-install-recommends install "${missing[@]}" >>"$log" 2>&1 ||
        die "apt-get install failed, see $log (wanted: ${missing[*]})"
}

# The version of a liburing.pc, or nothing.
pc_version() {
    sed -n 's/^Version: *//p' "$1" 2>/dev/null || true
}

new_enough() {
    [ -n "$1" ] && dpkg --compare-versions "$1" ge "$uring_min"
}

# Prints `URI SIGNED-BY` of the machine's own Debian archive: the first enabled binary source whose
# suite is this release (or a name that stands for one) and that has main. Both formats that apt knows.
own_archive() {
    local codename
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    local files=()
    local f
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -r "$f" ] && files+=("$f")
    done
    [ ${#files[@]} -gt 0 ] || return 1
    awk -v codename="$codename" '
        function suite_fits(s) {
            return s == codename || s ~ /^(stable|oldstable|testing|unstable|sid)$/
        }
        function emit(uri, key) {
            if (found++ == 0)
                print uri, (key ~ /^\// ? key : "-")
        }
        function flush_stanza(   n, i, uri, list, fits) {
            n = split(v["suites"], list, /[ \t]+/)
            for (i = 1; i <= n; i++)
                fits = fits || suite_fits(list[i])
            if (fits && v["enabled"] != "no" && (" " v["types"] " ") ~ / deb / &&
                (" " v["components"] " ") ~ / main /) {
                split(v["uris"], uri, /[ \t]+/)
                emit(uri[1], v["signed-by"])
            }
            delete v
        }
        FNR == 1 { if (deb822) flush_stanza(); deb822 = FILENAME ~ /\.sources$/; field = "" }
        /^[ \t]*#/ { next }
        deb822 && /^[ \t]*$/ { flush_stanza(); field = ""; next }
        deb822 && /^[ \t]/ { if (field) v[field] = v[field] " " $0; next }
        deb822 {
            field = tolower(substr($0, 1, index($0, ":") - 1))
            rest = substr($0, index($0, ":") + 1)
            gsub(/^[ \t]+|[ \t]+$/, "", rest)
            v[field] = rest
            next
        }
        $1 == "deb" {
            key = ""
            line = $0
            sub(/^deb[ \t]+/, "", line)
            if (match(line, /^\[[^]]*\][ \t]*/)) {
                n = split(substr(line, 2, RLENGTH - 2), opt, /[] \t]+/)
                for (i = 1; i <= n; i++)
                    if (opt[i] ~ /^signed-by=/)
                        key = substr(opt[i], 11)
                line = substr(line, RLENGTH + 1)
            }
            n = split(line, word, /[ \t]+/)
            for (i = 3; i <= n; i++)
                if (word[i] == "main" && suite_fits(word[2]))
                    emit(word[1], key)
        }
        END { if (deb822) flush_stanza(); exit !found }' "${files[@]}"
}

# Downloads and unpacks Debian 13's liburing-dev and linux-libc-dev. Needs no root.
fetch_uring() {
    local archive uri key work deb
    archive=$(own_archive) ||
        die "liburing >= $uring_min is needed, and no Debian archive is named in /etc/apt; install it by hand"
    read -r uri key <<<"$archive"
    [ "$key" != - ] || key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$key" ] || die "the archive's key $key is not there; install debian-archive-keyring"

    work=$top/build/deps.new
    rm -rf "$work"
    mkdir -p "$work"/apt/{state/lists/partial,cache/archives/partial} "$work/root"
    : >"$work/apt/status"
    printf 'deb [signed-by=%s arch=%s target=Packages] %s %s main\n' "$key" \
        "$(dpkg --print-architecture)" "$uri" "$uring_suite" >"$work/apt/sources.list"
    # Read after the machine's own configuration (so its proxy holds), and clears the hooks that
    # would write into the machine's caches.
    cat >"$work/apt/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
Dir::State "$work/apt/state";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
APT::Sandbox::User "";
CONF
    printf 'fetching liburing >= %s (Debian %s) into build/deps\n' "$uring_min" "$uring_suite" >&2
    if ! (cd "$work/apt" &&
        apt-get -q -c "$work/apt/apt.conf" update &&
        apt-get -q -c "$work/apt/apt.conf" download liburing-dev linux-libc-dev) >"$top/build/deps.log" 2>&1; then
        die "cannot fetch liburing-dev of $uring_suite, see $top/build/deps.log"
    fi
    for deb in "$work"/apt/*.deb; do
        dpkg-deb -x "$deb" "$work/root"
    done
    new_enough "$(pc_version "$(find "$work/root" -name liburing.pc | head -n 1)")" ||
        die "the archive's $uring_suite has no liburing >= $uring_min"
    : >"$work/root/.stamp"
    rm -rf "$deps"
    mv "$work/root" "$deps"
    rm -rf "$work"
}

provide_uring() {
    local own
    [ -e "$deps/.stamp" ] && return 0
    own=$(dpkg-query -W -f='${Version}' liburing-dev 2>/dev/null || true)
    new_enough "$own" && return 0
    new_enough "$(pc_version /usr/local/lib/pkgconfig/liburing.pc)" && return 0
    if [ -z "$own" ]; then
        own=$(apt-cache policy liburing-dev 2>/dev/null | sed -n 's/^ *Candidate: *//p')
        if [ "$own" != "(none)" ] && new_enough "$own"; then
            install_packages liburing-dev
            return 0
        fi
    fi
    fetch_uring
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "needs Debian's apt; install by hand: ${build_packages[*]} and liburing >= $uring_min, then use cmake"
fi

mkdir -p "$top/build"
# Two first runs at once must not unpack into the same place.
exec 9>"$top/build/.deps.lock"
flock 9

case ${1-} in
build)
    install_packages "${build_packages[@]}"
    provide_uring
    ;;
test)
    install_packages "${build_packages[@]}" "${test_packages[@]}"
    provide_uring
    ;;
packages)
    shift
    [ $# -eq 0 ] || install_packages "$@"
    ;;
*)
    die "usage: tools/deps.sh build | test | packages NAME..."
    ;;
esac

#!/bin/bash
# vsftpd under the library, with curl and lftp as clients: upload, download, append, resume, listings and
# a mirrored tree, in passive mode and in active mode. vsftpd makes its children by a raw clone; it runs
# with two processes for a session and with one, with its seccomp filter and without.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
PATH=$PATH:/usr/sbin
need vsftpd curl lftp openssl
[ "$(id -u)" -eq 0 ] || skip "vsftpd wants to be root"
here=$(dirname "$(realpath "$0")")

MiB=$((1024 * 1024))
amount=$((16 * MiB))
chmod 755 "$work"
mkdir -m 755 "$work/empty" "$work/root" "$work/tree" "$work/tree/below"
mkdir -m 777 "$work/root/in"
bytes large "$amount" >"$work/root/large"
for i in 0 1 1000 65536 300000; do
    bytes "tree $i" "$i" >"$work/tree/$i"
    bytes "below $i" "$i" >"$work/tree/below/$i"
done
large=$(hash_of <"$work/root/large")

# by_curl LEG TAG OPTION...: files both ways in one session and in several, a part, a listing.
by_curl() {
    local leg=$1 tag=$2 i options=(-sS --max-time 60 "${@:3}") to=() url=ftp://127.0.0.1:$port
    client() {
        (in_leg "$leg" "$tag" curl "${options[@]}" "$@")
    }
    same "curl's download (leg $leg)" "$large" "$(client "$url/large" | hash_of)"
    same "curl's download of a part (leg $leg)" "$(tail -c +1000001 "$work/root/large" | head -c 3000000 | hash_of)" \
        "$(client -r 1000000-3999999 "$url/large" | hash_of)"
    for i in 0 1 1000 65536 300000; do
        to+=(-T "$work/tree/$i" "$url/in/$i")
    done
    client "${to[@]}" -T "$work/root/large" "$url/in/large" || fail "curl's uploads (leg $leg)"
    for i in 0 1 1000 65536 300000; do
        same "curl's upload of $i bytes (leg $leg)" "$(hash_of <"$work/tree/$i")" "$(hash_of <"$work/root/in/$i")"
    done
    same "curl's upload (leg $leg)" "$large" "$(hash_of <"$work/root/in/large")"
    client -a -T "$work/tree/1000" "$url/in/65536" || fail "curl's appending (leg $leg)"
    same "what curl appended (leg $leg)" "$(cat "$work/tree/65536" "$work/tree/1000" | hash_of)" \
        "$(hash_of <"$work/root/in/65536")"
    same "curl's listing (leg $leg)" "$(cd "$work/root/in" && printf '%s\n' * | LC_ALL=C sort)" \
        "$(client -l "$url/in/" | tr -d '\r' | LC_ALL=C sort)"
    same "a file that is not there (leg $leg)" 78 "$(client "$url/nothing" >/dev/null 2>&1 || echo $?)"
}

# by_lftp LEG TAG PASSIVE
by_lftp() {
    local leg=$1 tag=$2 passive=$3
    client() {
        (HOME=$work in_leg "$leg" "$tag" timeout 60 lftp --norc -c "set net:max-retries 1; set net:timeout 30;
            set cmd:fail-exit yes; set ftp:passive-mode $passive; set ftp:sync-mode $sync; set xfer:clobber yes;
            set ftp:port-ipv4 127.0.0.1; open ftp://127.0.0.1:$port; $1") 2>"$work/lftp.log" ||
            fail "lftp (leg $leg): $1: $(tail -n 1 "$work/lftp.log")"
    }
    local sync
    for sync in on off; do
        rm -rf "$work/back"
        client "mirror -R $work/tree in/tree"
        diff -r "$work/tree" "$work/root/in/tree" || fail "lftp's tree was not sent well (leg $leg)"
        client "mirror --parallel=3 in/tree $work/back"
        diff -r "$work/tree" "$work/back" || fail "lftp's tree was not fetched well (leg $leg)"
        client "get large -o $work/got"
        same "lftp's download (leg $leg)" "$large" "$(hash_of <"$work/got")"
        client "pget -n 3 large -o $work/got"
        same "lftp's download in three parts (leg $leg)" "$large" "$(hash_of <"$work/got")"
        head -c 5000001 "$work/root/large" >"$work/got"
        client "get -c large -o $work/got"
        same "lftp's download that goes on (leg $leg)" "$large" "$(hash_of <"$work/got")"
        client "put $work/got -o in/put"
        same "lftp's upload (leg $leg)" "$large" "$(hash_of <"$work/root/in/put")"
        same "lftp's listing (leg $leg)" "$(cd "$work/root/in/tree" && LC_ALL=C ls)" \
            "$(client "cls -1 --sort=name in/tree" | sed 's|.*/\(.\)|\1|; s|/$||' | LC_ALL=C sort)"
        client "rm -r in/tree; rm in/put"
    done
}

# run LEG NAME SETTING...
run() {
    local leg=$1 tag=$2.$1 server who clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    config=$work/$tag.conf
    {
        sed "s|@WORK@|$work|g" "$here/vsftpd.conf"
        printf '%s\n' "${@:3}"
    } >"$config.in"
    listen "$leg" "server.$tag" vsftpd "$config"
    config=
    server=$pid
    for who in "${clients[@]}"; do
        rm -rf "$work/root/in"/*
        by_curl "$who" "curl.$tag"
        by_curl "$who" "curl.$tag" --ftp-port 127.0.0.1 --disable-eprt
        by_lftp "$who" "lftp.$tag" true
        by_lftp "$who" "lftp.$tag" false
    done
    loaded "$leg" "$server" vsftpd
    stop "$server" vsftpd
    served "$leg" "lftp.$tag" lftp
    printf 'vsftpd, %s, leg %s: right\n' "$2" "$leg"
}

# filter_works: its filter is as old as it is; it may kill what a newer libc does.
filter_works() {
    config=$work/filter.conf
    {
        sed "s|@WORK@|$work|g" "$here/vsftpd.conf"
        printf '%s\n' seccomp_sandbox=YES
    } >"$config.in"
    listen plain filter vsftpd "$config"
    config=
    curl -sS --max-time 20 -o "$work/got" "ftp://127.0.0.1:$port/large" 2>"$work/filter.log" || filter=no
    stop "$pid" vsftpd
    [ "$filter" = yes ] || printf "vsftpd's filter kills it without the library: %s\n" "$(cat "$work/filter.log")"
}

filter=yes
filter_works
for leg in plain always auto; do
    run "$leg" two one_process_model=NO seccomp_sandbox=NO
    [ "$filter" = no ] || run "$leg" filtered one_process_model=NO seccomp_sandbox=YES
    run "$leg" one one_process_model=YES seccomp_sandbox=NO
done

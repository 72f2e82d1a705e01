#!/bin/bash
# rsync as daemon and as client, both under the library: a tree of files there, back again, and what has
# changed since, by delta. The trees are compared by content, mode, time, and target. The daemon's
# children and the client's receiver are forked with the socket open. It gives its sockets to select() as
# exceptional, too, so for all of its life it asks for urgent data: it must pass for just that reason.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need rsync openssl
here=$(dirname "$(realpath "$0")")

MiB=$((1024 * 1024))

# plant DIRECTORY: files of many sizes, nested, with links, an odd name and a hole.
plant() {
    local i dir
    for i in {1..400}; do
        dir=$1/$((i % 7))/$((i % 3))
        mkdir -p "$dir"
        printf '%s\n' "file $i" >"$dir/$i"
        head -c $((i * i * 3 % 50000)) "$work/seed" >>"$dir/$i"
        [ $((i % 10)) -ne 0 ] || ln -s "$i" "$dir/link.$i"
    done
    : >"$1/empty"
    mkdir "$1/empty directory"
    cp "$work/seed" "$1/large"
    truncate -s 3M "$1/hole"
    chmod 700 "$1/large"
    printf 'odd' >"$1/$(printf 'a\tname\nof two lines')"
    find "$1" -print0 | xargs -0 touch -h -d '2020-02-02 02:02:02'
}

# change DIRECTORY: what a second run has to bring.
change() {
    local i
    for i in 7 70 170; do
        printf 'more' >>"$1/$((i % 7))/$((i % 3))/$i"
    done
    rm -r "$1/5"
    # In the middle of the large file.
    printf 'changed' | dd of="$1/large" bs=1 seek=1234567 conv=notrunc status=none
    bytes new "$MiB" >"$1/new"
    # It compares times by the second.
    find "$1" -newermt 2020-03-03 -print0 | xargs -0 touch -h -d '2021-02-02 02:02:02'
}

# manifest DIRECTORY: one hash for all that a copy must keep.
manifest() {
    (
        cd "$1"
        find . -printf '%P\0%y %m %T@ %l\0' | tr '\0\n' '\n ' | paste - - | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    ) | hash_of
}

# copy LEG TAG FROM TO OPTION...
copy() {
    (in_leg "$1" "$2" timeout 60 rsync -a --delete "${@:5}" "$3" "$4") >"$work/client.log" 2>&1 ||
        fail "rsync $3 $4 (leg $1): $(cat "$work/client.log" "$work/log".*)"
}

# run LEG
run() {
    local leg=$1 server who url user='' clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    config=$work/$leg.conf
    [ "$(id -u)" -ne 0 ] || user=$'uid = 0\\ngid = 0'
    sed "s|@WORK@|$work|g; s|@NAME@|$leg|g; s|@USER@|$user|" "$here/rsyncd.conf" >"$config.in"
    listen "$leg" "server.$leg" rsync --daemon --no-detach --config="$config"
    config=
    server=$pid url=rsync://127.0.0.1:$port/tree/
    for who in "${clients[@]}"; do
        rm -rf "$work/served" "$work/back"
        mkdir "$work/served"
        copy "$who" "client.$leg" "$work/first/" "$url"
        same "the tree that was sent (leg $leg, client $who)" "$first" "$(manifest "$work/served")"
        copy "$who" "client.$leg" "$url" "$work/back/"
        same "the tree that was fetched (leg $leg, client $who)" "$first" "$(manifest "$work/back")"
        copy "$who" "client.$leg" "$work/second/" "$url" -z --no-whole-file
        same "the changes that were sent (leg $leg, client $who)" "$second" "$(manifest "$work/served")"
        copy "$who" "client.$leg" "$url" "$work/back/" --checksum --no-whole-file
        same "the changes that were fetched (leg $leg, client $who)" "$second" "$(manifest "$work/back")"
        same "a listing (leg $leg, client $who)" "$(rsync -r "$work/second/" | hash_of)" \
            "$( (in_leg "$who" "client.$leg" timeout 60 rsync -r "$url") | hash_of)"
    done
    loaded "$leg" "$server" "rsync as daemon"
    stop "$server" "rsync as daemon"
    ! grep -E 'rsync error: [^r]' "$work/log.$leg" || fail "the daemon complained, see above"
    passed "$leg" "client.$leg" oob "rsync as client"
    printf 'leg %s: right\n' "$leg"
}

bytes seed $((8 * MiB)) >"$work/seed"
mkdir "$work/first"
plant "$work/first"
cp -a "$work/first" "$work/second"
change "$work/second"
first=$(manifest "$work/first") second=$(manifest "$work/second")
[ "$first" != "$second" ] || fail "nothing was changed"
for leg in plain always starved auto; do
    run "$leg"
done

#!/bin/bash
# sshd and its clients under the library: login with a key, a command's streams both ways, scp of a large
# file there and back (by sftp and by its older protocol), and a forwarded port. sshd runs as it does by
# default, executing itself again for each connection, and without (-r), when a forked child serves.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
PATH=$PATH:/usr/sbin
need sshd ssh scp ssh-keygen socat openssl
here=$(dirname "$(realpath "$0")")
sshd=$(command -v sshd)

MiB=$((1024 * 1024))
# What the package's service would make.
[ "$(id -u)" -ne 0 ] || mkdir -p /run/sshd
# sshd gives a session to the shell that the password file names.
shell=$(getent passwd "$(id -u)" | cut -d : -f 7)
[[ $shell == */*sh ]] || skip "this user has no shell to log into"

for key in host client; do
    ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$work/$key" || fail "no key for the $key"
done
cp "$work/client.pub" "$work/authorized"
printf 'loopback %s\n' "$(cat "$work/host.pub")" >"$work/known"
sed "s|@WORK@|$work|g" "$here/ssh_config" >"$work/ssh_config"

# client LEG TAG PROGRAM ARG...
client() {
    (in_leg "$1" "$2" timeout 100 "$3" -F "$work/ssh_config" "${@:4}")
}

# command_by LEG TAG: exit status, both outputs, and a stream through cat.
command_by() {
    local leg=$1 tag=$2 status=0 size
    client "$leg" "$tag" ssh -n -p "$port" host 'echo out; echo err >&2; exit 7' >"$work/out" 2>"$work/err" ||
        status=$?
    same "a command's status (leg $leg)" 7 "$status"
    same "its output (leg $leg)" out "$(cat "$work/out")"
    same "its errors (leg $leg)" err "$(cat "$work/err")"
    for size in 1 $((8 * MiB)); do
        same "a stream of $size bytes through cat (leg $leg)" "$(bytes stream "$size" | hash_of)" \
            "$(bytes stream "$size" | client "$leg" "$tag" ssh -p "$port" host cat | hash_of)"
    done
}

# copy LEG TAG SIZE: there and back; the older protocol copies less.
copy() {
    local leg=$1 tag=$2 option size
    for option in -s -O; do
        size=$3
        [ "$option" = -s ] || size=$((size / 8))
        [ -e "$work/from.$size" ] || bytes copied "$size" >"$work/from.$size"
        client "$leg" "$tag" scp -q "$option" -P "$port" "$work/from.$size" "host:$work/there" ||
            fail "scp $option to the server failed (leg $leg)"
        same "scp $option to the server (leg $leg)" "$(hash_of <"$work/from.$size")" "$(hash_of <"$work/there")"
        client "$leg" "$tag" scp -q "$option" -P "$port" "host:$work/there" "$work/back" ||
            fail "scp $option from the server failed (leg $leg)"
        same "scp $option from the server (leg $leg)" "$(hash_of <"$work/from.$size")" "$(hash_of <"$work/back")"
        rm "$work/there" "$work/back"
    done
}

# forward LEG TAG: four connections at once through one to sshd, to a server that echoes.
forward() {
    local leg=$1 tag=$2 sshd_port=$port ssh i running=() echo_port
    listen plain "echo.$tag" socat TCP4-LISTEN:@PORT@,bind=127.0.0.1,fork,backlog=16 EXEC:cat
    echo_port=$port echo_pid=$pid
    listen "$leg" "$tag" ssh -F "$work/ssh_config" -N -o ExitOnForwardFailure=yes \
        -L "127.0.0.1:@PORT@:127.0.0.1:$echo_port" -p "$sshd_port" host
    ssh=$pid
    for i in 1 2 3 4; do
        (same "forwarded stream $i (leg $leg)" "$(bytes "$i" $((i * MiB)) | hash_of)" \
            "$(bytes "$i" $((i * MiB)) | timeout 60 socat -t 50 STDIO "TCP4:127.0.0.1:$port" | hash_of)") &
        running+=($!)
    done
    for i in "${running[@]}"; do
        wait "$i" || fail "of four forwarded streams one was wrong (leg $leg)"
    done
    stop "$ssh" "the forwarding ssh"
    stop "$echo_pid" "the echoing server"
    port=$sshd_port
}

# run LEG NAME SIZE OPTION...
run() {
    local leg=$1 tag=$2.$1 server who clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    config=$work/$tag.conf
    sed "s|@WORK@|$work|g" "$here/sshd_config" >"$config.in"
    listen "$leg" "server.$tag" "$sshd" -D -e -f "$config" "${@:4}"
    config=
    server=$pid
    for who in "${clients[@]}"; do
        command_by "$who" "client.$tag"
        forward "$who" "forward.$tag"
    done
    copy "$leg" "client.$tag" "$3"
    loaded "$leg" "$server" sshd
    stop "$server" sshd 0
    ! grep -E 'fatal|error:|corrupt|Corrupt|Bad packet' "$work/server.$tag.out" || fail "sshd complained, see above"
    served "$leg" "client.$tag" "ssh and scp"
    served "$leg" "forward.$tag" "ssh as forwarder"
    printf 'sshd %s, leg %s: right\n' "$2" "$leg"
}

run plain again $((200 * MiB))
run always again $((200 * MiB))
run auto again $((200 * MiB))
run plain forked $((16 * MiB)) -r
run always forked $((16 * MiB)) -r
run auto forked $((16 * MiB)) -r

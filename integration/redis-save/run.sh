#!/bin/bash
# redis-server under the library, forking twice in half a second under load: BGSAVE and a rewrite of its
# log, while every answer is compared. The data are the same at the end as in a plain run, and again when
# the server has been started from the log, and from the snapshot.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
python=/usr/bin/python3
need redis-server redis-cli "$python"
here=$(dirname "$(realpath "$0")")

ready() {
    [ "$(cli ping 2>&1)" = PONG ]
}

# serve LEG TAG OPTION...: on the data of this leg.
serve() {
    listen "$1" "$2" redis-server --port @PORT@ --bind 127.0.0.1 --save '' --dir "$work/data.$1" \
        --appendfsync no --enable-debug-command yes --loglevel warning "${@:3}"
    wait_for 20 "redis-server's data" ready
}

cli() {
    redis-cli -p "$port" "$@"
}

saved() {
    cli info persistence | tr -d '\r' | grep -qx 'rdb_bgsave_in_progress:0' &&
        cli info persistence | tr -d '\r' | grep -qx 'rdb_last_bgsave_status:ok'
}

# back LEG RECEIVED: half of the load came when no child was left. Most of that is served again.
back() {
    [ "$1" = always ] && [ "$INHERITED" = yes ] || return 0
    local ring
    ring=$(stat_of "server.$1" ring_bytes)
    [ "$((ring * 10))" -ge "$(($2 * 4))" ] || fail "$ring of $2 bytes came by a ring: it has not been taken up again"
}

# run LEG ROUNDS SAVES: sets $result to the digest.
run() {
    local leg=$1 who out received clients=(plain)
    [ "$leg" = plain ] || clients+=("$leg")
    for who in "${clients[@]}"; do
        rm -rf "$work/data.$leg" "$work/stats.server.$leg"
        mkdir "$work/data.$leg"
        serve "$leg" "server.$leg" --appendonly yes
        out=$( (in_leg "$who" "client.$leg" timeout 100 "$python" "$here/client.py" "$port" "$2" "$3") 2>&1) ||
            fail "client in leg $who, server in leg $leg: ${out//$'\n'/; }"
        printf '  leg %s, client in leg %s: %s\n' "$leg" "$who" "$out"
        received=$(cli info stats | tr -d '\r' | sed -n 's/^total_net_input_bytes://p')
        result=$(cli debug digest)
        same "a last BGSAVE" "Background saving started" "$(cli bgsave)"
        wait_for 20 "the last BGSAVE" saved
        stop "$pid" redis-server 0
        serve "$leg" "again.$leg" --appendonly yes
        same "the digest of what the log brought (leg $leg)" "$result" "$(cli debug digest)"
        stop "$pid" redis-server 0
        serve "$leg" "again.$leg" --appendonly no
        same "the digest of what the snapshot brought (leg $leg)" "$result" "$(cli debug digest)"
        stop "$pid" redis-server 0
        [ ! -s "$work/server.$leg.out" ] || ! grep -iE 'crash|corrupt|bad file' "$work/server.$leg.out" ||
            fail "redis-server complained, see above"
        served "$leg" "server.$leg" redis-server
        back "$leg" "$received"
    done
    served "$leg" "client.$leg" "its client"
}

run plain 8000 2
plain=$result
for leg in always auto; do
    run "$leg" 8000 2
    same "the digest in leg $leg" "$plain" "$result"
done
printf 'digest %s in all legs\n' "$plain"

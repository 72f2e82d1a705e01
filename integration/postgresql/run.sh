#!/bin/bash
# PostgreSQL under the library. Its backends are forked after accept: they are served once a child that is
# alone with its socket is, and the library must stay out of their way until then. Clients: pgbench with two
# threads in each of its query modes, whose own books must balance, and psql with rows that are known.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[ -x "$bin/postgres" ] || skip "postgresql is not installed"
need "$bin/initdb" "$bin/pgbench" "$bin/psql" openssl

# It refuses to be root. The library must be where the other user can read it.
as=()
if [ "$(id -u)" -eq 0 ]; then
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups --)
    cp "$LIB" "$work/"
    LIB=$work/$(basename "$LIB")
    chmod 755 "$work" "$LIB"
fi
mkdir -m 777 "$work/cluster"
cd "$work/cluster"

# client LEG TAG PROGRAM ARG...
client() {
    (in_leg "$1" "$2" timeout 60 "$bin/$3" -h 127.0.0.1 -p "$port" -U postgres "${@:4}")
}

# Rows that depend on their number alone, as psql writes them.
rows() {
    awk 'BEGIN {
        for (i = 1; i <= 2000; i++) {
            text = ""
            for (k = i % 60; k > 0; k--)
                text = text "x" i * k
            printf "%d\t%s\n", i, text
        }
    }'
}

# rows_by LEG TAG: copied in, read one by one, fetched by a cursor, and copied out.
rows_by() {
    local leg=$1 tag=$2 wanted table=rows_$((++tables))
    wanted=$(rows | hash_of)
    rows | client "$leg" "$tag" psql -qAtX -v ON_ERROR_STOP=1 \
        -c "CREATE TABLE $table (id int PRIMARY KEY, t text)" -c "COPY $table FROM STDIN" postgres ||
        fail "rows could not be copied (leg $leg)"
    same "rows copied out (leg $leg)" "$wanted" \
        "$(client "$leg" "$tag" psql -qAtX -c "COPY (SELECT * FROM $table ORDER BY id) TO STDOUT" postgres | hash_of)"
    same "rows selected one by one (leg $leg)" "$wanted" \
        "$(for i in {1..2000}; do printf 'SELECT * FROM %s WHERE id = %d;\n' "$table" "$i"; done |
            client "$leg" "$tag" psql -qAtX -F $'\t' postgres | hash_of)"
    same "rows fetched in parts (leg $leg)" "$wanted" \
        "$(client "$leg" "$tag" psql -qAtX -F $'\t' -v FETCH_COUNT=7 \
            -c "SELECT * FROM $table ORDER BY id" postgres | hash_of)"
    same "a large value (leg $leg)" "$(yes 0123456789abcdef | tr -d '\n' | head -c 8000000 | hash_of)" \
        "$(client "$leg" "$tag" psql -qAtX -c "SELECT repeat('0123456789abcdef', 500000)" postgres |
            tr -d '\n' | hash_of)"
}

# bench LEG TAG MODE N
bench() {
    local out n=$4
    out=$(client "$1" "$2" pgbench -n -M "$3" -c 8 -j 2 -t "$n" postgres 2>&1) || fail "pgbench -M $3: $out"
    grep -q "^number of transactions actually processed: $((8 * n))/$((8 * n))\$" <<<"$out" ||
        fail "pgbench -M $3: $out"
    grep -q '^number of failed transactions: 0 ' <<<"$out" || fail "pgbench -M $3: $out"
    transactions=$((transactions + 8 * n))
    printf '  pgbench -M %s, client in leg %s: %s\n' "$3" "$1" "$(awk '/^tps/ { print $3 "/s" }' <<<"$out")"
}

# Each transaction adds one number to an account, a teller, a branch and the history.
balanced() {
    same "pgbench's books" "$transactions t t t" "$(client plain none psql -qAtX -F ' ' -c '
        SELECT (SELECT count(*) FROM pgbench_history),
            (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
            (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history),
            (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)' postgres)"
}

# run LEG N
run() {
    local leg=$1 server who
    listen "$leg" "server.$leg" "${as[@]}" "$bin/postgres" -D "$work/cluster/data" -p @PORT@ \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c shared_buffers=16MB
    server=$pid
    wait_for 20 "PostgreSQL" client plain none psql -qAtX -c 'SELECT 1' -o "$work/ready" postgres \
        2>"$work/not.ready"
    client plain none pgbench -q -i -s 1 postgres >"$work/init" 2>&1 || fail "pgbench -i: $(cat "$work/init")"
    transactions=0
    for who in plain "$leg"; do
        rows_by "$who" "client.$leg"
        for mode in simple extended prepared; do
            bench "$who" "bench.$leg" "$mode" "$2"
        done
    done
    balanced
    # SIGTERM: when the backends have seen that their clients are gone. SIGINT may be faster than the
    # last one, which then complains.
    kill -TERM "$server"
    ends "$server" 20 PostgreSQL
    ! grep -E 'PANIC|FATAL|terminated by signal|was terminated' "$work/server.$leg.out" ||
        fail "PostgreSQL complained, see above"
    served_child "$leg" "server.$leg" PostgreSQL
    served "$leg" "client.$leg" psql
    served "$leg" "bench.$leg" pgbench
    printf 'leg %s: right\n' "$leg"
}

tables=0
"${as[@]}" "$bin/initdb" -D "$work/cluster/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
    >"$work/initdb" 2>&1 || fail "initdb: $(tail -n 1 "$work/initdb")"
run plain 20
run always 100
run starved 20
run auto 100

#!/bin/bash
# MariaDB under the library, with a thread for each connection and with its pool of threads: clients
# that write rows, read them back and know what they have to be, rows and statements of megabytes, and
# mariadb-slap. The clients run plain and under the library.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
need mariadbd mariadb-install-db mariadb mariadb-slap openssl

MiB=$((1024 * 1024))
clients=8 rows=300
me=$(id -un)

# client LEG TAG ARG...
client() {
    (in_leg "$1" "$2" timeout 60 mariadb --no-defaults --protocol=tcp -h 127.0.0.1 -P "$port" -u root \
        --skip-ssl -N -B "${@:3}")
}

# The rows of client N: every statement has its own length, and so has every answer.
values() {
    awk -v n="$1" -v rows="$rows" 'BEGIN {
        srand(n)
        for (i = 0; i < rows; i++) {
            text = ""
            for (left = int(rand() * rand() * 60); left > 0; left--)
                text = text sprintf("%s-%d.", left % 2 ? "uneven" : "even", n * i * left)
            printf "%d\t%d\t%s\n", i, n * 1000003 + i, text
        }
    }'
}

# Statements that write them, one or ten at a time, read each one and then all.
statements() {
    printf 'CREATE TABLE %s (id INT PRIMARY KEY, number BIGINT, text TEXT) ENGINE=InnoDB;\n' "$1"
    values "$2" | awk -F'\t' -v t="$1" '{
        row = sprintf("(%d, %d, \047%s\047)", $1, $2, $3)
        many = many (many ? ", " : "") row
        if (NR < 100 || NR % 10 == 0) {
            printf "INSERT INTO %s VALUES %s;\n", t, many
            many = ""
        }
    }'
    values "$2" | awk -F'\t' -v t="$1" '{ printf "SELECT * FROM %s WHERE id = %d;\n", t, $1 }'
    printf 'SELECT * FROM %s ORDER BY id;\n' "$1"
}

# rows_by LEG TAG: clients at the same time.
rows_by() {
    local i running=() table
    for ((i = 0; i < clients; i++)); do
        table=rows_$((++tables))
        statements "$table" "$i" >"$work/sql.$i"
        client "$1" "$2" test <"$work/sql.$i" >"$work/rows.$i" 2>"$work/errors.$i" &
        running+=($!)
    done
    for ((i = 0; i < clients; i++)); do
        wait "${running[i]}" || fail "client $i in leg $1: $(cat "$work/errors.$i")"
        same "the rows of client $i in leg $1" "$(for _ in 1 2; do values "$i"; done | hash_of)" \
            "$(hash_of <"$work/rows.$i")"
    done
}

# large LEG TAG: one statement of 3 MiB, and its row.
large() {
    local hex=$work/hex
    bytes large $((3 * MiB / 2)) | od -An -v -tx1 | tr -d ' \n' >"$hex"
    {
        printf 'CREATE OR REPLACE TABLE large (t LONGTEXT) ENGINE=InnoDB; INSERT INTO large VALUES ("'
        cat "$hex"
        printf '"); SELECT t FROM large;\n'
    } | client "$1" "$2" --max-allowed-packet=16M test >"$work/large" 2>&1 || fail "large: $(head -c 300 "$work/large")"
    same "a large row (leg $1)" "$( (cat "$hex" && echo) | hash_of)" "$(hash_of <"$work/large")"
}

# slap LEG TAG QUERIES
slap() {
    local out
    out=$(in_leg "$1" "$2" timeout 60 mariadb-slap --no-defaults --protocol=tcp -h 127.0.0.1 -P "$port" \
        -u root --skip-ssl --auto-generate-sql --auto-generate-sql-load-type=mixed --concurrency=20 \
        --number-of-queries="$3" 2>&1) || fail "mariadb-slap in leg $1: $out"
    printf '  mariadb-slap in leg %s: %s\n' "$1" "$(awk '/Average number of seconds/ { print $(NF - 1) }' <<<"$out") s"
}

# run LEG HANDLING QUERIES
run() {
    local leg=$1 handling=$2 tag=$2.$1 server who
    listen "$leg" "server.$tag" mariadbd --no-defaults --user="$me" --datadir="$work/data" \
        --socket="$work/socket" --pid-file="$work/pid" --bind-address=127.0.0.1 --port=@PORT@ \
        --skip-name-resolve --thread-handling="$handling" --max-allowed-packet=16M \
        --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0
    server=$pid
    for who in plain "$leg"; do
        rows_by "$who" "client.$tag"
        large "$who" "client.$tag"
        slap "$who" "slap.$tag" "$3"
    done
    stop "$server" mariadbd 0
    ! grep -F '[ERROR]' "$work/server.$tag.out" || fail "mariadbd complained, see above"
    served "$leg" "server.$tag" "mariadbd, $handling"
    served "$leg" "client.$tag" mariadb
    served "$leg" "slap.$tag" mariadb-slap
    printf '%s, leg %s: right\n' "$handling" "$leg"
}

tables=0
mariadb-install-db --no-defaults --user="$me" --datadir="$work/data" --skip-test-db \
    --auth-root-authentication-method=normal >"$work/install" 2>&1 || fail "no database: $(tail -n 1 "$work/install")"
mkdir "$work/data/test"
for handling in one-thread-per-connection pool-of-threads; do
    run plain "$handling" 500
    run always "$handling" 2000
    run starved "$handling" 500
    run auto "$handling" 2000
done

#!/bin/bash
# stunnel under the library, at both ends of a TLS connection: plain client, stunnel, TLS, stunnel, plain
# server. Streams are echoed through it and compared by hash; then Python's line servers and their
# client, who knows every answer, talk through it on 16 connections.
set -euo pipefail
# shellcheck source=integration/lib.sh
. "$(dirname "$(realpath "$0")")/../lib.sh"
python=/usr/bin/python3
need stunnel4 socat openssl "$python"
here=$(dirname "$(realpath "$0")")

MiB=$((1024 * 1024))

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -keyout "$work/key" -out "$work/cert" >"$work/req" 2>&1 || fail "no certificate: $(tail -n 1 "$work/req")"

# tunnel LEG TAG TO VERSION OPTION...: a stunnel that goes to port TO; $pid and $port are its own.
tunnel() {
    config=$work/$2.conf
    {
        printf '%s\n' 'foreground = yes' 'pid =' 'debug = warning' 'syslog = no' '[service]' \
            'accept = 127.0.0.1:@PORT@' "connect = 127.0.0.1:$3" "sslVersion = $4"
        printf '%s\n' "${@:5}"
    } >"$config.in"
    listen "$1" "$2" stunnel4 "$config"
    config=
}

# echoed PORT SIZE NAME: through the tunnel and back.
echoed() {
    same "$3, $2 bytes there and back" "$(bytes "$3" "$2" | hash_of)" \
        "$(bytes "$3" "$2" | timeout 60 socat -t 30 STDIO "TCP4:127.0.0.1:$1" | hash_of)"
}

# run LEG VERSION SIZE LINES
run() {
    local leg=$1 version=$2 tag=$1.$2 near far size running=() out
    tunnel "$leg" "far.echo.$tag" "$echo_port" "$version" "cert = $work/cert" "key = $work/key"
    far=$pid
    tunnel "$leg" "near.echo.$tag" "$port" "$version" 'client = yes' 'verifyPeer = yes' "CAfile = $work/cert"
    near=$pid
    for size in 1 1000 16384 16385 "$3"; do
        echoed "$port" "$size" "$tag"
    done
    for size in 1 2 3 4; do
        echoed "$port" "$((size * MiB))" "$tag.$size" &
        running+=($!)
    done
    for pid in "${running[@]}"; do
        wait "$pid" || fail "of four streams at once one was wrong"
    done
    stop "$near" "the client's stunnel"
    stop "$far" "the server's stunnel"

    tunnel "$leg" "far.lines.$tag" "$lines_port" "$version" "cert = $work/cert" "key = $work/key"
    far=$pid
    tunnel "$leg" "near.lines.$tag" "$port" "$version" 'client = yes' 'verifyPeer = yes' "CAfile = $work/cert"
    near=$pid
    out=$(timeout 60 "$python" "$here/../python/client.py" "$port" "$4" 2>&1) ||
        fail "client of stunnel in leg $leg: ${out//$'\n'/; }"
    stop "$near" "the client's stunnel"
    stop "$far" "the server's stunnel"
    for tag in echo.$tag lines.$tag; do
        # A server that asks for no certificate says that it trusts none.
        ! grep -hv 'No trusted certificates found' "$work/near.$tag.out" "$work/far.$tag.out" >"$work/said" ||
            fail "stunnel: $(tail -n 1 "$work/said")"
        served "$leg" "near.$tag" "the client's stunnel"
        served "$leg" "far.$tag" "the server's stunnel"
    done
    printf '%s, leg %s: right\n' "$version" "$leg"
}

# -t: by default socat gives up half a second after the end of what comes, whatever is still to go back.
listen plain echo socat -t 30 TCP4-LISTEN:@PORT@,bind=127.0.0.1,fork,reuseaddr EXEC:cat
echo_port=$port
listen plain lines "$python" "$here/../python/server.py" rfile @PORT@
lines_port=$port
for version in TLSv1.3 TLSv1.2; do
    run plain "$version" "$MiB" 20
    run always "$version" $((16 * MiB)) 200
    run starved "$version" "$MiB" 50
    run auto "$version" $((16 * MiB)) 200
done

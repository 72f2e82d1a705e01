"""client.py PORT ROUNDS SAVES: eight connections set, append to, and get values that are known from key
and round; each answer is compared. Meanwhile redis-server is told to save in the background and to rewrite
its log in turns, twice a second and at least SAVES times each; then come as many rounds again in peace, on
the same connections."""
import hashlib
import socket
import sys
import threading
import time

PORT, ROUNDS, SAVES = (int(a) for a in sys.argv[1:4])
CONNECTIONS = 8
wrong = []


class Redis:
    def __init__(self):
        self.sock = socket.create_connection(("127.0.0.1", PORT))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.sock.makefile("rb")

    def send(self, *commands):
        data = bytearray()
        for words in commands:
            data += b"*%d\r\n" % len(words)
            for word in words:
                data += b"$%d\r\n%s\r\n" % (len(word), word)
        self.sock.sendall(data)

    def answer(self):
        line = self.answers.readline()
        if line[:1] != b"$" or line == b"$-1\r\n":
            return line.rstrip(b"\r\n")
        size = int(line[1:])
        return self.answers.read(size + 2)[:size]

    def ask(self, *words):
        self.send(words)
        return self.answer()

    def info(self):
        lines = self.ask(b"INFO", b"persistence").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


def value(key, turn):
    seed = hashlib.sha256(b"%s %d" % (key, turn)).digest()
    return seed * (1 + seed[0] % 8 * (60 if seed[1] < 8 else 1))


def expect(wanted, got, what):
    if wanted != got:
        raise ValueError(f"{what}: wanted {wanted[:60]!r}, got {got[:60]!r}")


def talk(redis, number, begin, end):
    for turn in range(begin, end):
        key = b"key:%d:%d" % (number, turn % 500)
        new, more = value(key, turn), b"and %d" % turn
        redis.send([b"SET", key, new], [b"APPEND", key, more], [b"GET", key])
        expect(b"+OK", redis.answer(), f"SET {key} in turn {turn}")
        expect(b":%d" % len(new + more), redis.answer(), f"APPEND {key} in turn {turn}")
        expect(new + more, redis.answer(), f"GET {key} in turn {turn}")
        # Alone, and of an earlier turn.
        if (old := turn - 250) >= 0:
            key = b"key:%d:%d" % (number, old % 500)
            expect(value(key, old) + b"and %d" % old, redis.ask(b"GET", key), f"GET {key} after turn {turn}")


def load(clients, begin, end):
    def run(number):
        try:
            talk(clients[number], number, begin, end)
        except Exception as e:
            wrong.append(f"connection {number}: {e!r}")

    threads = [threading.Thread(target=run, args=(n,)) for n in range(CONNECTIONS)]
    for t in threads:
        t.start()
    return threads


def idle(info):
    return info["rdb_bgsave_in_progress"] == info["aof_rewrite_in_progress"] == info["aof_rewrite_scheduled"] == "0"


def save(redis, words, good):
    expect(b"+Background", redis.ask(*words)[:11], words[0].decode())
    deadline = time.monotonic() + 30
    while not idle(info := redis.info()):
        if time.monotonic() > deadline:
            raise ValueError(f"{words[0]} does not end")
        time.sleep(0.01)
    expect("ok", info[good], good)


def main():
    clients = [Redis() for _ in range(CONNECTIONS)]
    control = Redis()
    saves = 0
    threads = load(clients, 0, ROUNDS)
    while any(t.is_alive() for t in threads) or saves < SAVES:
        begin = time.monotonic()
        save(control, [b"BGSAVE"], "rdb_last_bgsave_status")
        save(control, [b"BGREWRITEAOF"], "aof_last_bgrewrite_status")
        saves += 1
        if not any(t.is_alive() for t in threads):
            break
        time.sleep(max(0, begin + 0.5 - time.monotonic()))
    for t in threads:
        t.join()
    if saves < SAVES:
        wrong.append(f"{saves} saves while the load went on: too few to show anything")
    for t in load(clients, ROUNDS, 2 * ROUNDS):
        t.join()
    print("\n".join(wrong) or f"{saves} saves")
    sys.exit(bool(wrong))


main()

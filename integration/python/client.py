"""client.py PORT LINES: 16 connections, each with its own lines; every answer is compared."""
import random
import socket
import sys
import threading

PORT, LINES = int(sys.argv[1]), int(sys.argv[2])
wrong = []


def line(rng):
    n = rng.choice((0, 1, 10, 63, 64, 200, 1000, 5000))
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ ", k=n)).encode() + b"\n"


def talk(number):
    rng = random.Random(number)
    with socket.create_connection(("127.0.0.1", PORT), timeout=None) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = s.makefile("rb")
        done = 0
        while done < LINES:
            # One line at a time, some together, some cut in two.
            lines = [line(rng) for _ in range(rng.choice((1, 1, 1, 5, 20)))]
            data = b"".join(lines)
            cut = rng.randrange(len(data) + 1)
            s.sendall(data[:cut])
            s.sendall(data[cut:])
            for i, sent in enumerate(lines):
                got = answers.readline()
                if got != sent.swapcase():
                    raise ValueError(f"line {done + i}: sent {sent[:40]!r}, got {got[:40]!r}")
            done += len(lines)
        s.shutdown(socket.SHUT_WR)
        if rest := answers.read():
            raise ValueError(f"more than was sent: {rest[:40]!r}")


def run(number):
    try:
        talk(number)
    except Exception as e:
        wrong.append(f"connection {number}: {e!r}")


threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
for t in threads:
    t.start()
for t in threads:
    t.join()
for text in wrong:
    print(text)
sys.exit(bool(wrong))

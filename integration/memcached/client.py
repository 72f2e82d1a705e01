"""client.py PORT ROUNDS RUN: 16 connections set, change and get values that a generator names, under
keys that begin with RUN; each answer and each value is compared with what a dict of them holds."""
import random
import socket
import sys
import threading

PORT, ROUNDS, RUN = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
SIZES = (0, 1, 7, 100, 1000, 1450, 4096, 16384, 70000)
wrong = []


class Connection:
    def __init__(self, name):
        self.name, self.model, self.rng = name, {}, random.Random(name)
        self.sock = socket.create_connection(("127.0.0.1", PORT))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.sock.makefile("rb")

    def send(self, data):
        """In one piece or in two: the server then finds half a command."""
        cut = self.rng.choice((0, 0, 0, self.rng.randrange(len(data))))
        if cut:
            self.sock.sendall(data[:cut])
        self.sock.sendall(data[cut:])

    def expect(self, wanted):
        got = self.answers.readline()
        if got != wanted + b"\r\n":
            raise ValueError(f"wanted {wanted[:60]!r}, got {got[:60]!r}")

    def expect_values(self, keys):
        for key in keys:
            if key in self.model:
                value = self.model[key]
                self.expect(b"VALUE %s 0 %d" % (key, len(value)))
                got = self.answers.read(len(value) + 2)
                if got != value + b"\r\n":
                    raise ValueError(f"the value of {key!r} is another one")
        self.expect(b"END")

    def key(self):
        return b"%s-%d-%d" % (RUN, self.name, self.rng.randrange(40))

    def store(self, verb, key, value):
        self.send(b"%s %s 0 0 %d\r\n%s\r\n" % (verb, key, len(value), value))

    def one(self):
        key, value = self.key(), self.rng.randbytes(self.rng.choice(SIZES))
        what = self.rng.randrange(8)
        if what < 3:
            self.store(b"set", key, value)
            self.expect(b"STORED")
            self.model[key] = value
        elif what == 3:
            there = key in self.model and len(self.model[key]) + len(value) < 500000
            if key in self.model and not there:
                return
            self.store(b"append", key, value)
            self.expect(b"STORED" if there else b"NOT_STORED")
            if there:
                self.model[key] += value
        elif what == 4:
            self.send(b"delete %s\r\n" % key)
            self.expect(b"DELETED" if self.model.pop(key, None) is not None else b"NOT_FOUND")
        elif what == 5:
            # Several commands at once, their answers in order.
            keys = [self.key() for _ in range(self.rng.choice((2, 10, 30)))]
            self.send(b"".join(b"get %s\r\n" % k for k in keys))
            for k in keys:
                self.expect_values([k])
        else:
            keys = sorted({self.key() for _ in range(self.rng.choice((1, 1, 5)))})
            self.send(b"get %s\r\n" % b" ".join(keys))
            self.expect_values(keys)


def run(name):
    try:
        c = Connection(name)
        for _ in range(ROUNDS):
            c.one()
        # All that is there in the end.
        for key in sorted(c.model):
            c.send(b"get %s\r\n" % key)
            c.expect_values([key])
        c.send(b"quit\r\n")
        if rest := c.answers.read():
            raise ValueError(f"more than was asked for: {rest[:60]!r}")
    except Exception as e:
        wrong.append(f"connection {name}: {e!r}")


threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
for t in threads:
    t.start()
for t in threads:
    t.join()
for text in wrong:
    print(text)
sys.exit(bool(wrong))

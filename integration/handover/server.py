"""Reads the first line of each connection itself, byte by byte, sends it back, and gives the socket away
with all that follows. server.py MODE PORT COMMAND...; SIGTERM ends it.

popen       subprocess with the socket as its input and output
shell       subprocess by way of /bin/sh
redirected  the socket becomes 0 and 1; os.system()
spawn       os.posix_spawn
fork        os.fork, dup2, exec
vanish      os.fork first; the child reads the line, and becomes the command
alone       the same, when the parent has closed the socket
passed      sent to ourselves and received by a child, forked then, which runs the command
thread      subprocess, while another thread is in the middle of a receive on another connection
"""
import os
import signal
import socket
import subprocess
import sys
import threading

MODE, PORT, COMMAND = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def first_line(sock):
    line = b""
    while c := sock.recv(1):
        line += c
        if c == b"\n":
            break
    sock.sendall(line)


def become(sock):
    """In a child: the command, on the socket."""
    try:
        os.dup2(sock.fileno(), 0)
        os.dup2(sock.fileno(), 1)
        os.execv(COMMAND[0], COMMAND)
    finally:
        os._exit(99)


def popen(sock):
    return subprocess.run(COMMAND, stdin=sock, stdout=sock).returncode


def shell(sock):
    words = " ".join(COMMAND)
    return subprocess.run(f"{words}; exit 0", shell=True, stdin=sock, stdout=sock).returncode


def redirected(sock):
    kept = os.dup(0), os.dup(1)
    os.dup2(sock.fileno(), 0)
    os.dup2(sock.fileno(), 1)
    status = os.system(" ".join(COMMAND))
    for number, old in enumerate(kept):
        os.dup2(old, number)
        os.close(old)
    return status


def spawn(sock):
    to = [(os.POSIX_SPAWN_DUP2, sock.fileno(), n) for n in (0, 1)]
    return os.waitpid(os.posix_spawn(COMMAND[0], COMMAND, os.environ, file_actions=to), 0)[1]


def fork(sock):
    if (child := os.fork()) == 0:
        become(sock)
    return os.waitpid(child, 0)[1]


def vanish(sock):
    if (child := os.fork()) == 0:
        first_line(sock)
        become(sock)
    return os.waitpid(child, 0)[1]


def alone(sock):
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.close(write_end)
        os.read(read_end, 1)
        first_line(sock)
        become(sock)
    sock.close()
    os.close(read_end)
    os.close(write_end)
    return os.waitpid(child, 0)[1]


def passed(sock):
    here, there = socket.socketpair()
    socket.send_fds(here, [b"x"], [sock.fileno()])
    if (child := os.fork()) == 0:
        sock.close()
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=fds[0]) as got:
            os._exit(popen(got))
    here.close()
    there.close()
    return os.waitpid(child, 0)[1]


def thread(sock):
    """The other connection goes to ourselves, and a line comes on it only when the command has ended."""
    near, far = connected()
    got = []
    reader = threading.Thread(target=lambda: got.append(far.makefile("rb").readline()))
    near.sendall(b"half a ")
    reader.start()
    status = popen(sock)
    near.sendall(b"line\n")
    reader.join()
    near.close()
    far.close()
    return status if got == [b"half a line\n"] else 98


def connected():
    with socket.create_server(("127.0.0.1", 0)) as s:
        near = socket.create_connection(s.getsockname())
        return near, s.accept()[0]


def stop(*_):
    raise SystemExit


signal.signal(signal.SIGTERM, stop)

with socket.create_server(("127.0.0.1", PORT), backlog=64) as listener:
    while True:
        connection, _ = listener.accept()
        if MODE not in ("vanish", "alone"):
            first_line(connection)
        status = globals()[MODE](connection)
        if status:
            print(f"status {status}", file=sys.stderr)
        connection.close()

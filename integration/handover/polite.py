"""polite.py PORT FILE: sends the first four lines of FILE one by one, each when the one before it has come
back, so that nobody can have read further than he should. Then all else; writes what comes back."""
import socket
import sys
import threading

PORT, NAME = int(sys.argv[1]), sys.argv[2]

with open(NAME, "rb") as file, socket.create_connection(("127.0.0.1", PORT)) as sock:
    out = sys.stdout.buffer
    for _ in range(4):
        sock.sendall(line := file.readline())
        back = b""
        while len(back) < len(line) and (got := sock.recv(len(line) - len(back))):
            back += got
        out.write(back)

    def send_rest():
        sock.sendall(file.read())
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send_rest)
    sender.start()
    while got := sock.recv(65536):
        out.write(got)
    sender.join()

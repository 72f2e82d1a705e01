"""Line servers that fork for each connection. server.py MODE PORT; SIGTERM ends it.

rfile   ForkingTCPServer, lines from the buffered rfile
recv1   the same, recv(1) until the newline
first   the parent reads and answers the first line, byte by byte, before it forks
"""
import signal
import socketserver
import sys
import threading

MODE, PORT = sys.argv[1], int(sys.argv[2])


def answer_line(sock):
    """One line, byte by byte; False at the end."""
    line = bytearray()
    while c := sock.recv(1):
        line += c
        if c == b"\n":
            sock.sendall(line.swapcase())
            return True
    return False


class RFile(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.swapcase())


class Recv1(socketserver.BaseRequestHandler):
    def handle(self):
        while answer_line(self.request):
            pass


class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    block_on_close = True

    def process_request(self, request, client_address):
        if MODE == "first":
            answer_line(request)
        super().process_request(request, client_address)


handler = {"rfile": RFile, "recv1": Recv1, "first": Recv1}[MODE]
with Server(("127.0.0.1", PORT), handler) as server:
    stop = threading.Thread(target=server.shutdown)
    signal.signal(signal.SIGTERM, lambda *_: stop.start())
    server.serve_forever(poll_interval=0.05)

"""Line servers as people write them. server.py MODE PORT; SIGTERM ends it.

rfile    ThreadingTCPServer, lines from the buffered rfile
recv1    ThreadingTCPServer, recv(1) until the newline
timeout  ThreadingTCPServer with a timeout, so that Python polls before each recv(100)
asyncio  one thread, readline() of a stream
"""
import asyncio
import signal
import socketserver
import sys
import threading

MODE, PORT = sys.argv[1], int(sys.argv[2])


class RFile(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.swapcase())


class Recv1(socketserver.BaseRequestHandler):
    def handle(self):
        line = bytearray()
        while c := self.request.recv(1):
            line += c
            if c == b"\n":
                self.request.sendall(line.swapcase())
                line.clear()


class Timeout(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.settimeout(60)
        line = b""
        while chunk := self.request.recv(100):
            *lines, line = (line + chunk).split(b"\n")
            for whole in lines:
                self.request.sendall(whole.swapcase() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line.swapcase())
        await writer.drain()
    writer.close()


async def serve_async():
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    server = await asyncio.start_server(answer, "127.0.0.1", PORT, limit=1 << 20)
    async with server:
        await end.wait()


if MODE == "asyncio":
    asyncio.run(serve_async())
else:
    handler = {"rfile": RFile, "recv1": Recv1, "timeout": Timeout}[MODE]
    with Server(("127.0.0.1", PORT), handler) as server:
        stop = threading.Thread(target=server.shutdown)
        signal.signal(signal.SIGTERM, lambda *_: stop.start())
        server.serve_forever(poll_interval=0.05)

"""An HTTP/1.1 server that answers its name, as soon as its mood lets it.

usage: moody.py PORT NAME DIRECTORY

Each request is a line in DIRECTORY/asked before it is answered: method and x-envoy-attempt-count. While DIRECTORY/mood is
there, it says for how many seconds each request waits, unless the mood is gone before.
"""
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NAME, DIRECTORY = int(sys.argv[1]), sys.argv[2], sys.argv[3]
MOOD = os.path.join(DIRECTORY, "mood")


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def patience():
    try:
        with open(MOOD, encoding="ascii") as mood:
            return float(mood.read())
    except (FileNotFoundError, ValueError):
        return 0.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        number = self.headers.get("x-envoy-attempt-count", "-")
        with open(os.path.join(DIRECTORY, "asked"), "a", encoding="ascii") as notes:
            notes.write(f"{self.command} {number}\n")
        until = time.monotonic() + patience()
        while time.monotonic() < until and os.path.exists(MOOD):
            time.sleep(0.01)
        body = f"{NAME}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


Server(("::", PORT), Handler).serve_forever()

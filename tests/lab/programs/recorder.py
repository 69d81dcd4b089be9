"""An HTTP/1.1 server that notes each request in a file: one line of JSON with host, path, length and SHA-256 of the body.

usage: recorder.py PORT FILE
"""
import hashlib
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        line = {
            "host": self.headers.get("host"),
            "path": self.path,
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        with open(sys.argv[2], "a", encoding="utf-8") as notes:
            notes.write(json.dumps(line) + "\n")
        self.send_response(418)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


Server(("::", int(sys.argv[1])), Handler).serve_forever()

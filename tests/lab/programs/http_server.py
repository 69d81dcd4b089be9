"""A plain HTTP/1.1 server that says what it saw. Knows nothing of any mesh.

usage: http_server.py PORT VERSION
  /            JSON: who answers, the peer's and the own address of the connection, the request
  /status/N    answers with status N
  /slow/MS     answers after MS milliseconds
  /bytes/N     answers with N bytes
  /echo        answers with the request's body
  /sick/on     answers all else with status 500 from now on, until /sick/off
"""
import json
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def plain(address):
    return address[0].removeprefix("::ffff:")


class Handler(BaseHTTPRequestHandler):
    is_sick = False
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, kind = 200, "application/json"
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "sick":
            Handler.is_sick = parts[1] == "on"
            body = b"{}"
        elif Handler.is_sick:
            status, body = 500, b"{}"
        elif parts[0] == "status":
            status = int(parts[1])
            body = b"{}"
        elif parts[0] == "slow":
            time.sleep(int(parts[1]) / 1000)
            body = b"{}"
        elif parts[0] == "bytes":
            kind, body = "application/octet-stream", b"x" * int(parts[1])
        elif parts[0] == "echo":
            kind = self.headers.get("content-type", "application/octet-stream")
        else:
            body = json.dumps({
                "pod": os.environ.get("POD_NAME"),
                "node": os.environ.get("NODE_NAME"),
                "version": sys.argv[2],
                "peer": plain(self.client_address),
                "peer_port": self.client_address[1],
                "local": plain(self.connection.getsockname()),
                "local_port": self.connection.getsockname()[1],
                "method": self.command,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
            }).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-version", sys.argv[2])
        self.send_header("x-pod", os.environ.get("POD_NAME", "none"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer

    def log_message(self, *args):
        pass


Server(("::", int(sys.argv[1])), Handler).serve_forever()

"""One TCP connection that goes on and on: a line each way, again and again.

usage: lines.py serve PORT        echoes each line behind the address of its sender
       lines.py keep HOST PORT    sends a line every 50 ms on one connection and prints what came back as JSON lines
"""
import json
import socket
import socketserver
import sys
import time


def plain(address):
    return address[0].removeprefix("::ffff:")


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            peer = f"{plain(self.client_address)} {self.client_address[1]}"
            self.wfile.write(f"{peer} {line.decode().strip()}\n".encode())


def keep(host, port):
    connection = socket.create_connection((host, int(port)), timeout=10)
    replies = connection.makefile()
    count = 0
    while True:
        connection.sendall(f"line-{count}\n".encode())
        reply = replies.readline().split()
        if len(reply) != 3 or reply[2] != f"line-{count}":
            raise SystemExit(f"wrong answer to line {count}: {reply}")
        own = connection.getsockname()
        print(json.dumps({"peer": reply[0], "is_direct": reply[:2] == [plain(own), str(own[1])]}), flush=True)
        count += 1
        time.sleep(0.05)


if sys.argv[1] == "serve":
    Server(("::", int(sys.argv[2])), Handler).serve_forever()
keep(*sys.argv[2:])

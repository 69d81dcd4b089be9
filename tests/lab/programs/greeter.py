"""A TCP server that speaks first, as SMTP, MySQL and SSH do, and then echoes lines.

usage: greeter.py PORT
"""
import os
import socket
import socketserver
import sys


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        peer = self.client_address[0].removeprefix("::ffff:")
        self.wfile.write(f"220 {os.environ['POD_NAME']} greets {peer}\n".encode())
        for line in self.rfile:
            self.wfile.write(line)
        self.wfile.write(b"bye\n")


Server(("::", int(sys.argv[1])), Handler).serve_forever()

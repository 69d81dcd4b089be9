"""A mail server that takes every letter and keeps the last one. Speaks first, as SMTP does (RFC 5321).

usage: smtp_server.py PORT

A letter is answered with its size: "250 N bytes".
"""
import os
import socket
import socketserver
import sys


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def letter(self):
        self.say("354 go on")
        size = 0
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                return
            size += len(line)
        self.say(f"250 {size} bytes")

    def handle(self):
        self.say(f"220 {os.environ['POD_NAME']} ESMTP")
        for line in self.rfile:
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"DATA":
                self.letter()
            elif verb == b"QUIT":
                return self.say("221 bye")
            else:
                self.say("250 fine")


Server(("::", int(sys.argv[1])), Session).serve_forever()

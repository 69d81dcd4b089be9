"""Talks TCP and says as JSON what came of it.

usage: tcp_client.py [--mptcp] [--listen-first] [--send TEXT] [--open] [--echo N] HOST PORT

Sends TEXT, shuts its sending side, reads to the end. With --listen-first it waits for the server's first line before.
With --open it does not shut its sending side. With --echo it asks tcp_server.py for an echo instead, and says whether N
bytes came back as they were.
"""
import argparse
import json
import os
import socket
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--mptcp", action="store_true")
parser.add_argument("--listen-first", action="store_true")
parser.add_argument("--send", default="")
parser.add_argument("--open", action="store_true")
parser.add_argument("--echo", type=int)
parser.add_argument("--timeout", type=float, default=10)
parser.add_argument("host")
parser.add_argument("port", type=int)
arguments = parser.parse_args()

IPPROTO_MPTCP = 262
result = {"error": None, "received": ""}


def echo(connection, count):
    """Sends and reads at once, since no buffer on the way may hold all of it."""
    connection.sendall(b"echo\n")
    back = connection.makefile("rb")
    back.readline()
    sent = os.urandom(count)
    sender = threading.Thread(target=connection.sendall, args=(sent,), daemon=True)
    sender.start()
    return back.read(count) == sent


began = time.monotonic()
try:
    family, _, _, _, address = socket.getaddrinfo(arguments.host, arguments.port, type=socket.SOCK_STREAM)[0]
    connection = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if arguments.mptcp else 0)
    connection.settimeout(arguments.timeout)
    connection.connect(address)
    result["connect_ms"] = (time.monotonic() - began) * 1000
    result["peer"], result["local"] = connection.getpeername()[0], connection.getsockname()[0]
    result["peer_port"] = connection.getpeername()[1]
    received = b""
    if arguments.listen_first:
        while not received.endswith(b"\n"):
            chunk = connection.recv(4096)
            if not chunk:
                break
            received += chunk
        result["first_line_ms"] = (time.monotonic() - began) * 1000
    if arguments.send:
        connection.sendall(arguments.send.encode())
    if arguments.echo:
        result["echoed"] = echo(connection, arguments.echo)
    if not arguments.open:
        connection.shutdown(socket.SHUT_WR)
    while chunk := connection.recv(65536):
        received += chunk
    result["received"] = received.decode(errors="replace")
except OSError as error:
    result["error"] = type(error).__name__ + ": " + str(error)
result["took_ms"] = (time.monotonic() - began) * 1000
print(json.dumps(result))

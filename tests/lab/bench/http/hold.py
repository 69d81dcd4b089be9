"""Opens connections, has one request answered on each, and holds them all; writes "held" to a file once they are.

usage: hold.py FILE HOST PORT COUNT
"""
import signal
import socket
import sys

file, host, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
connections = []
for _ in range(count):
    connection = socket.create_connection((host, port), timeout=30)
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"is...\n"):
        piece = connection.recv(4096)
        if not piece:
            sys.exit(f"connection {len(connections)} ended after {answer!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"connection {len(connections)}: {answer!r}")
    connections.append(connection)
with open(file, "w") as told:
    told.write("held")
signal.pause()

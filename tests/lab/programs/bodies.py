"""Sends a body of 1 GB on each of many connections, to a server that does not read; each as far as it gets.

Says in one line of JSON how many connections there were and how many bytes were taken.
usage: bodies.py HOST PORT CONNECTIONS SECONDS
"""
import json
import selectors
import socket
import sys
import time

host, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
SIZE = 1 << 30
head = f"POST / HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {SIZE}\r\n\r\n".encode()
piece = bytes(256 * 1024)
end = time.monotonic() + seconds
selector = selectors.DefaultSelector()
taken = errors = 0


def begin():
    connection = socket.create_connection((host, port), timeout=30)
    connection.sendall(head)
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_WRITE)


for _ in range(count):
    begin()
while (left := end - time.monotonic()) > 0:
    for key, _ in selector.select(left):
        try:
            taken += key.fileobj.send(piece)
        except BlockingIOError:
            pass
        except OSError:
            errors += 1
            selector.unregister(key.fileobj)
            key.fileobj.close()
print(json.dumps({"requests": count, "bad_status": 0, "errors": errors, "bytes": taken, "seconds": seconds}))

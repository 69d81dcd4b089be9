"""Back ends that misbehave, each on its own port.

usage: broken.py RESET_PORT SILENT_PORT

RESET_PORT   reads the first bytes, then resets the connection
SILENT_PORT  accepts and reads, never answers
"""
import socket
import struct
import sys
import threading


def listen(port, serve):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)

    def accept():
        while True:
            connection, _ = server.accept()
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept).start()


def reset(connection):
    connection.recv(1)
    # Closing with a linger of zero sends RST.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silent(connection):
    while connection.recv(4096):
        pass


listen(int(sys.argv[1]), reset)
listen(int(sys.argv[2]), silent)

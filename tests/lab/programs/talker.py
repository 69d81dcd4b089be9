"""Keeps one TCP connection and does what its standard input says, a line at a time; says as JSON lines what came of it.

usage: talker.py [-6] [--mptcp] [--from-port PORT] HOST PORT

    read       reads a line
    say TEXT   sends TEXT and a newline, and reads a line
    wait       reads until the connection ends or fails
    end        shuts its sending side, reads to the end
"""
import argparse
import errno
import json
import socket
import sys

parser = argparse.ArgumentParser()
parser.add_argument("-6", dest="family", action="store_const", const=socket.AF_INET6, default=0)
parser.add_argument("--mptcp", action="store_true")
parser.add_argument("--from-port", type=int, default=0)
parser.add_argument("host")
parser.add_argument("port", type=int)
arguments = parser.parse_args()

IPPROTO_MPTCP = 262
counts = {"sent": 0, "received": 0}


def tell(**said):
    print(json.dumps(said), flush=True)


def read_line(reader):
    line = reader.readline()
    if not line:
        raise EOFError
    counts["received"] += len(line)
    return line.decode().rstrip()


def read_to_end(reader):
    while chunk := reader.read1(65536):
        counts["received"] += len(chunk)


def main():
    found = socket.getaddrinfo(arguments.host, arguments.port, family=arguments.family, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    connection = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if arguments.mptcp else 0)
    if arguments.from_port:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(("", arguments.from_port))
    connection.settimeout(30)
    connection.connect(address)
    peer, local = connection.getpeername(), connection.getsockname()
    reader = connection.makefile("rb")
    tell(peer=peer[0], peer_port=peer[1], local=local[0], local_port=local[1])
    for line in sys.stdin:
        verb, _, text = line.strip().partition(" ")
        if verb == "read":
            tell(line=read_line(reader))
        elif verb == "say":
            connection.sendall(text.encode() + b"\n")
            counts["sent"] += len(text.encode()) + 1
            tell(line=read_line(reader))
        elif verb == "wait":
            read_to_end(reader)
            tell(ended=True)
        elif verb == "end":
            connection.shutdown(socket.SHUT_WR)
            read_to_end(reader)
            tell(**counts)
            return


try:
    main()
except TimeoutError:
    tell(error="TIMEOUT")
except EOFError:
    tell(error="EOF")
except OSError as error:
    tell(error=errno.errorcode.get(error.errno, str(error)))

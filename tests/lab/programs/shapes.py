"""Connects in every way that a program may, talks to tcp_server.py, and says as JSON what came of it.

usage: shapes.py ask [--how HOW] [--from PORT] [--family 4|6] HOST PORT COMMAND
       shapes.py late HOST PORT NAME
       shapes.py bulk HOST PORT BYTES
       shapes.py many HOST PORT COUNT
       shapes.py reset HOST PORT NAME

ask    connects, sends COMMAND as a line, shuts its sending side, reads to the end
late   has the server shut its sending side, and only then sends LATE bytes, counted under NAME
bulk   sends BYTES and compares the digest, receives BYTES and compares the digest
many   holds COUNT connections at once, exchanges bytes on each, then closes all
reset  has a connection watched under NAME, then resets it

HOW: blocking, nonblocking, uring, fastopen, fastopen-connect, mptcp, mapped
"""
import argparse
import contextlib
import errno
import hashlib
import json
import os
import resource
import select
import socket
import struct
import time

import uring

IPPROTO_MPTCP, TCP_FASTOPEN_CONNECT = 262, 30
BLOCK = bytes(range(256)) * 256
FAMILIES = {None: 0, "4": socket.AF_INET, "6": socket.AF_INET6}
LATE = 1_000_000
WAVE = 200
LIMIT = 20


def target(host, port, wanted=0):
    """The first address of a name, of a wanted family, if one is wanted."""
    family, _, _, _, address = socket.getaddrinfo(host, port, wanted, socket.SOCK_STREAM)[0]
    return family, address


def opened(family, how):
    protocol = IPPROTO_MPTCP if how == "mptcp" else 0
    connection = socket.socket(socket.AF_INET6 if how == "mapped" else family, socket.SOCK_STREAM, protocol)
    connection.settimeout(LIMIT)
    return connection


def connected(connection, address, how, line):
    """Connects; returns what of the line is sent already."""
    if how == "nonblocking":
        connection.setblocking(False)
        begun = connection.connect_ex(address)
        if begun not in (0, errno.EINPROGRESS):
            raise OSError(begun, os.strerror(begun))
        with select.epoll() as ready:
            ready.register(connection, select.EPOLLOUT)
            assert ready.poll(LIMIT), "the connection never became ready"
        failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))
        connection.settimeout(LIMIT)
    elif how in ("uring", "fastopen"):
        connection.settimeout(None)
        if how == "fastopen":
            return connection.sendto(line, socket.MSG_FASTOPEN, address)
        uring.connect(connection, address)
    elif how == "fastopen-connect":
        connection.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        connection.connect(address)
    elif how == "mapped":
        connection.connect((f"::ffff:{address[0]}", address[1]))
    else:
        connection.connect(address)
    return 0


def plain(address):
    return [address[0].removeprefix("::ffff:"), address[1]]


def ask(arguments):
    said = {"stage": "connect", "error": None, "received": ""}
    began = time.monotonic()
    family, address = target(arguments.host, arguments.port, FAMILIES[arguments.family])
    connection = opened(family, arguments.how)
    line = " ".join(arguments.command).encode() + b"\n"
    received = b""
    try:
        if arguments.source:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", arguments.source))
        sent = connected(connection, address, arguments.how, line)
        said["stage"] = "talk"
        connection.sendall(line[sent:])
        # Not before: a connect that was put off until the first write has no peer yet.
        with unless_reset():
            said["peer"], said["local"] = plain(connection.getpeername()), plain(connection.getsockname())
            connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            received += chunk
        said["stage"] = "end"
    except OSError as error:
        said["error"] = errno.errorcode.get(error.errno, type(error).__name__)
    said["received"], said["took_ms"] = received.decode(), (time.monotonic() - began) * 1000
    return said


@contextlib.contextmanager
def unless_reset():
    """A reset that is already there takes the peer away; the read that follows says so itself."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise


def bulk(arguments):
    family, address = target(arguments.host, arguments.port)
    blocks, rest = divmod(arguments.bytes, len(BLOCK))
    digest = hashlib.sha256()
    with opened(family, "blocking") as connection:
        connection.connect(address)
        connection.sendall(b"sink\n")
        for part in [BLOCK] * blocks + [BLOCK[:rest]]:
            connection.sendall(part)
            digest.update(part)
        connection.shutdown(socket.SHUT_WR)
        arrived = json.loads(connection.makefile().readline())
    wanted = {"bytes": arguments.bytes, "sha256": digest.hexdigest()}
    count, digest = 0, hashlib.sha256()
    with opened(family, "blocking") as connection:
        connection.connect(address)
        connection.sendall(b"source %d\n" % arguments.bytes)
        while chunk := connection.recv(1 << 20):
            count += len(chunk)
            digest.update(chunk)
    return {"wanted": wanted, "sent": arrived, "received": {"bytes": count, "sha256": digest.hexdigest()}}


def many(arguments):
    """One step for all connections before the next, so that all are alive at once. A wave connects at a time: a machine
    that has other things to do shall not run into time limits of the handshakes."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    family, address = target(arguments.host, arguments.port)
    said = {"begun": 0, "ready": 0, "exchanged": 0, "finished": 0, "failures": {}}
    connections = []

    def count(step, work, numbers):
        for number in numbers:
            connection = connections[number]
            try:
                work(number, connection)
                said[step] += 1
            except (OSError, EOFError) as error:
                name = f"{step}: {type(error).__name__} {error}"
                said["failures"][name] = said["failures"].get(name, 0) + 1

    def line_of(connection):
        line = b""
        while not line.endswith(b"\n"):
            chunk = connection.recv(64)
            if not chunk:
                raise EOFError("early end")
            line += chunk
        return line

    def expect(connection, wanted):
        if (line := line_of(connection)) != wanted:
            raise EOFError(f"{line} is not {wanted}")

    def begin(number, connection):
        connection.connect(address)
        connection.sendall(b"echo\n")

    def ready(number, connection):
        expect(connection, b"ready\n")

    def exchange(number, connection):
        connection.sendall(b"number %d\n" % number)
        expect(connection, b"number %d\n" % number)

    def finish(number, connection):
        connection.shutdown(socket.SHUT_WR)
        expect(connection, b"bye\n")
        if connection.recv(1):
            raise EOFError("more bytes than sent")
        connection.close()

    connections = [opened(family, "blocking") for _ in range(arguments.count)]
    for first in range(0, arguments.count, WAVE):
        wave = range(first, min(first + WAVE, arguments.count))
        count("begun", begin, wave)
        count("ready", ready, wave)
    everybody = range(arguments.count)
    count("exchanged", exchange, everybody)
    count("finished", finish, everybody)
    return said


def reset(arguments):
    family, address = target(arguments.host, arguments.port)
    connection = opened(family, "blocking")
    connection.connect(address)
    connection.sendall(f"watch {arguments.name}\n".encode())
    assert connection.recv(6) == b"ready\n"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return ask_for_end(arguments)


def late(arguments):
    family, address = target(arguments.host, arguments.port)
    with opened(family, "blocking") as connection:
        connection.connect(address)
        connection.sendall(f"hush {arguments.name}\n".encode())
        received = b""
        while chunk := connection.recv(64):
            received += chunk
        assert received == b"hush\n", received
        connection.sendall(b"x" * LATE)
    return ask_for_end(arguments)


def ask_for_end(arguments):
    words = ["ask", arguments.host, str(arguments.port), "ended", arguments.name]
    return ask(parser.parse_args(words))


parser = argparse.ArgumentParser()
modes = parser.add_subparsers(required=True)
for mode in (ask, late, bulk, many, reset):
    words = modes.add_parser(mode.__name__)
    words.set_defaults(mode=mode)
    if mode is ask:
        words.add_argument("--how", default="blocking")
        words.add_argument("--from", type=int, dest="source")
        words.add_argument("--family", choices=["4", "6"])
    words.add_argument("host")
    words.add_argument("port", type=int)
    if mode is ask:
        words.add_argument("command", nargs="+")
    elif mode in (late, reset):
        words.add_argument("name")
    else:
        words.add_argument("bytes" if mode is bulk else "count", type=int)
arguments = parser.parse_args()
print(json.dumps(arguments.mode(arguments)))

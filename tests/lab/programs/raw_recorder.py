"""Takes HTTP/1.1 off the wire to the letter, and remembers every message. Knows nothing of any mesh.

What it takes for a message is what its head says, read in the plainest way: a smuggled request is a second message.

usage: raw_recorder.py PORT CONTROL_PORT
  a line to the control port is answered with the messages since the last such line, as JSON, once all is quiet
"""
import json
import re
import socket
import sys
import threading
import time

QUIET, PATIENCE = 0.04, 3
messages, arrived, lock = [], [0.0], threading.Lock()
under_way = set()  # Connections in the middle of a message.


def read_more(connection, held):
    try:
        more = connection.recv(65536)
    except OSError:
        more = b""  # A reset ends a connection too.
    if not more:
        raise EOFError(held)
    under_way.add(connection)
    arrived[0] = time.monotonic()
    return held + more


def read_message(connection, held):
    while b"\r\n\r\n" not in held:
        held = read_more(connection, held)
    head, held = held.split(b"\r\n\r\n", 1)
    lines = head.split(b"\r\n")
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    values = dict(fields)
    body = b""
    if b"transfer-encoding" in values:
        while True:
            while b"\r\n" not in held:
                held = read_more(connection, held)
            size, held = held.split(b"\r\n", 1)
            size = int(re.match(rb"[0-9a-fA-F]+", size).group(), 16)
            while len(held) < size + 2:
                held = read_more(connection, held)
            body, held = body + held[:size], held[size:]
            if size == 0:
                while not held.startswith(b"\r\n"):
                    while b"\r\n" not in held:
                        held = read_more(connection, held)
                    held = held.split(b"\r\n", 1)[1]
                held = held[2:]
                break
            held = held[2:]
    else:
        length = int(values.get(b"content-length", b"0"))
        if b"100-continue" in values.get(b"expect", b"").lower() and not held:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(held) < length:
            held = read_more(connection, held)
        body, held = held[:length], held[length:]
    return lines[0], fields, body, held


def note(**message):
    with lock:
        messages.append({key: value.decode("latin-1") if isinstance(value, bytes) else value for key, value in message.items()})


def serve(connection):
    held = b""
    try:
        while True:
            line, fields, body, held = read_message(connection, held)
            note(line=line, body=body, fields=[[name.decode("latin-1"), value.decode("latin-1")] for name, value in fields])
            if not held:
                under_way.discard(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except EOFError as end:
        if end.args[0]:
            note(cut=end.args[0])
    except (OSError, ValueError, AttributeError) as error:
        note(broken=str(error))
    finally:
        connection.close()
        under_way.discard(connection)


def control(connection):
    with connection, connection.makefile("rw") as stream:
        for _ in stream:
            asked = time.monotonic()
            while time.monotonic() - max(asked, arrived[0]) < QUIET or under_way:
                if time.monotonic() - asked > PATIENCE:
                    note(broken="a message was begun and neither ended nor given up")
                    break
                time.sleep(QUIET / 4)
            with lock:
                taken, messages[:] = list(messages), []
            stream.write(json.dumps(taken) + "\n")
            stream.flush()


def listen(port, handler):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=handler, args=(connection,), daemon=True).start()


threading.Thread(target=listen, args=(int(sys.argv[1]), serve), daemon=True).start()
listen(int(sys.argv[2]), control)

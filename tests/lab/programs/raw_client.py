"""Sends bytes as they are, each case on a connection of its own, and says as JSON what came back and what the recorder saw.

usage: raw_client.py HOST PORT CONTROL_PORT FILE
  FILE holds the cases as JSON: a list of {"name", "bytes"} with bytes as Latin-1 text
"""
import json
import socket
import sys

ANSWER, REST = 1.5, 0.05


def receive(connection, limit):
    """What comes until nothing more does for a while, and whether the peer has closed."""
    got = b""
    connection.settimeout(limit)
    try:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return got, True
            got += piece
            connection.settimeout(REST)
    except TimeoutError:
        return got, False
    except OSError:
        return got, True


def attempt(host, port, data):
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(data)
        except OSError:
            pass  # Refused before all was taken: the answer is what counts.
        answer, closed = receive(connection, ANSWER)
        if not closed:
            try:
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            rest, closed = receive(connection, ANSWER)
            answer += rest
        return answer.decode("latin-1"), closed


host, port, control, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
outcomes = []
with socket.create_connection((host, control), timeout=5) as connection, connection.makefile("rw") as recorder:
    def seen():
        recorder.write("take\n")
        recorder.flush()
        return json.loads(recorder.readline())

    seen()
    for case in json.load(open(file)):
        answer, closed = attempt(host, port, case["bytes"].encode("latin-1"))
        outcomes.append({"name": case["name"], "answer": answer, "closed": closed, "seen": seen()})
print(json.dumps(outcomes))

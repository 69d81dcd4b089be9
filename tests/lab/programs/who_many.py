"""Asks tcp_server.py who it is, on one connection after another, and says as JSON how often each pod answered.

usage: who_many.py HOST PORT COUNT

A connection that ends without an answer counts as "refused".
"""
import collections
import json
import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
answers = collections.Counter()
for _ in range(count):
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            connection.sendall(b"who\n")
            said = connection.makefile("rb").readline()
        answers[json.loads(said)["pod"] if said else "refused"] += 1
    except ConnectionResetError:
        answers["refused"] += 1
print(json.dumps(answers))

"""Opens a new connection for each request, HTTP and TCP in turn, until a file appears, and counts what came of them.

usage: steady.py STOP_FILE HTTP_HOST TCP_HOST TCP_PORT
"""
import collections
import http.client
import json
import os
import socket
import sys
import time

stop, http_host, tcp_host, tcp_port = sys.argv[1:5]
done, failures = collections.Counter(), collections.Counter()


def one_http():
    connection = http.client.HTTPConnection(http_host, 80, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return None if answer.status == 200 else f"status {answer.status}"
    finally:
        connection.close()


def one_tcp():
    with socket.create_connection((tcp_host, int(tcp_port)), timeout=10) as connection:
        greeting = connection.recv(4096)
        return None if greeting.startswith(b"220") else f"greeting {greeting!r}"


began = time.monotonic()
while not os.path.exists(stop) and time.monotonic() - began < 300:
    for kind, ask in (("http", one_http), ("tcp", one_tcp)):
        try:
            wrong = ask()
        except (OSError, http.client.HTTPException) as error:
            wrong = f"{type(error).__name__}: {error}"
        done[kind] += 1
        if wrong:
            failures[f"{kind}: {wrong}"] += 1
    time.sleep(0.01)
print(json.dumps({"done": done, "failures": failures, "failed": sum(failures.values())}))

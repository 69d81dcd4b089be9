"""Begins mTLS handshakes with an agent as fast as asked and gives each up when the agent has answered.

The ClientHello is a real one (ALPN mesh-h2), made once and sent again on every connection: the agent computes its key
share, its signature and its flight anew each time, and the client nothing, so that a small client makes a large storm.

usage: handshake_storm.py ADDRESS PORT RATE SECONDS [THREADS]
prints JSON: begun, answered (a ServerHello came), refused (reset or closed), seconds
"""

import json
import socket
import ssl
import sys
import threading
import time


def client_hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["mesh-h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def storm(address, rate, until, hello, counts):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    due = time.monotonic()
    while due < until:
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / rate
        counts["begun"] += 1
        try:
            with socket.socket(family) as sock:
                sock.settimeout(5)
                sock.connect(address)
                sock.sendall(hello)
                answered = sock.recv(1) == b"\x16"
        except OSError:
            answered = False
        counts["answered" if answered else "refused"] += 1


def main():
    host, port, rate, seconds = sys.argv[1], *map(int, sys.argv[2:5])
    threads = int(sys.argv[5]) if len(sys.argv) > 5 else 32
    hello, started = client_hello(), time.monotonic()
    all_counts = [dict(begun=0, answered=0, refused=0) for _ in range(threads)]
    workers = [
        threading.Thread(
            target=storm, args=((host, port), rate / threads, started + seconds, hello, counts)
        )
        for counts in all_counts
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = {key: sum(counts[key] for counts in all_counts) for key in all_counts[0]}
    print(json.dumps({**total, "seconds": round(time.monotonic() - started, 2)}))


main()

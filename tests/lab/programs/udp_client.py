"""Sends one datagram to udp_echo.py and says as JSON what came of it.

usage: udp_client.py HOST PORT BYTES
"""
import json
import os
import socket
import sys

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(10)
sent = os.urandom(count)
client.sendto(sent, (host, port))
answer, end = client.recvfrom(65_535)
seen, echoed = answer.split(b"\n", 1)
seen_host, seen_port = seen.decode().split()
print(json.dumps({
    "is_whole": echoed == sent,
    "from": end[0],
    "server_saw": seen_host,
    "is_own_port": int(seen_port) == client.getsockname()[1],
}))

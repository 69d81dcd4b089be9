"""Sends messages to a WebSocket echo and says as JSON what came back.

usage: ws_client.py URL COUNT
"""
import json
import sys

from websockets.sync.client import connect

url, count = sys.argv[1], int(sys.argv[2])
binary = bytes(range(256)) * 512
with connect(url, proxy=None) as connection:
    received = []
    for number in range(count):
        connection.send(f"hello {number}")
        received.append(connection.recv(timeout=10))
    connection.send(binary)
    is_intact = connection.recv(timeout=10) == binary
    status = connection.response.status_code
print(json.dumps({"status": status, "received": received, "binary_intact": is_intact}))

"""Accepts connections and never reads a byte of them.

usage: sleeper.py PORT
"""
import socket
import sys

listener = socket.create_server(("", int(sys.argv[1])), backlog=4096)
connections = []
while True:
    connections.append(listener.accept())

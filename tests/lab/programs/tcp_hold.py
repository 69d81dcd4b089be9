"""Holds a TCP connection and writes to a file what becomes of it: "held" once the server's first line came, then "ended".

usage: tcp_hold.py FILE HOST PORT
"""
import socket
import sys


def say(word):
    with open(sys.argv[1], "w") as file:
        file.write(word)


with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=30) as connection:
    connection.recv(4096)
    say("held")
    try:
        while connection.recv(4096):
            pass
    except OSError:
        pass
    say("ended")

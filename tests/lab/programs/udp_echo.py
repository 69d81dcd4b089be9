"""Sends each datagram back, with the address that it came from in front. A TCP listener on the same port says that it is up.

usage: udp_echo.py PORT
"""
import socket
import sys

port = int(sys.argv[1])
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("::", port))
ready = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    data, (host, from_port, *_) = server.recvfrom(65_535)
    server.sendto(f"{host.removeprefix('::ffff:')} {from_port}\n".encode() + data, (host, from_port))

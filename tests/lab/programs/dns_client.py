"""Asks several resolvers at once from one unconnected socket, as musl's stub resolver does, and says as JSON who answered.

usage: dns_client.py NAME RESOLVER...

Answers whose sender was not asked are passed over, as every stub resolver does. With --junk it sends bytes that are no
question first.
"""
import ipaddress
import json
import os
import socket
import struct
import sys

arguments = [word for word in sys.argv[1:] if word != "--junk"]
name, resolvers = arguments[0], arguments[1:]


def query(number):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)


def after_name(message, at):
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


def addresses(message):
    at, found = after_name(message, 12) + 4, []
    for _ in range(struct.unpack_from("!H", message, 6)[0]):
        at = after_name(message, at)
        kind, _, _, length = struct.unpack_from("!HHIH", message, at)
        at += 10
        if kind == 1:
            found.append(str(ipaddress.ip_address(message[at:at + length])))
        at += length
    return found


client = socket.socket(socket.AF_INET6 if ":" in resolvers[0] else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(10)
if "--junk" in sys.argv:
    for junk in (b"", b"?", os.urandom(700), bytes(6000), query(1)[:-1]):
        client.sendto(junk, (resolvers[0], 53))
for resolver in resolvers:
    client.sendto(query(4711), (resolver, 53))
answers = {}
while len(answers) < len(resolvers):
    message, end = client.recvfrom(65_535)
    if end[0] in resolvers and end[1] == 53 and message[:2] == struct.pack("!H", 4711):
        answers[end[0]] = {"rcode": message[3] & 0xF, "addresses": sorted(addresses(message))}
print(json.dumps(answers))

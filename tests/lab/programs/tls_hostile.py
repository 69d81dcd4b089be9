"""Begins TLS handshakes badly in more than a hundred ways, and says as JSON how they ended. Knows nothing of any mesh.

usage: tls_hostile.py HOST PORT

Each attempt starts from the ClientHello of a client that offers ALPN mesh-h2. "tried" is how many there were, "ended" how
many the server ended, "left" those that it kept open for longer than 15 seconds, "answered" those that heard an
application, named in "which".
"""
import concurrent.futures
import json
import random
import socket
import ssl
import struct
import sys

host, port = sys.argv[1], int(sys.argv[2])
LIMIT = 15
rng = random.Random(8446)


def hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["mesh-h2"])
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(into, out).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def record(kind, body, version=b"\x03\x03"):
    return bytes([kind]) + version + struct.pack(">H", len(body)) + body


def handshake(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


HELLO = hello()
MESSAGE = HELLO[5:]


def split_extensions(message):
    """The part of a ClientHello before its extensions, and these."""
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + struct.unpack_from(">H", message, at)[0]
    at += 1 + message[at]
    found, rest = [], message[at + 2:]
    while rest:
        kind, length = struct.unpack_from(">HH", rest)
        found.append((kind, rest[4:4 + length]))
        rest = rest[4 + length:]
    return message[4:at], found


def with_extensions(change):
    head, extensions = split_extensions(MESSAGE)
    body = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in change(extensions))
    return record(22, handshake(1, head + struct.pack(">H", len(body)) + body))


def changed(kind, change):
    return with_extensions(lambda all: [(k, change(data) if k == kind else data) for k, data in all])


def repeated_shares(data):
    shares = data[2:] * 2
    return struct.pack(">H", len(shares)) + shares


KEY_SHARE, VERSIONS, GROUPS, SIGNATURES, EARLY_DATA, ALPN = 51, 43, 10, 13, 42, 16
JUNK = rng.randbytes(1200)
attempts = {
    # Cut off, one record in pieces, records that lie about their length or version.
    **{f"cut at {n}": [HELLO[:n]] for n in (1, 3, 5, 6, 9, 40, 77, len(HELLO) // 2, len(HELLO) - 1)},
    "byte by byte, then nothing": [HELLO[n:n + 1] for n in range(len(HELLO))],
    "a record for each byte": [b"".join(record(22, MESSAGE[n:n + 1]) for n in range(len(MESSAGE)))],
    "empty records": [record(22, b"") * 2000],
    "empty records after it": [HELLO + record(22, b"") * 2000],
    "empty data": [HELLO + record(23, b"") * 2000],
    "longest length": [b"\x16\x03\x01\xff\xff" + MESSAGE + JUNK],
    "one byte too long": [b"\x16\x03\x01\x40\x01" + MESSAGE + rng.randbytes(0x4001)],
    "a message of 16 MiB": [record(22, b"\x01\xff\xff\xff" + MESSAGE[4:])] + [record(22, JUNK)] * 200,
    **{f"record version {v:04x}": [HELLO[:1] + struct.pack(">H", v) + HELLO[3:]] for v in (0x0200, 0x0300, 0x0305, 0x03ff)},
    **{f"hello version {v:04x}": [HELLO[:9] + struct.pack(">H", v) + HELLO[11:]] for v in (0, 0x0300, 0x0304, 0xffff)},
    # Extensions.
    "no extensions": [with_extensions(lambda all: [])],
    "alpn alone": [with_extensions(lambda all: [one for one in all if one[0] == ALPN])],
    "each twice": [with_extensions(lambda all: all + all)],
    "alpn twice": [with_extensions(lambda all: all + [one for one in all if one[0] == ALPN])],
    "no key share": [with_extensions(lambda all: [one for one in all if one[0] != KEY_SHARE])],
    "an empty key share": [changed(KEY_SHARE, lambda data: b"\0\0")],
    "key shares repeated": [changed(KEY_SHARE, repeated_shares)],
    "a key share of zeros": [changed(KEY_SHARE, lambda data: data[:6] + bytes(len(data) - 6))],
    "a key share cut short": [changed(KEY_SHARE, lambda data: data[:10])],
    "no versions": [with_extensions(lambda all: [one for one in all if one[0] != VERSIONS])],
    "tls 1.2 only": [changed(VERSIONS, lambda data: b"\x02\x03\x03")],
    "unknown version": [changed(VERSIONS, lambda data: b"\x02\x7f\x7f")],
    "no groups": [with_extensions(lambda all: [one for one in all if one[0] != GROUPS])],
    "unknown groups": [changed(GROUPS, lambda data: b"\x00\x02\xab\xcd")],
    "no signatures": [with_extensions(lambda all: [one for one in all if one[0] != SIGNATURES])],
    "weak signatures": [changed(SIGNATURES, lambda data: b"\x00\x02\x02\x01")],
    "early data unasked": [with_extensions(lambda all: all + [(EARLY_DATA, b"")]) + record(23, JUNK) * 20],
    "a huge extension": [with_extensions(lambda all: all + [(0xfafa, bytes(12000))])],
    "a thousand extensions": [with_extensions(lambda all: all + [(0x8000 + n, b"") for n in range(1000)])],
    # What may not follow a ClientHello.
    "twice": [HELLO + HELLO],
    "finished at once": [HELLO + record(22, handshake(20, bytes(32)))],
    "key updates": [HELLO + record(22, handshake(24, b"\1")) * 2000],
    "a hello request": [HELLO + record(22, handshake(0, b""))],
    "a server's hello": [record(22, handshake(2, MESSAGE[4:]))],
    "data at once": [HELLO + record(23, JUNK)],
    "plaintext behind it": [HELLO + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
    "warnings": [HELLO + record(21, b"\1\x5a") * 2000],
    "a fatal alert": [HELLO + record(21, b"\2\x28")],
    "goodbye": [HELLO + record(21, b"\1\0")],
    "cipher changes": [HELLO + record(20, b"\1") * 2000],
    "a wrong cipher change": [HELLO + record(20, b"\2")],
    "heartbeat": [HELLO + record(24, b"\1\x40\0")],
    "ssl 2": [b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + rng.randbytes(40)],
    "silence": [HELLO],
    **{f"byte {n} flipped": [HELLO[:n] + bytes([HELLO[n] ^ 0xff]) + HELLO[n + 1:]] for n in range(0, len(HELLO), 8)},
    **{f"noise {n}": [HELLO[:rng.randrange(5, len(HELLO))] + rng.randbytes(rng.randrange(1, 3000))] for n in range(20)},
}


def attempt(pieces):
    """How it ended: True when the server ended it; and whether an application spoke."""
    heard = b""
    try:
        with socket.create_connection((host, port), timeout=LIMIT) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                stream.sendall(piece)
            while chunk := stream.recv(65536):
                heard += chunk
    except TimeoutError:
        return False, answered(heard)
    except OSError:
        pass
    return True, answered(heard)


def answered(heard):
    """An HTTP server's words. Encrypted records of the server's own handshake are no answer."""
    return b"HTTP/" in heard


with concurrent.futures.ThreadPoolExecutor(16) as pool:
    results = dict(zip(attempts, pool.map(attempt, attempts.values())))
print(json.dumps({
    "tried": len(results),
    "ended": sum(ended for ended, _ in results.values()),
    "left": sum(not ended for ended, _ in results.values()),
    "answered": sum(spoke for _, spoke in results.values()),
    "which": [name for name, (ended, spoke) in results.items() if not ended or spoke],
}))

"""Sends WebSocket frames made by hand to an echo and says as JSON what came of each case (RFC 6455, after Autobahn's cases).

usage: ws_cases.py HOST PORT
"""
import base64
import json
import os
import socket
import struct
import sys

TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


def frame(opcode, payload=b"", fin=True, reserved=0, masked=True):
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask_bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mask_bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    key = os.urandom(4)
    keys = (key * (len(payload) // 4 + 1))[:len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return head + key + number.to_bytes(len(payload), "big")


class Connection:
    def __init__(self):
        self.socket = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET / HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
        self.held = b""
        while b"\r\n\r\n" not in self.held:
            self.held += self.more()
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def more(self):
        got = self.socket.recv(262144)
        if not got:
            raise EOFError
        return got

    def take(self, count):
        while len(self.held) < count:
            self.held += self.more()
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def receive(self):
        first, second = self.take(2)
        length = second & 0x7F
        if length == 126:
            length, = struct.unpack("!H", self.take(2))
        elif length == 127:
            length, = struct.unpack("!Q", self.take(8))
        return first & 0x0F, bool(first & 0x80), self.take(length)

    def message(self):
        """The next one as (opcode, payload), fragments joined."""
        opcode, fin, payload = self.receive()
        while not fin:
            _, fin, rest = self.receive()
            payload += rest
        return opcode, payload

    def all(self, got):
        """Adds to `got` what comes until the close; says whether TCP was closed after it."""
        while not got or got[-1][0] != CLOSE:
            got.append(self.message())
        try:
            while True:
                self.more()
        except EOFError:
            return True
        except OSError as error:
            return f"{error}"


def code(number, reason=b""):
    return struct.pack("!H", number) + reason


cases = {}


def expect(name, sent, answers, pieces=None):
    """A case: what is sent, a frame each or bytes in pieces, then what comes back. A failure is its close code alone."""
    assert name not in cases, name
    cases[name] = (sent, answers, pieces)


BYE, BYE_TOO = frame(CLOSE, code(1000)), (CLOSE, code(1000))
for kind, opcode in [("text", TEXT), ("binary", BINARY)]:
    for size in [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20]:
        expect(f"1 {kind} of {size} bytes", [frame(opcode, b"*" * size), BYE], [(opcode, b"*" * size), BYE_TOO])
    expect(f"1 {kind} of 65536 bytes in writes of 997", [frame(opcode, b"*" * 65536), BYE], [(opcode, b"*" * 65536), BYE_TOO], 997)
for size in [0, 1, 125]:
    expect(f"2 ping of {size} bytes", [frame(PING, b"\xfe" * size), BYE], [(PONG, b"\xfe" * size), BYE_TOO])
expect("2 ping of 126 bytes", [frame(PING, b"a" * 126)], 1002)
expect("2 ping in writes of one byte", [frame(PING, b"hello"), BYE], [(PONG, b"hello"), BYE_TOO], 1)
expect("2 pong that nobody asked for", [frame(PONG, b"x"), BYE], [BYE_TOO])
expect("2 ten pings", [frame(PING, b"%d" % n) for n in range(10)] + [BYE], [(PONG, b"%d" % n) for n in range(10)] + [BYE_TOO])
for bits in range(1, 8):
    expect(f"3 reserved bits {bits}", [frame(TEXT, b"x", reserved=bits)], 1002)
for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]:
    expect(f"4 reserved opcode {opcode}", [frame(opcode, b"x")], 1002)
expect("5 text in two frames", [frame(TEXT, b"a", fin=False), frame(MORE, b"b"), BYE], [(TEXT, b"ab"), BYE_TOO])
expect("5 text in a hundred frames", [frame(TEXT, b"a", fin=False)] + [frame(MORE, b"b", fin=False)] * 98 + [frame(MORE, b"c"), BYE],
       [(TEXT, b"a" + b"b" * 98 + b"c"), BYE_TOO])
expect("5 text in two frames, byte by byte", [frame(TEXT, b"a", fin=False), frame(MORE, b"b"), BYE], [(TEXT, b"ab"), BYE_TOO], 1)
expect("5 ping between frames", [frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(MORE, b"b"), BYE],
       [(PONG, b"p"), (TEXT, b"ab"), BYE_TOO])
expect("5 ping in two frames", [frame(PING, b"a", fin=False), frame(MORE, b"b")], 1002)
expect("5 pong in two frames", [frame(PONG, b"a", fin=False), frame(MORE, b"b")], 1002)
expect("5 a last frame without a first", [frame(MORE, b"a")], 1002)
expect("5 a middle frame without a first", [frame(MORE, b"a", fin=False)], 1002)
expect("5 a first frame twice", [frame(TEXT, b"a", fin=False), frame(TEXT, b"b")], 1002)
expect("5 empty frames", [frame(TEXT, b"", fin=False), frame(MORE, b"", fin=False), frame(MORE, b""), BYE], [(TEXT, b""), BYE_TOO])
for text in ["κόσμε", "世界", "\U0001f600", "\x00", "\x7f"]:
    expect(f"6 text {text.encode().hex()}", [frame(TEXT, text.encode()), BYE], [(TEXT, text.encode()), BYE_TOO])
expect("6 a character in two frames", [frame(TEXT, b"\xce", fin=False), frame(MORE, b"\xba"), BYE], [(TEXT, "κ".encode()), BYE_TOO])
for wrong in ["80", "c0af", "eda080", "f4908080", "fe", "ff", "ce", "e28228", "f8a1a1a1a1"]:
    expect(f"6 no text: {wrong}", [frame(TEXT, bytes.fromhex(wrong))], 1007)
expect("7 a close without a code", [frame(CLOSE)], [(CLOSE, b"")])
expect("7 a close with half a code", [frame(CLOSE, b"\x03")], 1002)
expect("7 a message after a close", [BYE, frame(TEXT, b"x")], [BYE_TOO])
expect("7 two closes", [BYE, BYE], [BYE_TOO])
expect("7 a reason of 123 bytes", [frame(CLOSE, code(1000, b"a" * 123))], [(CLOSE, code(1000, b"a" * 123))])
expect("7 a reason of 124 bytes", [frame(CLOSE, code(1000, b"a" * 124))], 1002)
expect("7 a reason that is no text", [frame(CLOSE, code(1000, b"\xff"))], 1007)
for good in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]:
    expect(f"7 close code {good}", [frame(CLOSE, code(good))], [(CLOSE, code(good))])
for wrong in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]:
    expect(f"7 wrong close code {wrong}", [frame(CLOSE, code(wrong))], 1002)
expect("7 a frame without a mask", [frame(TEXT, b"x", masked=False)], 1002)


def attempt(sent, answers, pieces):
    connection, got = Connection(), []
    # An echo that reads the close first owes no answer to what came before it.
    says_bye = sent[-1] is BYE and len(sent) > 1 and sent[0] is not BYE
    with connection.socket as stream:
        data = b"".join(sent[:-1] if says_bye else sent)
        try:
            if pieces:
                for start in range(0, len(data), pieces):
                    stream.sendall(data[start:start + pieces])
            else:
                stream.sendall(data)
            if says_bye:
                while len(got) < len(answers) - 1:
                    got.append(connection.message())
                stream.sendall(BYE)
        except OSError:
            pass  # Closed before all was taken: what came back is what counts.
        ended = connection.all(got)
    if isinstance(answers, int):
        is_right = len(got) == 1 and got[0][0] == CLOSE and got[0][1][:2] == code(answers)
    else:
        is_right = got == answers
    if not is_right:
        return f"got {str(got)[:200]} instead of {str(answers)[:200]}"
    return None if ended is True else f"the connection did not end well: {ended}"


outcomes = []
for name, case in cases.items():
    try:
        why = attempt(*case)
    except Exception as error:  # Whatever it is, it is the case's failure.
        why = f"{type(error).__name__}: {error}"
    outcomes.append({"name": name, "failure": why})
print(json.dumps(outcomes))

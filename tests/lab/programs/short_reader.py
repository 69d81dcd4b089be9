"""A peer that reads as event loops do that are woken by edges: it takes a read that does not fill its buffer for the end of
what is there, and waits for the next edge. It never blocks in a read.

short_reader.py serve PORT          serves one connection after the other
short_reader.py dial HOST PORT WORDS...
    echo N         sends a small message and waits for it to come back, N times
    bulk N         N bytes each way, small messages to a reader that falls far behind; both ends compare
    half-close     says that it is done, and gets an answer after that
    reset          resets the connection; the server says on the next one how it ended
    stay           as echo 200, says so, and then waits for the end of the connection
"""

import hashlib
import select
import socket
import struct
import sys
import time

SIZE = 65536
MESSAGE = 64
PIECE = 3000
PATIENCE_S = 30


class Peer:
    def __init__(self, sock):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.epoll = select.epoll()
        self.epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
        self.readable = self.writable = True
        self.ended = False
        self.held = bytearray()

    def wait(self):
        events = self.epoll.poll(PATIENCE_S)
        if not events:
            raise SystemExit('nothing comes any more')
        for _, event in events:
            self.ended |= bool(event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR))
            self.readable |= self.ended or bool(event & select.EPOLLIN)
            self.writable |= bool(event & (select.EPOLLOUT | select.EPOLLERR))

    def read(self):
        while True:
            while not self.readable:
                self.wait()
            try:
                data = self.sock.recv(SIZE)
            except BlockingIOError:
                self.readable = False
                continue
            if len(data) < SIZE and not self.ended:
                self.readable = False
            return data

    def exactly(self, size):
        while len(self.held) < size:
            data = self.read()
            if not data:
                raise SystemExit('it ended after %d of %d bytes' % (len(self.held), size))
            self.held += data
        data, self.held = bytes(self.held[:size]), self.held[size:]
        return data

    def send(self, data):
        data = memoryview(data)
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                self.writable = False
                while not self.writable:
                    self.wait()

    def echo(self, times):
        for i in range(times):
            message = str(i).encode().ljust(MESSAGE)
            self.send(message)
            if self.exactly(MESSAGE) != message:
                raise SystemExit('another message came back')

    def send_pieces(self, total):
        """Small messages, the SHA-256 of which is returned."""
        digest = hashlib.sha256()
        block = hashlib.sha256(b'seed').digest() * 4096
        sent = 0
        while sent < total:
            at = sent % (len(block) - PIECE)
            piece = block[at:at + min(PIECE, total - sent)]
            digest.update(piece)
            self.send(piece)
            sent += len(piece)
        return digest.hexdigest().encode()

    def read_late(self, total):
        """As many bytes, with pauses in which as much comes as there is room for."""
        digest = hashlib.sha256(self.held)
        got, self.held, rest_at = len(self.held), bytearray(), 0
        while got < total:
            if got >= rest_at:
                time.sleep(0.25)
                rest_at = got + total // 6
            data = self.read()
            if not data:
                raise SystemExit('it ended after %d of %d bytes' % (got, total))
            digest.update(data)
            got += len(data)
        return digest.hexdigest().encode()


def serve(port):
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('::', port))
    listener.listen(16)
    print('ready', flush=True)
    last = b'none'
    while True:
        peer = Peer(listener.accept()[0])
        try:
            last = answer(peer, last)
        except OSError as error:
            last = type(error).__name__.encode()
        except SystemExit as error:
            last = str(error).encode()
        peer.sock.close()


def answer(peer, last):
    """Does what the first message says; how the connection ended."""
    word, _, size = peer.exactly(MESSAGE).decode().strip(' (').partition(' ')
    if word == 'last':
        peer.send(last.ljust(MESSAGE))
        return last
    while True:
        message = peer.exactly(MESSAGE)
        if message.strip() != b'now':
            peer.send(message)
            continue
        if word == 'bulk':
            peer.send(peer.read_late(int(size)))
            peer.send_pieces(int(size))
        elif word == 'half-close':
            count = len(peer.held)
            while data := peer.read():
                count += len(data)
            peer.send(str(count).encode().ljust(MESSAGE))
            return b'served'
        elif peer.read() == b'':
            return b'its end came'


def dial(host, port, word, size=0):
    peer = Peer(socket.create_connection((host, port), 10))
    # No method of HTTP begins like that: it is opaque at once.
    peer.send(('(%s %d' % (word, size)).encode().ljust(MESSAGE))
    # Both ends have shown how they read, and what follows is spliced where it may be.
    peer.echo(size if word == 'echo' else 200)
    now = b'now'.ljust(MESSAGE)
    if word == 'bulk':
        peer.send(now)
        wanted = peer.send_pieces(size)
        if peer.exactly(len(wanted)) != wanted or peer.read_late(size) != wanted:
            raise SystemExit('other bytes came than were sent')
    elif word == 'half-close':
        peer.send(now)
        peer.send(bytes(5000))
        peer.sock.shutdown(socket.SHUT_WR)
        if peer.exactly(MESSAGE).strip() != b'5000' or peer.read() != b'':
            raise SystemExit('another answer came')
    elif word == 'reset':
        peer.send(now)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    elif word == 'stay':
        print('spliced', flush=True)
        try:
            peer.read()
        except ConnectionResetError:
            pass
    peer.sock.close()
    if word == 'reset':
        peer = Peer(socket.create_connection((host, port), 10))
        peer.send(b'(last'.ljust(MESSAGE))
        said = peer.exactly(MESSAGE).strip()
        if said != b'ConnectionResetError':
            raise SystemExit('the server saw %s' % said.decode())
    print('whole', flush=True)


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        serve(int(sys.argv[2]))
    else:
        dial(sys.argv[2], int(sys.argv[3]), sys.argv[4], *map(int, sys.argv[5:]))

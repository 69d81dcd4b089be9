"""Clients that stand still: each asks for more than anybody holds and reads no further than the head of the answer, or sends to a
server that reads nothing. Says "standing" when all of them do, and stays until it is ended.

usage: slow_readers.py h1|h2 HOST PORT PATH COUNT     COUNT connections; h2: COUNT streams, 100 a connection, with the largest windows
       slow_readers.py upload HOST PORT COUNT         COUNT uploads over HTTP/1.1 without an end
       slow_readers.py deaf PORT                      a server that reads the head of each request, and no more
"""
import selectors
import signal
import socket
import sys


def connect(host, port):
    return socket.create_connection((host, int(port)), timeout=30)


def ask(host, port, path):
    wire = connect(host, port)
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = wire.recv(64)
    assert head.startswith(b"HTTP/1.1 200 "), head
    return wire


def ask_2(host, port, path, count):
    import h2.config
    import h2.connection
    import h2.events
    from h2.settings import SettingCodes

    wire = connect(host, port)
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    http.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = 2**31 - 1
    http.initiate_connection()
    http.increment_flow_control_window(2**31 - 1 - 65535)
    for number in range(count):
        head = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]
        http.send_headers(1 + 2 * number, head, end_stream=True)
    wire.sendall(http.data_to_send())
    answered = set()
    while len(answered) < count:
        for event in http.receive_data(wire.recv(16384)):
            if isinstance(event, h2.events.ResponseReceived):
                assert dict(event.headers)[":status"] == "200", event
                answered.add(event.stream_id)
        # Nothing is acknowledged: a window that is used up stays so.
        wire.sendall(http.data_to_send())
    return wire


def upload(host, port, count):
    """As much as each connection takes, until none takes anything for two seconds."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        wire = connect(host, port)
        wire.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        wire.setblocking(False)
        selector.register(wire, selectors.EVENT_WRITE)
    piece = bytes(65536)
    while ready := selector.select(2):
        for key, _ in ready:
            try:
                key.fileobj.send(piece)
            except BlockingIOError:
                pass
    return selector


def deaf(port):
    server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    held = []
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held.append(connection)


what, *rest = sys.argv[1:]
if what == "deaf":
    deaf(*rest)
elif what == "upload":
    held = upload(rest[0], rest[1], int(rest[2]))
elif what == "h1":
    held = [ask(*rest[:3]) for _ in range(int(rest[3]))]
else:
    held = [ask_2(*rest[:3], 100) for _ in range(int(rest[3]) // 100)]
print("standing", flush=True)
signal.pause()

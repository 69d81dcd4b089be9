"""Opens WebSockets by extended CONNECT (RFC 8441) on one HTTP/2 connection, with h2 and wsproto, and says as JSON what came back.

usage: ws_h2_client.py HOST PORT SOCKETS
"""
import json
import socket
import sys

import h2.config
import h2.connection
import h2.events
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

host, port, sockets = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
wire = socket.create_connection((host, port), timeout=10)
http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
http.initiate_connection()
wire.sendall(http.data_to_send())

heads, data, ended, reset, unsent = {}, {}, set(), {}, {}


def turn():
    """Reads once, and sends what waits for room."""
    got = wire.recv(65536)
    if not got:
        raise EOFError
    for event in http.receive_data(got):
        stream = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.ResponseReceived):
            heads[stream] = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            data[stream] = data.get(stream, b"") + event.data
            http.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(stream)
        elif isinstance(event, h2.events.StreamReset):
            reset[stream] = event.error_code
            ended.add(stream)
    for stream in list(unsent):
        send(stream, b"")
    wire.sendall(http.data_to_send())


def send(stream, more):
    rest = unsent.pop(stream, b"") + more
    while rest:
        room = min(http.local_flow_control_window(stream), http.max_outbound_frame_size, len(rest))
        if room == 0:
            unsent[stream] = rest
            break
        http.send_data(stream, rest[:room])
        rest = rest[room:]
    wire.sendall(http.data_to_send())


# RFC 8441 section 3: not before the server says that it takes it.
while not http.remote_settings.enable_connect_protocol:
    turn()


def connect(path, protocol="websocket"):
    stream = http.get_next_available_stream_id()
    http.send_headers(stream, [
        (":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":path", path),
        (":authority", host), ("sec-websocket-version", "13"),
    ])
    wire.sendall(http.data_to_send())
    return stream


streams = [connect("/chat") for _ in range(sockets)]
while not all(stream in heads for stream in streams):
    turn()
frames = {stream: Connection(ConnectionType.CLIENT) for stream in streams}
binary = bytes(range(256)) * 4096
for stream in streams:
    send(stream, frames[stream].send(TextMessage(data=f"hello {stream}")))
    send(stream, frames[stream].send(BytesMessage(data=binary)))

texts, intact, closed = {}, set(), set()
parts = {stream: b"" for stream in streams}
while len(closed) < len(streams):
    for stream in set(streams) - closed:
        frames[stream].receive_data(data.pop(stream, b""))
        for event in frames[stream].events():
            if isinstance(event, TextMessage):
                texts[stream] = texts.get(stream, "") + event.data
            elif isinstance(event, BytesMessage):
                parts[stream] += event.data
                if event.message_finished:
                    if parts[stream] == binary:
                        intact.add(stream)
                    send(stream, frames[stream].send(CloseConnection(code=1000)))
            elif isinstance(event, CloseConnection):
                closed.add(stream)
    if len(closed) < len(streams):
        turn()
for stream in set(streams) - set(reset):
    http.end_stream(stream)
wire.sendall(http.data_to_send())
while not all(stream in ended for stream in streams):
    turn()

other = connect("/chat", "connect-udp")
refused = connect("/refused")
while other not in heads or refused not in heads:
    turn()
print(json.dumps({
    "statuses": sorted({heads[stream][":status"] for stream in streams}),
    "leftovers": sorted({name for stream in streams for name in heads[stream]} & {"upgrade", "connection", "sec-websocket-accept"}),
    "texts": sorted({text.rsplit(" ", 1)[0] for text in texts.values()}),
    "echoed": sum(texts[stream].endswith(f" {stream}") for stream in texts),
    "intact": len(intact),
    # What is whole may be reset with NO_ERROR.
    "resets": sorted(set(map(int, reset.values())) - {0}),
    "other": heads[other][":status"],
    "refused": heads[refused][":status"],
}))

"""A TCP server that does what the first line of a connection asks for. Knows nothing of any mesh.

usage: tcp_server.py [--mptcp] PORT

  who           answers with a line of JSON: the ends of the connection, as accept, getpeername and getsockname say
  echo          answers "ready", then with what it is sent, until the client is done; then "bye"
  sink          reads until the client is done; answers with a line of JSON: how many bytes, and their SHA-256
  source N      sends N bytes of a pattern and is done
  reset         resets the connection
  meet N        answers as who does, once N connections have asked for it
  hush NAME     answers "hush", is done sending, reads on and remembers under NAME how many bytes came
  watch NAME    answers "ready", reads on and remembers under NAME how the connection ended: "FIN" or an error
  ended NAME    answers with what is remembered under NAME, once there is something
"""
import asyncio
import errno
import hashlib
import json
import os
import resource
import socket
import struct
import sys

IPPROTO_MPTCP = 262
BLOCK = bytes(range(256)) * 256
endings = {}
here, meeting = [], asyncio.Condition()


def plain(address):
    return [address[0].removeprefix("::ffff:"), address[1]]


def ending(name):
    return endings.setdefault(name, asyncio.get_running_loop().create_future())


async def who(reader, writer):
    own = writer.get_extra_info("socket")
    writer.write(json.dumps({
        "pod": os.environ.get("POD_NAME"),
        "accept": plain(writer.get_extra_info("peername")),
        "getpeername": plain(own.getpeername()),
        "getsockname": plain(own.getsockname()),
    }).encode() + b"\n")


async def meet(reader, writer, count):
    async with meeting:
        here.append(writer)
        meeting.notify_all()
        await meeting.wait_for(lambda: len(here) % int(count) == 0)
    await who(reader, writer)


async def hush(reader, writer, name):
    writer.write(b"hush\n")
    writer.write_eof()
    count = 0
    while chunk := await reader.read(65536):
        count += len(chunk)
    ending(name).set_result(str(count))


async def echo(reader, writer):
    writer.write(b"ready\n")
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.write(b"bye\n")


async def sink(reader, writer):
    count, digest = 0, hashlib.sha256()
    while chunk := await reader.read(1 << 20):
        count += len(chunk)
        digest.update(chunk)
    writer.write(json.dumps({"bytes": count, "sha256": digest.hexdigest()}).encode() + b"\n")


async def source(reader, writer, count):
    left = int(count)
    while left:
        writer.write(BLOCK[:min(left, len(BLOCK))])
        left -= min(left, len(BLOCK))
        await writer.drain()


async def reset(reader, writer):
    # Closing with a linger of zero sends RST.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def watch(reader, writer, name):
    writer.write(b"ready\n")
    try:
        while await reader.read(65536):
            pass
        ending(name).set_result("FIN")
    except OSError as error:
        ending(name).set_result(errno.errorcode[error.errno])


async def ended(reader, writer, name):
    writer.write((await ending(name)).encode() + b"\n")


async def serve(reader, writer):
    try:
        command, *arguments = (await reader.readline()).decode().split() or ["nothing"]
        if command != "nothing":
            await COMMANDS[command](reader, writer, *arguments)
        await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    protocol = IPPROTO_MPTCP if "--mptcp" in sys.argv else 0
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", int(sys.argv[-1])))
    server = await asyncio.start_server(serve, sock=listener, backlog=4096, limit=1 << 20)
    await server.serve_forever()


COMMANDS = {
    "who": who, "meet": meet, "hush": hush, "echo": echo, "sink": sink, "source": source, "reset": reset, "watch": watch, "ended": ended,
}
_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
asyncio.run(main())

"""A WebSocket echo that adds nothing, without compression.

usage: ws_echo.py PORT
"""
import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(echo, None, int(sys.argv[1]), compression=None, max_size=None, ping_interval=None):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())

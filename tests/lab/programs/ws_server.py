"""A WebSocket echo.

usage: ws_server.py PORT
"""
import asyncio
import os
import sys

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        if isinstance(message, str):
            message = f"{os.environ['POD_NAME']}: {message}"
        await connection.send(message)


async def main():
    async with serve(echo, None, int(sys.argv[1])) as server:
        await server.serve_forever()


asyncio.run(main())

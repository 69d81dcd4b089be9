"""A WebSocket echo by Hypercorn, which takes extended CONNECT over HTTP/2 (RFC 8441), says which version it was asked in, and
closes after the first binary message.

usage: ws_h2_server.py PORT
"""
import asyncio
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["type"] != "websocket":
        raise ValueError(f"{scope['type']} is not served")
    while True:
        event = await receive()
        if event["type"] == "websocket.connect":
            if scope["path"] == "/refused":
                return await send({"type": "websocket.close"})
            await send({"type": "websocket.accept"})
        elif event["type"] == "websocket.disconnect":
            return
        elif event.get("text") is not None:
            await send({"type": "websocket.send", "text": f"{scope['http_version']}: {event['text']}"})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
            # Hypercorn ends a stream only where it closes first.
            return await send({"type": "websocket.close"})


config = Config()
config.bind = [f"[::]:{sys.argv[1]}"]
config.websocket_max_message_size = 16 << 20
asyncio.run(serve(app, config))

"""An ASGI app that does not know about reberth. It answers with its name, and with "ok" on /health."""

import os
import socket

NAME = os.environ.get("INSTANCE") or socket.gethostname()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    body = b"ok" if scope["path"] == "/health" else NAME.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

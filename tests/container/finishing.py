"""The app of app.py with a server that finishes what it has accepted: what docs/rollout.md shows for uvicorn."""

import asyncio
import os

import uvicorn

from app import app


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            for listener in server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
        await asyncio.sleep(0.5)
        await super().shutdown(sockets)


Server(uvicorn.Config(app, host="0.0.0.0", port=int(os.environ["PORT"]))).run()

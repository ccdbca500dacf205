"""A WSGI app that knows nothing of reberth: it answers with its own name, and says on /health that it is well."""

import os
import socket

NAME = os.environ.get("INSTANCE") or socket.gethostname()


def app(environ, start_response):
    body = b"ok" if environ["PATH_INFO"] == "/health" else NAME.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

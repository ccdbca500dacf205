"""A WSGI app that does not know about reberth. It answers with its name, and with "ok" on /health."""

import os
import socket

NAME = os.environ.get("INSTANCE") or socket.gethostname()


def app(environ, start_response):
    body = b"ok" if environ["PATH_INFO"] == "/health" else NAME.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

"""The guestbook's web tier: shows the entries that the data tier keeps, and takes new ones."""

from __future__ import annotations

import html
import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DATA = os.environ.get("DATA_URL", "http://guestbook-data:8080")
TOKEN = os.environ["DATA_TOKEN"]
SETTINGS = Path(os.environ.get("SETTINGS_DIRECTORY", "/etc/guestbook"))
LONGEST_FORM = 16 * 1024

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui; max-width: 40rem; margin: 3rem auto; border-top: 6px solid {color};
padding: 1rem }} li {{ margin: .3rem 0 }} footer {{ color: #777; margin-top: 2rem }}</style>
<h1>{title}</h1>
<form method="post"><input name="text" maxlength="200" required autofocus> <button>Sign</button></form>
<ul>{entries}</ul>
<footer>Served by pod {pod}.</footer>
"""


def setting(name: str, default: str) -> str:
    """From the mounted ConfigMap, read each time: an edit shows without a restart."""
    try:
        return (SETTINGS / name).read_text().strip()
    except OSError:
        return default


def call_data(method: str, body: bytes | None = None) -> list[str]:
    request = urllib.request.Request(f"{DATA}/entries", data=body, method=method)
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=5) as answer:
        entries = json.load(answer)["entries"]
    return [str(entry) for entry in entries]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(HTTPStatus.OK, b"ok\n", "text/plain")
        elif self.path == "/":
            self.page("GET")
        else:
            self.answer(HTTPStatus.NOT_FOUND, b"there is only /\n", "text/plain")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_FORM:
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"too long\n", "text/plain")
            return
        form = urllib.parse.parse_qs(self.rfile.read(length).decode("utf-8", "replace"))
        self.page("POST", json.dumps({"text": form.get("text", [""])[0][:200]}).encode())

    def page(self, method: str, body: bytes | None = None) -> None:
        try:
            entries = call_data(method, body)
        except (OSError, urllib.error.URLError, ValueError) as error:
            text = f"the data tier does not answer: {error}\n".encode()
            self.answer(HTTPStatus.BAD_GATEWAY, text, "text/plain")
            return
        listed = "".join(f"<li>{html.escape(entry)}</li>" for entry in entries)
        page = PAGE.format(
            title=html.escape(setting("title", "Guestbook")),
            color=html.escape(setting("color", "#326ce5")),
            entries=listed,
            pod=html.escape(socket.gethostname()),
        )
        self.answer(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")

    def answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    server = ThreadingHTTPServer(("", 8080), Handler)
    server.daemon_threads = True
    # shutdown() waits for serve_forever, which this very thread runs: another thread must call it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()

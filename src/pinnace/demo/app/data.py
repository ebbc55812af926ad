"""The guestbook's data tier: keeps the entries in a file, for those who know the token."""

from __future__ import annotations

import hmac
import json
import os
import signal
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = os.environ["DATA_TOKEN"]
FILE = Path(os.environ.get("DATA_FILE", "/data/entries.json"))
MOST_ENTRIES = 1000
LONGEST_BODY = 16 * 1024

lock = threading.Lock()


def load() -> list[str]:
    try:
        entries = json.loads(FILE.read_text())
    except FileNotFoundError:
        return []
    return [str(entry) for entry in entries]


def add(text: str) -> list[str]:
    with lock:
        entries = [*load(), text][-MOST_ENTRIES:]
        temporary = FILE.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries))
        temporary.replace(FILE)
        return entries


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(HTTPStatus.OK, {"status": "ok"})
        elif self.allowed():
            self.answer(HTTPStatus.OK, {"entries": load()})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_BODY:
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too long"})
            return
        body = self.rfile.read(length)
        if not self.allowed():
            return
        try:
            text = str(json.loads(body)["text"]).strip()
        except (ValueError, KeyError, TypeError):
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "send an object with a text"})
            return
        self.answer(HTTPStatus.OK, {"entries": add(text) if text else load()})

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {TOKEN}".encode()):
            return True
        self.answer(HTTPStatus.UNAUTHORIZED, {"error": "the token is wrong"})
        return False

    def answer(self, status: HTTPStatus, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
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

"""How far a starting cluster has come: written by the server process, read by `pinnace up` and `status`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pinnace.cluster.files import write_secret


class Progress(msgspec.Struct, kw_only=True):
    """`seconds` after the start for each step that is done; `error` ends the wait."""

    steps: dict[str, float] = {}
    ready: bool = False
    error: str = ""
    server: str = ""          # the API server's URL

    def write(self, path: Path) -> None:
        write_secret(path, msgspec.json.encode(self), durable=False)


def read(path: Path) -> Progress | None:
    """None if there is nothing yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except (FileNotFoundError, msgspec.DecodeError):
        return None

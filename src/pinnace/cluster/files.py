"""Files that only their owner reads, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_secret(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the file's content (0600). `durable`: on the disk when this returns, as what cannot be made again must
    be; waiting for the disk is what a start has no time for."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)

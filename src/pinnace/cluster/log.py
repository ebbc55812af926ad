"""Logging of our processes: one line an entry, with a UTC time, to standard error."""

from __future__ import annotations

import logging
import time


def setup() -> None:
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # One line a request would drown the rest.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)

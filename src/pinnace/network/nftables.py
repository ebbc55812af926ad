"""nftables through libnftables: one transaction a change, in a thread of its own.

Pod network, service proxy and fabric hand whole transactions here as nft's own text. libnftables sends a
buffer as one atomic batch: either everything in it comes into force or nothing. Its context is bound to the
network namespace of the thread that made it and may be used by one thread at a time, hence the thread; running
the `nft` program instead would cost some 20 ms a call.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pinnace.network.namespaces import enter

_OUTPUT_JSON, _OUTPUT_NUMERIC_PROTO = 1 << 4, 1 << 8
_NAMES = ("libnftables.so.1", "libnftables.so")


class NftablesError(Exception):
    """nft refused a transaction; the message is nft's own, with the line that it points at."""


class NftablesMissing(NftablesError):
    """There is no libnftables on this machine."""


class Nftables:
    """Runs nft commands in one network namespace (`netns`: its path; None: the process' own)."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")
        self._library: ctypes.CDLL | None = None
        self._context: int | None = None

    async def run(self, commands: str) -> str:
        """Apply commands as one transaction; returns what nft printed (text). Raises NftablesError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, commands, 0)

    async def query(self, commands: str) -> list[dict[str, Any]]:
        """The objects that `list …` commands give, as nft's JSON describes them."""
        printed = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._run, commands, _OUTPUT_JSON | _OUTPUT_NUMERIC_PROTO
        )
        found: list[dict[str, Any]] = json.loads(printed)["nftables"] if printed else []
        return found

    def run_now(self, commands: str) -> str:
        """As `run`, for callers that are not on an event loop."""
        return self._thread.submit(self._run, commands, 0).result()

    def close(self) -> None:
        """Free the context. What was applied stays in force."""
        self._thread.submit(self._free).result()
        self._thread.shutdown()

    def _run(self, commands: str, output: int) -> str:
        library, context = self._open()
        library.nft_ctx_output_set_flags(context, output)
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        printed: bytes = library.nft_ctx_get_output_buffer(context) or b""
        errors: bytes = library.nft_ctx_get_error_buffer(context) or b""
        if failed:
            raise NftablesError(errors.decode(errors="replace").strip()[:4000] or "nft failed without a word")
        return printed.decode(errors="replace")

    def _open(self) -> tuple[ctypes.CDLL, int]:
        if self._library is None or self._context is None:
            if self._netns is not None:
                enter(self._netns)
            self._library = _load()
            self._context = self._library.nft_ctx_new(0)
            if not self._context:
                raise NftablesError("nftables is not available in this kernel")
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)
        return self._library, self._context

    def _free(self) -> None:
        if self._library is not None and self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _load() -> ctypes.CDLL:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer = ctypes.c_void_p
        library.nft_ctx_new.restype = pointer
        library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
        for function in (library.nft_ctx_free, library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
            function.argtypes = (pointer,)
        library.nft_ctx_output_set_flags.argtypes = (pointer, ctypes.c_uint)
        library.nft_ctx_output_set_flags.restype = None
        library.nft_run_cmd_from_buffer.argtypes = (pointer, ctypes.c_char_p)
        for function in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            function.argtypes = (pointer,)
            function.restype = ctypes.c_char_p
        return library
    raise NftablesMissing("libnftables is not installed (Debian: apt install libnftables1)")

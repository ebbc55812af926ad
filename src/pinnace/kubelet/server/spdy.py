"""SPDY/3.1, as far as Kubernetes uses it: streams with headers and data inside one connection.

kubectl speaks it inside a WebSocket for port-forward (KEP-4006). Neither flow control nor push nor settings are used
there. `Framer` turns bytes into frames and back; `Session` keeps the streams.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

MAX_FRAME = 1 << 20            # bytes of one frame that we accept; kubectl sends 32 KiB
MAX_HEADERS = 64 << 10         # bytes of a header block after decompression
MAX_STREAMS = 1000
QUEUE = 64                     # chunks waiting in a stream before the connection is read no further

_WORDS = (
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection",
    "content-base", "content-encoding", "content-language", "content-length", "content-location", "content-md5",
    "content-range", "content-type", "date", "etag", "expect", "expires", "from", "host", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location",
    "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after",
    "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie",
    "keep-alive", "origin",
)  # fmt: skip
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
# The preset dictionary that the protocol prescribes (its Adler-32 is e3c6a7c2).
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.encode() for word in _WORDS) + _REST.encode()


class SpdyError(Exception):
    """The peer broke the protocol."""


@dataclass(frozen=True, slots=True)
class SynStream:
    stream: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    stream: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    stream: int
    status: int = 5            # CANCEL


@dataclass(frozen=True, slots=True)
class Ping:
    id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    last: int
    status: int = 0


Frame = SynStream | SynReply | Data | Reset | Ping | GoAway


class Framer:
    """Both directions of one connection: headers are compressed with a state that spans it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises SpdyError."""
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) >= 8:
            length = int.from_bytes(self._buffer[5:8])
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes is too long")
            if len(self._buffer) < 8 + length:
                break
            head, body = bytes(self._buffer[:8]), bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            frame = self._decode(head, body)
            if frame is not None:
                frames.append(frame)
        return frames

    def _decode(self, head: bytes, body: bytes) -> Frame | None:
        first, flags = int.from_bytes(head[:4]), head[4]
        fin = bool(flags & 1)
        if not first & 0x80000000:
            return Data(first, body, fin)
        if first >> 16 & 0x7FFF != 3:
            raise SpdyError(f"SPDY version {first >> 16 & 0x7FFF} is not spoken here")
        try:
            match first & 0xFFFF:
                case 1:
                    return SynStream(_id(body, 0), self._headers(body[10:]), fin)
                case 2:
                    return SynReply(_id(body, 0), self._headers(body[4:]), fin)
                case 3:
                    return Reset(_id(body, 0), _id(body, 4))
                case 6:
                    return Ping(_id(body, 0))
                case 7:
                    return GoAway(_id(body, 0), _id(body, 4) if len(body) >= 8 else 0)
                case 8:
                    self._headers(body[4:])    # keeps the compression in step; nobody uses its content
                    return None
                case _:
                    return None                # settings, window updates, credentials: of no use here
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"malformed frame: {error}") from error

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, MAX_HEADERS)
        if self._inflate.unconsumed_tail:
            raise SpdyError("the headers are too long")
        (count,) = struct.unpack_from(">I", plain, 0)
        at, headers = 4, {}
        for _ in range(min(count, 1000)):
            name, at = _string(plain, at)
            value, at = _string(plain, at)
            headers[name.lower()] = value
        return headers

    def _block(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.encode(), value.encode()):
                plain += struct.pack(">I", len(text)) + text
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def encode(self, frame: Frame) -> bytes:
        match frame:
            case Data(stream, data, fin):
                return struct.pack(">II", stream, int(fin) << 24 | len(data)) + data
            case SynStream(stream, headers, fin):
                return _control(1, fin, struct.pack(">IIH", stream, 0, 0) + self._block(headers))
            case SynReply(stream, headers, fin):
                return _control(2, fin, struct.pack(">I", stream) + self._block(headers))
            case Reset(stream, status):
                return _control(3, False, struct.pack(">II", stream, status))
            case Ping(id):
                return _control(6, False, struct.pack(">I", id))
            case GoAway(last, status):
                return _control(7, False, struct.pack(">II", last, status))


def _control(kind: int, fin: bool, body: bytes) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, int(fin) << 24 | len(body)) + body


def _id(body: bytes, at: int) -> int:
    (number,) = struct.unpack_from(">I", body, at)
    return int(number) & 0x7FFFFFFF


def _string(plain: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", plain, at)
    end = at + 4 + int(length)
    if end > len(plain):
        raise SpdyError("a header is cut off")
    return plain[at + 4 : end].decode(), end


class Stream:
    """One stream that the peer opened."""

    def __init__(self, session: Session, id: int, headers: Mapping[str, str]) -> None:
        self.id = id
        self.headers = headers
        self._session = session
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        self.closed = False          # our side
        self.ended = False           # the peer's

    async def read(self) -> bytes:
        """The next bytes; b"" when the peer has closed its side."""
        chunk = await self._chunks.get()
        if chunk is None:
            self._chunks.put_nowait(None)
            return b""
        return chunk

    async def write(self, data: bytes) -> None:
        if not self.closed:
            await self._session.send(Data(self.id, data))

    async def close(self) -> None:
        """Close our side."""
        if not self.closed:
            self.closed = True
            await self._session.send(Data(self.id, b"", fin=True))
            self._session.forget(self)

    async def _take(self, data: bytes, fin: bool) -> None:
        if self.ended:
            return
        if data:
            await self._chunks.put(data)
        if fin:
            self.ended = True
            await self._chunks.put(None)
            self._session.forget(self)

    def _abort(self) -> None:
        """The connection or the stream was broken off: what was not read yet is lost."""
        self.closed = self.ended = True
        while self._chunks.full():
            self._chunks.get_nowait()
        self._chunks.put_nowait(None)


class Session:
    """The server's end of a connection. `send_bytes` writes to it; `opened` is called for each stream of the peer."""

    def __init__(
        self, send_bytes: Callable[[bytes], Awaitable[None]], opened: Callable[[Stream], Awaitable[None]]
    ) -> None:
        self._framer = Framer()
        self._send_bytes = send_bytes
        self._opened = opened
        self._streams: dict[int, Stream] = {}
        self._lock = asyncio.Lock()
        self.going_away = False

    async def send(self, frame: Frame) -> None:
        async with self._lock:      # compressed headers must go out in the order in which they were made
            await self._send_bytes(self._framer.encode(frame))

    async def feed(self, data: bytes) -> None:
        """Take in bytes from the peer. Raises SpdyError."""
        for frame in self._framer.feed(data):
            await self._take(frame)

    def forget(self, stream: Stream) -> None:
        if stream.closed and stream.ended:
            self._streams.pop(stream.id, None)

    def close(self) -> None:
        for stream in list(self._streams.values()):
            stream._abort()
        self._streams.clear()

    async def _take(self, frame: Frame) -> None:
        match frame:
            case SynStream(id, headers, fin):
                if id in self._streams or len(self._streams) >= MAX_STREAMS:
                    await self.send(Reset(id, 3))      # REFUSED_STREAM
                    return
                stream = self._streams[id] = Stream(self, id, headers)
                await self.send(SynReply(id))
                if fin:
                    await stream._take(b"", True)
                await self._opened(stream)
            case Data(id, data, fin):
                found = self._streams.get(id)
                if found is not None:
                    await found._take(data, fin)
            case Reset(id, _):
                reset = self._streams.pop(id, None)
                if reset is not None:
                    reset._abort()
            case Ping(id):
                if id % 2:                             # the client's; ours would be even
                    await self.send(Ping(id))
            case GoAway():
                self.going_away = True
            case SynReply():
                raise SpdyError("a reply to a stream that was never opened")

"""DNS messages as bytes (RFC 1035, EDNS0 of RFC 6891).

Two readers: `read_query` takes from a query what the server needs, leaving names in their wire form (a label's length
is below 64, so that lowering the bytes lowers only letters); `decode` takes apart a whole message, for tests and
tools. Neither ever raises on what it is given: None says that it is not DNS. `encode` writes whole messages with
compressed names; the server itself assembles answers from prepared records (`record`).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080

HEADER = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_TWO = struct.Struct("!HH")
_SRV = struct.Struct("!HHH")
_SOA = struct.Struct("!IIIII")
_LONGEST_NAME = 255
_MOST_RECORDS = 512


@dataclass(frozen=True, slots=True)
class Query:
    """`question` is name, type and class as they were sent; `key` the name in lower case, in wire form."""

    id: int
    flags: int
    question: bytes
    key: bytes
    type: int
    klass: int
    edns_size: int      # what the client can take by UDP; 0 without EDNS
    edns_version: int

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 15


@dataclass(frozen=True, slots=True)
class Soa:
    mname: str
    rname: str
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


@dataclass(frozen=True, slots=True)
class Srv:
    priority: int
    weight: int
    port: int
    target: str


Data = str | Soa | Srv | tuple[bytes, ...] | bytes


@dataclass(frozen=True, slots=True)
class Record:
    """`data` by type: an address or a name as text, Soa, Srv, the strings of a TXT, or raw bytes."""

    name: str
    type: int
    ttl: int
    data: Data
    klass: int = IN


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    type: int
    klass: int = IN


@dataclass(frozen=True, slots=True)
class Message:
    id: int
    flags: int
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()

    @property
    def rcode(self) -> int:
        return self.flags & 15


# ------------------------------------------------------------------------------------------------------ names


def to_wire(name: str) -> bytes:
    """A name ("web.default.svc.cluster.local", with or without the last dot) in wire form, case kept.

    Takes plain labels only: no escapes. Raises ValueError for what cannot be a name.
    """
    name = name.removesuffix(".")
    if not name:
        return b"\0"
    labels = [label.encode("ascii", "strict") for label in name.split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"not a DNS name: {name!r}")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > _LONGEST_NAME:
        raise ValueError(f"too long for a DNS name: {name!r}")
    return wire


def from_wire(wire: bytes) -> str:
    """The text of an uncompressed name; bytes that do not print (and dots within labels) as \\DDD."""
    read = _name(wire, 0)
    return read[0] if read is not None else ""


def _label_text(label: bytes) -> str:
    return "".join(chr(c) if 32 < c < 127 and c not in b".\\" else f"\\{c:03d}" for c in label)


def _name(data: bytes, offset: int) -> tuple[str, int] | None:
    """The name at an offset, and where it ends; None if it runs out of bounds, loops or is too long.

    A pointer may only lead to before where the name (or the part that held the last pointer) began.
    """
    labels: list[str] = []
    size, end, limit, start = 1, -1, len(data), offset
    while offset < limit:
        length = data[offset]
        if length == 0:
            return (".".join(labels) + ".", end if end >= 0 else offset + 1)
        if length >= 0xC0:
            if offset + 1 >= limit:
                return None
            target = (length & 0x3F) << 8 | data[offset + 1]
            if end < 0:
                end = offset + 2
            if target >= start:
                return None
            offset = start = target
            continue
        if length > 63 or offset + 1 + length > limit:
            return None
        size += length + 1
        if size > _LONGEST_NAME:
            return None
        labels.append(_label_text(data[offset + 1 : offset + 1 + length]))
        offset += length + 1
    return None


# ---------------------------------------------------------------------------------------------------- queries


def read_query(data: bytes) -> Query | None:
    """What a datagram asks; None if it is no query with exactly one, well-formed question."""
    size = len(data)
    if size < 17:
        return None
    ident, flags, questions, answers, authority, additional = HEADER.unpack_from(data)
    if flags & QR or questions != 1:
        return None
    offset = 12
    while True:
        length = data[offset]
        if length == 0:
            break
        offset += length + 1
        if length > 63 or offset + 5 > size:
            return None
    end = offset + 5
    if end > size or offset - 11 > _LONGEST_NAME:
        return None
    kind, klass = _TWO.unpack_from(data, offset + 1)
    edns = (0, 0)
    if additional or answers or authority:
        found = _find_opt(data, end, answers + authority + additional)
        if found is None:
            return None
        edns = found
    return Query(ident, flags, data[12:end], data[12 : offset + 1].lower(), kind, klass, *edns)


def _find_opt(data: bytes, offset: int, count: int) -> tuple[int, int] | None:
    """Size and version of the OPT record among the records from `offset` on; (0, 0) without one."""
    found = (0, 0)
    if count > _MOST_RECORDS:
        return None
    for _ in range(count):
        while True:
            if offset >= len(data):
                return None
            length = data[offset]
            if length >= 0xC0:
                offset += 2
                break
            if length > 63:
                return None
            offset += length + 1
            if length == 0:
                break
        if offset + 10 > len(data):
            return None
        kind, size, extended, length = _FIXED.unpack_from(data, offset)
        offset += 10 + length
        if offset > len(data):
            return None
        if kind == OPT:
            found = (max(512, size), extended >> 16 & 0xFF)
    return found


def refusal(data: bytes, rcode: int) -> bytes | None:
    """An answer that only says no, to whatever sent these bytes; None if they are not even a query's header."""
    if len(data) < 12 or data[2] & 0x80:
        return None
    ident, flags = _TWO.unpack_from(data)
    return HEADER.pack(ident, QR | RA | flags & (0x7800 | RD) | rcode, 0, 0, 0, 0)


# ------------------------------------------------------------------------------------------------- assembling


def record(owner: bytes, kind: int, ttl: int, rdata: bytes) -> bytes:
    """One record; `owner` is a name in wire form or a pointer to one."""
    return owner + _FIXED.pack(kind, IN, ttl, len(rdata)) + rdata


def rdata(kind: int, data: Data) -> bytes:
    """The data of a record without compression. Raises ValueError for data that is not of this type."""
    return _rdata(kind, data, None, 0)


def _rdata(kind: int, data: Data, offsets: dict[str, int] | None, at: int) -> bytes:
    if kind == A:
        return ipaddress.IPv4Address(data).packed
    if kind == AAAA:
        return ipaddress.IPv6Address(data).packed
    if kind in (NS, CNAME, PTR) and isinstance(data, str):
        return _compressed(data, offsets, at)
    if isinstance(data, Srv):   # its target is never compressed (RFC 2782)
        return _SRV.pack(data.priority, data.weight, data.port) + to_wire(data.target)
    if isinstance(data, Soa):
        mname = _compressed(data.mname, offsets, at)
        rname = _compressed(data.rname, offsets, at + len(mname))
        return mname + rname + _SOA.pack(data.serial, data.refresh, data.retry, data.expire, data.minimum)
    if isinstance(data, tuple):
        return b"".join(bytes((len(part),)) + part for part in data)
    if isinstance(data, bytes):
        return data
    raise ValueError(f"not the data of a record of type {kind}: {data!r}")


def _compressed(name: str, offsets: dict[str, int] | None, at: int) -> bytes:
    """A name in wire form, ending in a pointer where a part of it stands in the message already."""
    if offsets is None:
        return to_wire(name)
    out = b""
    rest = name.removesuffix(".")
    while rest:
        known = offsets.get(rest)
        if known is not None:
            return out + (0xC000 | known).to_bytes(2, "big")
        if at + len(out) < 0x4000:
            offsets[rest] = at + len(out)
        label, _, rest = rest.partition(".")
        out += to_wire(label)[:-1]
    return out + b"\0"


def encode(message: Message) -> bytes:
    """A whole message, names compressed. Raises ValueError for what cannot be written."""
    offsets: dict[str, int] = {}
    out = bytearray(HEADER.pack(
        message.id, message.flags, len(message.questions), len(message.answers), len(message.authority),
        len(message.additional),
    ))
    for question in message.questions:
        out += _compressed(question.name, offsets, len(out)) + _TWO.pack(question.type, question.klass)
    for entry in (*message.answers, *message.authority, *message.additional):
        out += _compressed(entry.name, offsets, len(out))
        data = _rdata(entry.type, entry.data, offsets, len(out) + 10)
        out += _FIXED.pack(entry.type, entry.klass, entry.ttl, len(data)) + data
    return bytes(out)


# --------------------------------------------------------------------------------------------------- decoding


def decode(data: bytes) -> Message | None:
    """A whole message; None for anything that is not one. Bytes after its end are ignored."""
    if len(data) < 12:
        return None
    ident, flags, *counts = HEADER.unpack_from(data)
    if sum(counts) > _MOST_RECORDS:
        return None
    offset = 12
    questions: list[Question] = []
    for _ in range(counts[0]):
        read = _name(data, offset)
        if read is None or read[1] + 4 > len(data):
            return None
        kind, klass = _TWO.unpack_from(data, read[1])
        questions.append(Question(read[0], kind, klass))
        offset = read[1] + 4
    sections: list[tuple[Record, ...]] = []
    for count in counts[1:]:
        records: list[Record] = []
        for _ in range(count):
            found = _record(data, offset)
            if found is None:
                return None
            records.append(found[0])
            offset = found[1]
        sections.append(tuple(records))
    return Message(ident, flags, tuple(questions), *sections)


def _record(data: bytes, offset: int) -> tuple[Record, int] | None:
    read = _name(data, offset)
    if read is None or read[1] + 10 > len(data):
        return None
    name, offset = read
    kind, klass, ttl, length = _FIXED.unpack_from(data, offset)
    start, end = offset + 10, offset + 10 + length
    if end > len(data):
        return None
    content = _content(data, kind, start, end)
    return None if content is None else (Record(name, kind, ttl, content, klass), end)


def _content(data: bytes, kind: int, start: int, end: int) -> Data | None:
    raw = data[start:end]
    if kind == A:
        return str(ipaddress.IPv4Address(raw)) if len(raw) == 4 else None
    if kind == AAAA:
        return str(ipaddress.IPv6Address(raw)) if len(raw) == 16 else None
    if kind in (NS, CNAME, PTR):
        read = _name(data, start)
        return read[0] if read is not None and read[1] == end else None
    if kind == SRV:
        read = _name(data, start + 6) if len(raw) > 6 else None
        if read is None or read[1] != end:
            return None
        priority, weight, port = _SRV.unpack_from(raw)
        return Srv(priority, weight, port, read[0])
    if kind == SOA:
        return _soa(data, start, end)
    if kind == TXT:
        return _strings(raw)
    return raw


def _soa(data: bytes, start: int, end: int) -> Soa | None:
    mname = _name(data, start)
    rname = _name(data, mname[1]) if mname is not None else None
    if mname is None or rname is None or rname[1] + _SOA.size != end:
        return None
    return Soa(mname[0], rname[0], *_SOA.unpack_from(data, rname[1]))


def _strings(raw: bytes) -> tuple[bytes, ...] | None:
    parts: list[bytes] = []
    offset = 0
    while offset < len(raw):
        size = raw[offset]
        if offset + 1 + size > len(raw):
            return None
        parts.append(raw[offset + 1 : offset + 1 + size])
        offset += size + 1
    return tuple(parts)

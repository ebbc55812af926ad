"""SPDY/3.1 framing and streams."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.kubelet.server.spdy import (
    DICTIONARY,
    Data,
    Frame,
    Framer,
    GoAway,
    Ping,
    Reset,
    Session,
    SpdyError,
    Stream,
    SynReply,
    SynStream,
)


def test_the_dictionary_is_the_protocols() -> None:
    assert (len(DICTIONARY), zlib.adler32(DICTIONARY)) == (1423, 0xE3C6A7C2)


_headers = st.dictionaries(st.text("abcdef-", min_size=1, max_size=12), st.text(max_size=20), max_size=4)
_frames = st.one_of(
    st.builds(SynStream, st.integers(1, 2**31 - 1), _headers, st.booleans()),
    st.builds(SynReply, st.integers(1, 2**31 - 1), _headers, st.booleans()),
    st.builds(Data, st.integers(1, 2**31 - 1), st.binary(max_size=200), st.booleans()),
    st.builds(Reset, st.integers(1, 2**31 - 1), st.integers(1, 11)),
    st.builds(Ping, st.integers(1, 2**31 - 1)),
    st.builds(GoAway, st.integers(0, 2**31 - 1), st.integers(0, 2)),
)


@given(st.lists(_frames, max_size=8), st.integers(1, 50))
def test_frames_survive_the_wire_in_any_pieces(frames: list[Frame], size: int) -> None:
    sender, receiver = Framer(), Framer()
    wire = b"".join(sender.encode(frame) for frame in frames)
    found: list[Frame] = []
    for at in range(0, len(wire), size):
        found += receiver.feed(wire[at : at + size])
    assert found == frames


@pytest.mark.parametrize("wire", [
    b"\x80\x02\x00\x01\x00\x00\x00\x00",                     # another version
    b"\x00\x00\x00\x01\x00\xff\xff\xff",                     # a frame that is too long
    b"\x80\x03\x00\x01\x00\x00\x00\x0cxxxxxxxxxxxx",         # headers that are no zlib
    b"\x80\x03\x00\x03\x00\x00\x00\x01x",                    # cut off
])  # fmt: skip
def test_nonsense_is_refused(wire: bytes) -> None:
    with pytest.raises(SpdyError):
        Framer().feed(wire)


async def test_a_session_pairs_bytes_with_streams() -> None:
    client = Framer()
    sent: list[Frame] = []
    opened: list[Stream] = []

    async def send(data: bytes) -> None:
        sent.extend(client.feed(data))

    async def take(stream: Stream) -> None:
        opened.append(stream)

    session = Session(send, take)
    speaker = Framer()
    await session.feed(speaker.encode(SynStream(1, {"streamtype": "data", "port": "80"})))
    await session.feed(speaker.encode(Data(1, b"hello")) + speaker.encode(Data(1, b"", fin=True)))
    (stream,) = opened
    assert stream.headers == {"streamtype": "data", "port": "80"}
    assert (await stream.read(), await stream.read(), await stream.read()) == (b"hello", b"", b"")
    await stream.write(b"world")
    await stream.close()
    await session.feed(speaker.encode(Ping(7)))
    assert sent == [SynReply(1), Data(1, b"world"), Data(1, b"", fin=True), Ping(7)]


async def test_a_closed_session_wakes_its_readers() -> None:
    async def nothing(_: object) -> None: ...

    opened: list[Stream] = []

    async def take(stream: Stream) -> None:
        opened.append(stream)

    session = Session(nothing, take)
    await session.feed(Framer().encode(SynStream(1, {})))
    reading = asyncio.create_task(opened[0].read())
    await asyncio.sleep(0)
    session.close()
    assert await reading == b""

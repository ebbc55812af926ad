"""DNS messages: against dnspython, and against garbage."""

from __future__ import annotations

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.network.dns import codec
from pinnace.network.dns.codec import Message, Question, Record, Soa, Srv, decode, encode, read_query, to_wire
from pinnace.network.dns.server import Responder
from pinnace.network.dns.zone import Zone

label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_ABC", min_size=1, max_size=20)
name = st.lists(label, min_size=1, max_size=5).map(lambda labels: ".".join(labels) + ".")
u16, u32 = st.integers(0, 65535), st.integers(0, 2**31 - 1)
strings = st.lists(st.binary(max_size=20), min_size=1, max_size=3).map(tuple)
record = st.one_of(
    st.builds(Record, name, st.just(codec.A), u32, st.ip_addresses(v=4).map(str)),
    st.builds(Record, name, st.just(codec.AAAA), u32, st.ip_addresses(v=6).map(str)),
    st.builds(Record, name, st.sampled_from([codec.NS, codec.CNAME, codec.PTR]), u32, name),
    st.builds(Record, name, st.just(codec.SRV), u32, st.builds(Srv, u16, u16, u16, name)),
    st.builds(Record, name, st.just(codec.SOA), u32, st.builds(Soa, name, name, u32, u32, u32, u32, u32)),
    st.builds(Record, name, st.just(codec.TXT), u32, strings),
)
records = st.lists(record, max_size=4).map(tuple)
message = st.builds(
    Message, u16, st.just(codec.QR | codec.AA), st.builds(Question, name, u16).map(lambda question: (question,)),
    records, records, records,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(message)
def test_messages_come_back_and_dnspython_reads_the_same(sent: Message) -> None:
    wire = encode(sent)
    assert decode(wire) == sent
    theirs = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert [str(rrset.name) for rrset in theirs.answer] == [entry.name for entry in sent.answers]
    assert [rrset.ttl for rrset in theirs.answer] == [entry.ttl for entry in sent.answers]
    again = decode(theirs.to_wire(max_size=65535))
    assert again is not None and len(again.answers) == len(sent.answers)


def test_common_suffixes_are_compressed() -> None:
    web = "web.default.svc.cluster.local."
    entries = tuple(Record(f"{n}.{web}", codec.CNAME, 5, web) for n in range(10))
    assert len(encode(Message(1, 0, (Question(web, codec.A),), entries))) < 12 + 36 + 10 * 20


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.binary(max_size=80), message.map(encode)),
    st.lists(st.tuples(st.integers(0, 400), u16), max_size=4), st.integers(0, 400),
)
def test_garbage_never_raises(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    spoiled = bytearray(data)
    for where, what in changes:
        if spoiled:
            spoiled[where % len(spoiled)] = what & 0xFF
    for sample in (bytes(spoiled), bytes(spoiled[:cut])):
        decode(sample)
        read_query(sample)
        for forwarding in (False, True):
            answer = Responder(Zone(), forwarding=forwarding).respond(sample)
            if isinstance(answer, bytes):
                assert len(answer) >= 12 and answer[2] & 0x80


@pytest.mark.parametrize(
    "wire",
    [
        b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",                      # a name that points to itself
        b"\0\1\1\0\0\1\0\0\0\0\0\0\x3fa\0\0\1\0\1",                       # a label beyond the end
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 + b"\0\0\1\0",   # cut off
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",  # too long
        b"\0\1\1\0\0\2\0\0\0\0\0\0\1a\0\0\1\0\1\1b\0\0\1\0\1",            # two questions
        b"\0\1\x81\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1",                       # an answer
    ],
)
def test_what_is_no_query(wire: bytes) -> None:
    assert read_query(wire) is None


def test_queries_with_edns_keep_their_case() -> None:
    wire = dns.message.make_query("WeB.Default.svc.cluster.local", "SRV", use_edns=0, payload=4096).to_wire()
    query = read_query(wire)
    assert query is not None and query.type == codec.SRV and query.edns_size == 4096
    assert query.key == to_wire("web.default.svc.cluster.local") and b"WeB" in query.question


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["x" * 60] * 5), "é"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):
        to_wire(name)

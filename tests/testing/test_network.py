"""The memory's network: the contract of asyncio's transports, names, latency, partitions, and no way out."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pinnace.cluster.certificates import Authority
from pinnace.testing.loop import OutsideWorld, VirtualLoop, simulate
from pinnace.testing.net.pipes import WINDOW
from pinnace.testing.network import Network

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Scenario = Callable[["Contexts"], Coroutine[Any, Any, object]]
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """For a server called localhost, and for its client, who has a certificate too."""
    directory: Path = tmp_path_factory.mktemp("pki")
    begin, life = datetime(2000, 1, 1, tzinfo=UTC), timedelta(days=36500)
    authority = Authority(Authority.create("test", begin, life=life))
    serving = authority.issue("server", hosts=["localhost", HOST], now=begin, server=True, client=False, life=life)
    own = authority.issue("somebody", now=begin, life=life)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*map(str, serving.write(directory, "server")))
    server.load_verify_locations(cadata=authority.certificate.decode())
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context(cadata=authority.certificate.decode())
    client.load_cert_chain(*map(str, own.write(directory, "client")))
    return server, client


class Log(asyncio.Protocol):
    """Notes what its transport tells it; neighbouring data are one."""

    def __init__(self, keep_open: bool = False) -> None:
        self.seen: list[Any] = []
        self.keep_open = keep_open
        self.transport: Any = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.seen.append("made")

    def data_received(self, data: bytes) -> None:
        if self.seen and isinstance(self.seen[-1], bytes):
            self.seen[-1] += data
        else:
            self.seen.append(data)

    def eof_received(self) -> bool:
        self.seen.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.seen.append("pause")

    def resume_writing(self) -> None:
        self.seen.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.seen.append(f"lost {type(exc).__name__}" if exc else "lost")
        self.lost.set_result(exc)


async def _pair(
    server_keeps: bool = False, client_keeps: bool = False, **server_options: Any
) -> tuple[Log, Log, asyncio.AbstractServer]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[Log] = loop.create_future()

    def accept() -> Log:
        log = Log(server_keeps)
        accepted.set_result(log)
        return log

    server = await loop.create_server(accept, HOST, 0, **server_options)
    port = server.sockets[0].getsockname()[1]
    _, client = await loop.create_connection(lambda: Log(client_keeps), HOST, port)
    theirs = await accepted
    await _until(lambda: theirs.transport)
    return client, theirs, server


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what it waits for is told nobody
            await asyncio.sleep(0.001)


# ------------------------------------------------------------------------------ what a real loop does, ours does too


async def _close_flushes(_: Contexts) -> object:
    client, theirs, server = await _pair()
    client.transport.write(b"x" * 3_000_000)
    client.transport.close()
    client.transport.close()
    await client.lost
    await theirs.lost
    server.close()
    return theirs.seen[0], len(theirs.seen[1]), theirs.seen[2:], client.seen[-1]


async def _half_close(_: Contexts) -> object:
    client, theirs, server = await _pair(server_keeps=True)
    client.transport.write(b"question")
    client.transport.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        client.transport.write(b"more")
    await _until(lambda: "eof" in theirs.seen)
    theirs.transport.write(b"answer")
    theirs.transport.close()
    await client.lost
    await theirs.lost
    server.close()
    return client.seen, theirs.seen, client.transport.can_write_eof()


async def _end_of_the_other_closes(_: Contexts) -> object:
    client, theirs, server = await _pair()
    client.transport.write_eof()
    await client.lost
    await theirs.lost
    server.close()
    return client.seen, theirs.seen


async def _abort(_: Contexts) -> object:
    client, theirs, server = await _pair()
    theirs.transport.pause_reading()
    client.transport.write(b"x" * 20_000_000)
    client.transport.abort()
    still = list(client.seen)
    await client.lost
    theirs.transport.resume_reading()
    await theirs.lost
    server.close()
    whole = sum(len(part) for part in theirs.seen if isinstance(part, bytes))
    return still, client.seen[-1], whole < 20_000_000, theirs.seen[-1], client.transport.is_closing()


async def _reset(_: Contexts) -> object:
    """Who closes with something unread, resets; who waits for room is told of it."""
    client, theirs, server = await _pair()
    theirs.transport.pause_reading()
    client.transport.write(b"x" * 20_000_000)
    await asyncio.sleep(0.01)
    theirs.transport.close()
    await theirs.lost
    await client.lost
    server.close()
    return client.seen, theirs.seen


async def _writing_to_nobody(_: Contexts) -> object:
    client, theirs, server = await _pair(client_keeps=True)
    theirs.transport.close()
    await _until(lambda: "eof" in client.seen)
    client.transport.write(b"first")
    await asyncio.sleep(0.05)
    client.transport.write(b"second")
    await client.lost
    server.close()
    # A kernel says EPIPE or ECONNRESET, by how far the reset has come.
    return client.seen[:2], client.seen[-1] in ("lost ConnectionResetError", "lost BrokenPipeError")


async def _flow_control(_: Contexts) -> object:
    client, theirs, server = await _pair()
    client.transport.set_write_buffer_limits(high=1000)
    theirs.transport.pause_reading()
    client.transport.write(b"x" * 20_000_000)
    before = list(client.seen), client.transport.get_write_buffer_size() > 1000, theirs.transport.is_reading()
    await asyncio.sleep(0.01)
    assert theirs.seen == ["made"]
    theirs.transport.resume_reading()
    await _until(lambda: len(theirs.seen) == 2 and len(theirs.seen[1]) == 20_000_000)
    client.transport.close()
    await theirs.lost
    server.close()
    return before, client.seen, client.transport.get_write_buffer_limits()


async def _names_of_the_ends(_: Contexts) -> object:
    client, theirs, server = await _pair()
    port = server.sockets[0].getsockname()[1]      # type: ignore[attr-defined]
    ours = client.transport.get_extra_info("sockname")
    found = (
        client.transport.get_extra_info("peername") == (HOST, port),
        theirs.transport.get_extra_info("sockname") == (HOST, port),
        theirs.transport.get_extra_info("peername") == ours,
        client.transport.get_extra_info("nothing", 7),
        client.transport.get_extra_info("socket").family,
        client.transport.get_extra_info("socket").getpeername() == (HOST, port),
    )
    client.transport.close()
    await theirs.lost
    server.close()
    return found


async def _streams(_: Contexts) -> object:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        reader, writer = await asyncio.open_connection(HOST, server.sockets[0].getsockname()[1])
        writer.writelines([b"one\n", b"two\n"])
        writer.write_eof()
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
    return said, server.is_serving()


async def _tls(contexts: Contexts) -> object:
    whom: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whom.append(writer.get_extra_info("peercert")["subject"])
        writer.write((await reader.readexactly(1_000_000))[::-1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0, ssl=contexts[0])
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(HOST, port, ssl=contexts[1], server_hostname="localhost")
    version = writer.get_extra_info("ssl_object").version()
    writer.write(b"a" * 999_999 + b"z")
    said = await reader.read()
    writer.close()
    server.close()
    return whom, version, said == b"z" + b"a" * 999_999


async def _tls_of_somebody_else(contexts: Contexts) -> object:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0, ssl=contexts[0])
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ssl.SSLCertVerificationError) as wrong:
        await asyncio.open_connection(HOST, port, ssl=contexts[1], server_hostname="another")
    with pytest.raises(ValueError, match="server_hostname"):
        await asyncio.open_connection(HOST, port, server_hostname="x")
    server.close()
    return wrong.value.verify_message


async def _tls_later(contexts: Contexts) -> object:
    """STARTTLS, on both sides."""
    loop = asyncio.get_running_loop()
    client, theirs, server = await _pair()
    client.transport.write(b"STARTTLS")
    await _until(lambda: b"STARTTLS" in theirs.seen)
    ours, yours = await asyncio.gather(
        loop.start_tls(client.transport, client, contexts[1], server_hostname="localhost"),
        loop.start_tls(theirs.transport, theirs, contexts[0], server_side=True),
    )
    assert ours is not None and yours is not None
    ours.write(b"secret")
    await _until(lambda: b"STARTTLSsecret" in theirs.seen)
    ours.close()
    await client.lost
    await theirs.lost
    server.close()
    return client.seen, theirs.seen


async def _a_socket_of_the_callers(_: Contexts) -> object:
    loop = asyncio.get_running_loop()
    accepted: list[Log] = []
    server = await loop.create_server(lambda: accepted.append(Log()) or accepted[-1], HOST, 0)  # type: ignore[func-returns-value]
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    await _until(lambda: accepted and accepted[0].transport)
    accepted[0].transport.write(b"early")        # before anybody reads
    await asyncio.sleep(0.01)
    transport, client = await loop.create_connection(Log, sock=sock)
    await _until(lambda: client.seen[1:] == [b"early"])
    transport.close()
    await accepted[0].lost
    server.close()
    return client.seen[:2]


async def _refused(_: Contexts) -> object:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Log, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OSError, match=str(port)) as taken:
        await loop.create_server(Log, HOST, port)
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError) as refused:
        await loop.create_connection(Log, HOST, port)
    return taken.value.errno, refused.value.errno


_SCENARIOS: list[Scenario] = [
    _close_flushes, _half_close, _end_of_the_other_closes, _abort, _reset, _writing_to_nobody, _flow_control,
    _names_of_the_ends, _streams, _tls, _tls_of_somebody_else, _tls_later, _a_socket_of_the_callers, _refused,
]  # fmt: skip


@pytest.mark.parametrize("scenario", _SCENARIOS, ids=lambda s: s.__name__.strip("_"))
def test_as_a_real_loop(scenario: Scenario, contexts: Contexts) -> None:
    simulated = [simulate(lambda: scenario(contexts), seed=seed) for seed in range(3)]
    assert simulated == [asyncio.run(scenario(contexts))] * 3


@pytest.mark.parametrize("latency", [0.0, 0.02])
@pytest.mark.parametrize("secure", [False, True])
def test_every_byte_arrives_once_and_in_order(latency: float, secure: bool, contexts: Contexts) -> None:
    async def talk(seed: int) -> None:
        chance = random.Random(seed)
        data = chance.randbytes(2_000_000)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(chance.randrange(1, 100_000)):
                writer.write(piece)
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random())
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "echo.test", 7, ssl=contexts[0] if secure else None)
        tls = {"ssl": contexts[1], "server_hostname": "localhost"} if secure else {}
        reader, writer = await asyncio.open_connection("echo.test", 7, **tls)

        async def ask() -> None:
            for begin in range(0, len(data), 40_000):
                writer.write(data[begin : begin + 40_000])
                await writer.drain()

        asking = asyncio.create_task(ask())
        assert await reader.readexactly(len(data)) == data
        await asking
        writer.close()
        server.close()

    for seed in range(2):
        simulate(lambda seed=seed: talk(seed), seed=seed, latency=latency)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- its own ways


def _network() -> Network:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.network


def test_what_waits_is_bounded() -> None:
    async def fill() -> None:
        client, theirs, _ = await _pair()
        theirs.transport.pause_reading()
        drained = 0
        for _ in itertools.repeat(None, 1000):
            if "pause" in client.seen:
                break
            client.transport.write(b"x" * 10_000)
            drained += 10_000
        assert WINDOW <= drained <= WINDOW + 2 * 64 * 1024

    simulate(fill)


def test_names() -> None:
    async def look() -> None:
        loop, network = asyncio.get_running_loop(), _network()
        address = network.add_host("web.test", "www.test")
        assert address.startswith("198.18.")
        infos = await loop.getaddrinfo("WWW.test", "https", type=socket.SOCK_STREAM)
        assert infos == [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443))]
        assert await loop.getnameinfo((address, 443)) == ("web.test", "https")
        assert await loop.getnameinfo((address, 444), socket.NI_NUMERICHOST) == (address, "444")
        assert len(await loop.getaddrinfo("localhost", 1)) == 2
        assert (await loop.getaddrinfo("::1", 1, type=socket.SOCK_STREAM))[0][4] == ("::1", 1, 0, 0)
        for host, port, options in (
            ("nobody.test", 1, {}), ("web.test", 1, {"family": socket.AF_INET6}), ("web.test", "gopher?", {}),
            ("web.test", 1, {"flags": socket.AI_NUMERICHOST}),
        ):  # fmt: skip
            with pytest.raises(socket.gaierror, match="simulation's network"):
                await loop.getaddrinfo(host, port, **options)

    simulate(look)


def test_nobody_is_there() -> None:
    async def ask() -> None:
        with pytest.raises(socket.gaierror, match="simulation's network"):
            await asyncio.open_connection("example.com", 443)
        with pytest.raises(ConnectionRefusedError, match="simulation's network"):
            await asyncio.open_connection(HOST, 443)
        with pytest.raises(OSError, match="No route to host in the simulation's network"):
            await asyncio.open_connection("192.0.2.1", 443)

    simulate(ask)


def test_hosts_have_their_own_ports() -> None:
    async def serve() -> None:
        network = _network()
        answers = []

        def say(word: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
            async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                answers.append(writer.get_extra_info("peername")[0])
                writer.write(word)
                writer.close()

            return answer

        await asyncio.start_server(say(b"a"), "a.test", 80)
        with network.at("b.test"):
            await asyncio.start_server(say(b"b"), None, 80)
        for host, word in (("a.test", b"a"), ("b.test", b"b")):
            reader, writer = await asyncio.open_connection(host, 80)
            assert await reader.read() == word
            writer.close()
        with network.at("b.test"):
            reader, writer = await asyncio.open_connection("localhost", 80)
            assert await reader.read() == b"b"
            writer.close()
            reader, writer = await asyncio.open_connection("a.test", 80)
            writer.close()
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("localhost", 80)
        assert answers == [HOST, HOST, HOST, network.add_host("b.test")]

    simulate(serve)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def test_latency() -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.start_server(_echo, "echo.test", 7)
        reader, writer = await asyncio.open_connection("echo.test", 7)
        assert loop.time() == pytest.approx(0.5)                  # there and back
        writer.write(b"one")
        assert await reader.read(9) == b"one"
        assert loop.time() == pytest.approx(1.0)
        writer.write(b"two")
        _network().latency = 0.01
        writer.write(b"three")                                    # overtakes nothing
        assert await reader.readexactly(8) == b"twothree"
        assert loop.time() == pytest.approx(1.26)
        writer.close()

    simulate(ask, latency=0.25)


def test_partition() -> None:
    async def ask() -> None:
        loop, network = asyncio.get_running_loop(), _network()
        await asyncio.start_server(_echo, "echo.test", 7)
        with network.at("client.test"):
            reader, writer = await asyncio.open_connection("echo.test", 7)
            network.partition("client.test", "echo.test")
            writer.write(b"held")
            loop.call_later(100, network.heal, "echo.test", "client.test")
            later = asyncio.create_task(asyncio.open_connection("echo.test", 7))
            assert await reader.read(9) == b"held"
            assert loop.time() == 100
            (await later)[1].close()
            network.partition("client.test", "echo.test")
            with pytest.raises(TimeoutError, match="simulation's network"):
                await asyncio.open_connection("echo.test", 7)
            assert loop.time() == 227
            writer.write(b"never")
            with pytest.raises(TimeoutError):
                await reader.read(9)
            assert loop.time() == pytest.approx(227 + 924.6)
        (await asyncio.open_connection("echo.test", 7))[1].close()     # others are not concerned

    simulate(ask)


def test_a_handshake_times_out_in_virtual_time(contexts: Contexts) -> None:
    async def ask() -> None:
        silent = await asyncio.get_running_loop().create_server(Log, "silent.test", 443)
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
            await asyncio.open_connection("silent.test", 443, ssl=contexts[1], server_hostname="localhost")
        assert asyncio.get_running_loop().time() == 60
        silent.close()

    simulate(ask)


def test_the_descriptor_tells_whether_there_is_something_to_read() -> None:
    def readable(client: Log) -> bool:
        poll = select.poll()
        poll.register(client.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def ask() -> None:
        client, theirs, _ = await _pair()
        client.transport.pause_reading()
        assert not readable(client)
        theirs.transport.write(b"x")
        assert readable(client)
        client.transport.resume_reading()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not readable(client)
        client.transport.pause_reading()
        theirs.transport.close()
        await theirs.lost
        assert readable(client)
        client.transport.abort()
        await client.lost
        assert client.transport.get_extra_info("socket").fileno() == -1

    simulate(ask)


def test_a_connected_socket_that_nobody_takes_is_closed_with_it() -> None:
    async def leave() -> None:
        loop = asyncio.get_running_loop()
        accepted: list[Log] = []
        await loop.create_server(lambda: accepted.append(Log()) or accepted[-1], HOST, 9)  # type: ignore[func-returns-value]
        with socket.socket() as sock:
            await loop.sock_connect(sock, (HOST, 9))
            await _until(lambda: accepted)
        del sock
        gc.collect()
        await accepted[0].lost
        assert _network().connections == 0

    simulate(leave)


async def _leave(ways: list[Callable[[], object]]) -> None:
    for way in ways:
        with pytest.raises(OutsideWorld, match="simulated time"):
            found = way()
            if isinstance(found, Awaitable):
                await found


def test_what_leads_outside_raises() -> None:
    async def leave() -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        datagrams = socket.socket(type=socket.SOCK_DGRAM)
        await _leave([
            lambda: loop.create_connection(Log, sock=sock),
            lambda: loop.create_server(Log, sock=sock),
            lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(HOST, 1)),
            lambda: loop.sock_connect(datagrams, (HOST, 1)),
            lambda: loop.create_unix_connection(Log, "/nowhere"),
            lambda: loop.create_unix_server(Log, "/nowhere"),
            lambda: loop.connect_accepted_socket(Log, sock),
            lambda: loop.connect_read_pipe(Log, None),
            lambda: loop.connect_write_pipe(asyncio.BaseProtocol, None),
            lambda: loop.sock_accept(sock),
            lambda: loop.sock_recv(sock, 1),
            lambda: loop.sock_recv_into(sock, bytearray(1)),
            lambda: loop.sock_recvfrom(sock, 1),
            lambda: loop.sock_recvfrom_into(sock, bytearray(1)),
            lambda: loop.sock_sendall(sock, b"x"),
            lambda: loop.sock_sendto(sock, b"x", (HOST, 1)),
            lambda: loop.sock_sendfile(sock, None),  # type: ignore[arg-type]
            lambda: loop.add_reader(1, print),
            lambda: loop.add_writer(1, print),
            lambda: sock.connect((HOST, 1)),
            lambda: datagrams.sendto(b"x", (HOST, 1)),
            lambda: socket.getaddrinfo("example.com", 1),
        ])  # fmt: skip
        sock.close()
        datagrams.close()

    simulate(leave)

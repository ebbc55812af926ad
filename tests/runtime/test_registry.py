"""Pulling: pure parts, refusals, and a real registry on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import ImagePullFault
from pinnace.runtime.images import archive, build, registry
from pinnace.runtime.images.references import parse
from pinnace.runtime.images.service import Images
from pinnace.runtime.images.store import ImageStore

pytestmark = pytest.mark.root


@pytest.mark.parametrize(("domain", "url"), [
    ("docker.io", "https://registry-1.docker.io"),
    ("registry.k8s.io", "https://registry.k8s.io"),
    ("localhost", "http://localhost"),
    ("localhost:5000", "http://localhost:5000"),
    ("127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("[::1]:5000", "http://[::1]:5000"),
    ("10.0.0.1:5000", "https://10.0.0.1:5000"),
    ("localhost.evil.example", "https://localhost.evil.example"),
])  # fmt: skip
def test_plain_http_is_for_loopback_only(domain: str, url: str) -> None:
    assert registry.registry_url(domain) == url


def test_challenges_and_credentials() -> None:
    scheme, values = registry.parse_challenge('Bearer realm="https://a/t",service="s",scope="repository:x:pull"')
    assert (scheme, values["realm"], values["scope"]) == ("bearer", "https://a/t", "repository:x:pull")
    assert registry.credentials({"username": "u", "password": "p"}) == ("u", "p")
    assert registry.credentials({"auth": base64.b64encode(b"u:p:q").decode()}) == ("u", "p:q")
    assert registry.credentials({"auth": "%%%"}) is None
    assert registry.credentials(None) is None


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[Images]:
    store = ImageStore(tmp_path / "store", Randomness())
    service = Images(store, registry.Puller(store, SystemClock(), egress=False))
    yield service
    await service.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_without_egress_only_loopback_is_asked(images: Images) -> None:
    with pytest.raises(ImagePullFault, match=r'"docker.io/library/nginx:latest".*no egress') as caught:
        await images.pull("nginx")
    assert caught.value.reason == "ErrImagePull"
    with pytest.raises(ImagePullFault, match="invalid reference format") as caught:
        await images.pull("NGINX:::")
    assert caught.value.reason == "InvalidImageName"


async def test_a_registry_that_is_not_there(images: Images) -> None:
    port = free_port()
    message = rf'failed to pull and unpack image "127.0.0.1:{port}/x:latest".*failed to do'
    with pytest.raises(ImagePullFault, match=message):
        await images.pull(f"127.0.0.1:{port}/x")


@pytest.fixture
def layers_image(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").write_bytes(os.urandom(3 << 20))
    path = tmp_path / "image.tar"
    build.build_image(path, "pinnace.local/pulled:1", root, build.Recipe(cmd=("x",)))
    return path


class Content:
    """The blobs of an archive, by digest, and its manifest."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.blobs = {
                "sha256:" + member.name.rpartition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar if member.name.startswith("blobs/")
            }  # fmt: skip
            index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
        self.manifest_digest = index["manifests"][0]["digest"]
        self.manifest = self.blobs[self.manifest_digest]


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[int]:
    """Debian's docker-registry, on loopback."""
    if not Path("/usr/bin/docker-registry").exists():
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["/usr/bin/docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def push(base: str, name: str, content: Content, tag: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(500):
            try:
                async with session.get(f"{base}/v2/"):
                    break
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)
        for digest, data in content.blobs.items():
            if digest == content.manifest_digest:
                continue
            async with session.post(f"{base}/v2/{name}/blobs/uploads/") as response:
                location = response.headers["Location"]
            url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
            async with session.put(url, data=io.BytesIO(data)) as response:
                assert response.status == 201
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        url = f"{base}/v2/{name}/manifests/{tag}"
        async with session.put(url, data=content.manifest, headers=headers) as response:
            assert response.status == 201, await response.text()


@pytest.mark.real
async def test_pull_from_a_real_registry(images: Images, layers_image: Path, docker_registry: int) -> None:
    content = Content(layers_image)
    await push(f"http://127.0.0.1:{docker_registry}", "team/app", content, "v1")
    name = f"127.0.0.1:{docker_registry}/team/app"
    first, second = await asyncio.gather(images.pull(f"{name}:v1"), images.pull(f"{name}:v1"))
    assert first == second
    assert first.tags == (f"{name}:v1",)
    assert first.digests == (f"{name}@{content.manifest_digest}",)
    by_digest = await images.pull(f"{name}@{content.manifest_digest}")
    assert by_digest.id == first.id
    assert list(images.store.ingest.iterdir()) == []
    layer = images.store.layer(images.store.require(first.id).chain[0])
    assert (layer / "data").stat().st_size == 3 << 20
    with pytest.raises(ImagePullFault, match=rf'failed to resolve reference "{name}:v2": {name}:v2: not found'):
        await images.pull(f"{name}:v2")


class Fake:
    """A registry that misbehaves as told."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.manifest = content.manifest
        self.cut_after = 0
        self.corrupt = False
        self.redirect = ""
        self.auth = ""
        self.ranges: list[str] = []
        self.port = 0
        self.tokens = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            self.tokens += 1
            if request.headers.get("Authorization") != "Basic " + base64.b64encode(b"u:p").decode():
                return web.Response(status=401)
            assert request.query["scope"] == "repository:app:pull"
            return web.json_response({"token": "t0ken"})
        if self.auth == "bearer" and request.headers.get("Authorization") != "Bearer t0ken":
            realm = f'Bearer realm="http://127.0.0.1:{self.port}/token",service="reg",scope="repository:app:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        if self.auth == "basic" and request.headers.get("Authorization") != "Basic dTpw":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if "/manifests/" in request.path:
            return web.Response(body=self.manifest)
        if self.redirect:
            return web.Response(status=307, headers={"Location": self.redirect})
        return await self.blob(request, self.content.blobs[request.path.rpartition("/")[2]])

    async def blob(self, request: web.Request, data: bytes) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if len(data) > 1 << 20 and self.corrupt:
            data = data[:-1] + b"?"
        response = web.StreamResponse(status=206 if asked else 200)
        response.content_length = len(data) - start
        await response.prepare(request)
        if len(data) > 1 << 20 and self.cut_after and not asked:
            await response.write(data[: self.cut_after])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data[start:])
        return response


@pytest.fixture
async def fake(layers_image: Path) -> AsyncIterator[Fake]:
    made = Fake(Content(layers_image))
    app = web.Application()
    app.router.add_get("/{tail:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


async def test_a_broken_transfer_is_resumed(images: Images, fake: Fake) -> None:
    fake.cut_after = 1 << 20
    await images.pull(f"127.0.0.1:{fake.port}/app:1")
    assert [asked for asked in fake.ranges if asked] == [f"bytes={1 << 20}-"]


async def test_a_corrupt_layer_is_refused(images: Images, fake: Fake) -> None:
    fake.corrupt = True
    with pytest.raises(ImagePullFault, match="failed to verify layer"):
        await images.pull(f"127.0.0.1:{fake.port}/app:1")
    assert await images.images() == ()
    assert list(images.store.ingest.iterdir()) == []


@pytest.mark.parametrize(("auth", "credentials", "works"), [
    ("bearer", {"username": "u", "password": "p"}, True),
    ("basic", {"auth": "dTpw"}, True),
    ("bearer", {"registrytoken": "t0ken"}, True),
    ("bearer", None, False),
    ("basic", None, False),
    ("basic", {"username": "u", "password": "wrong"}, False),
])  # fmt: skip
async def test_authorization(images: Images, fake: Fake, auth: str, credentials: Any, works: bool) -> None:
    fake.auth = auth
    if works:
        assert (await images.pull(f"127.0.0.1:{fake.port}/app:1", auth=credentials)).tags
    else:
        with pytest.raises(ImagePullFault, match=r"pull access denied.*authorization failed"):
            await images.pull(f"127.0.0.1:{fake.port}/app:1", auth=credentials)


async def test_a_redirect_may_not_lead_off_the_machine(images: Images, fake: Fake) -> None:
    fake.redirect = "https://storage.example/blob"
    with pytest.raises(ImagePullFault, match=r"storage.example: this node has no egress"):
        await images.pull(f"127.0.0.1:{fake.port}/app:1")


@pytest.mark.parametrize("manifest", [b"{", b"[]", b"{}", b'{"manifests": []}', b'{"config": 1, "layers": []}', b"\xff",
                                      b'{"config":{"digest":"sha256:no"},"layers":[]}'])  # fmt: skip
async def test_nonsense_is_refused(images: Images, fake: Fake, manifest: bytes) -> None:
    fake.manifest = manifest
    with pytest.raises(ImagePullFault, match="failed to pull and unpack image"):
        await images.pull(f"127.0.0.1:{fake.port}/app:1")


async def test_a_digest_in_the_reference_is_checked(images: Images, fake: Fake) -> None:
    wrong = "sha256:" + hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ImagePullFault, match="failed to verify"):
        await images.pull(f"127.0.0.1:{fake.port}/app@{wrong}")


def test_platforms() -> None:
    entries = [
        {"digest": "1", "platform": {"os": "windows", "architecture": "amd64"}},
        {"digest": "2", "platform": {"os": "linux", "architecture": "arm64"}},
        {"digest": "3", "platform": {"os": "linux", "architecture": "amd64"}},
    ]
    assert archive.choose_platform(entries, "amd64") == entries[2]
    assert archive.choose_platform(entries, "s390x") is None
    assert archive.choose_platform([{"digest": "4"}], "s390x") == {"digest": "4"}
    assert str(parse("x")) == "docker.io/library/x:latest"

"""Pulling images over the registry API v2 (OCI distribution spec).

Resolve the reference to a manifest for this machine, fetch the configuration, then those layers that are not
unpacked yet, a few at a time, each resumed where it broke off and checked against its digest. Plain HTTP is
spoken with loopback registries only. Without egress, nothing but loopback is ever contacted, redirects and
token servers included.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import msgspec

from pinnace.base.clock import Clock
from pinnace.runtime.cri import ImagePullFault, RuntimeFault
from pinnace.runtime.images.archive import INDEX_TYPES, MANIFEST_TYPES, choose_platform
from pinnace.runtime.images.layers import CHUNK
from pinnace.runtime.images.references import IMAGE_ID, Reference
from pinnace.runtime.images.store import ImageStore, StoredImage, chain_ids, digest_of
from pinnace.runtime.linux import machine

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
PARALLEL_LAYERS = 3
ATTEMPTS = 5
MAX_REDIRECTS = 5
MAX_NESTING = 4
ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)


def is_loopback(host: str) -> bool:
    """Whether a host name (without port) is this machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def registry_url(domain: str) -> str:
    """The base URL of a reference's domain."""
    host = "registry-1.docker.io" if domain == "docker.io" else domain
    plain = is_loopback(urlsplit(f"//{host}").hostname or "")
    return f"{'http' if plain else 'https'}://{host}"


def credentials(auth: Mapping[str, str] | None) -> tuple[str, str] | None:
    """User name and password from CRI's AuthConfig."""
    if not auth:
        return None
    if auth.get("username"):
        return auth["username"], auth.get("password", "")
    if auth.get("auth"):
        with contextlib.suppress(ValueError):
            user, colon, password = base64.b64decode(auth["auth"], validate=True).decode().partition(":")
            if colon:
                return user, password
    return None


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """`Bearer realm="…",service="…"` as its scheme in lower case and its parameters."""
    scheme, _, rest = header.partition(" ")
    return scheme.lower(), dict(_CHALLENGE.findall(rest))


@dataclass
class _Pull:
    """One pull under way: where from, and with what rights."""

    session: aiohttp.ClientSession
    reference: Reference
    auth: Mapping[str, str] | None
    egress: bool
    authorization: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def base(self) -> str:
        return f"{registry_url(self.reference.domain)}/v2/{self.reference.path}"

    def fault(self, why: str) -> ImagePullFault:
        name = str(self.reference)
        return ImagePullFault(f'failed to pull and unpack image "{name}": {why}')

    def unresolved(self, why: str) -> ImagePullFault:
        return self.fault(f'failed to resolve reference "{self.reference}": {why}')

    def check(self, url: str) -> None:
        """Refuse what must not be contacted."""
        parts = urlsplit(url)
        loopback = is_loopback(parts.hostname or "")
        if not self.egress and not loopback:
            raise self.unresolved(
                f"{parts.hostname}: this node has no egress (--no-egress): only loopback registries are contacted; "
                "load the image with `pinnace image load`"
            )
        if parts.scheme != "https" and not loopback:
            raise self.unresolved(f"refusing plain HTTP to {parts.hostname}")

    @contextlib.asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET with authorization, following redirects (which do not get our credentials)."""
        origin, signed_in = urlsplit(url).netloc, False
        for _ in range(MAX_REDIRECTS + 2):
            self.check(url)
            sent = {"Accept-Encoding": "identity", **headers}  # digests are of the bytes as stored
            if self.authorization and urlsplit(url).netloc == origin:
                sent["Authorization"] = self.authorization
            async with self.session.get(url, headers=sent, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                if response.status == 401 and not signed_in and urlsplit(url).netloc == origin:
                    await self._sign_in(response.headers.get("WWW-Authenticate", ""))
                    signed_in = True
                    continue
                yield response
                return
        raise self.fault(f"too many redirects: {url}")

    async def _sign_in(self, header: str) -> None:
        scheme, values = parse_challenge(header)
        login = credentials(self.auth)
        basic = "Basic " + base64.b64encode(":".join(login).encode()).decode() if login else ""
        if scheme == "basic":
            if not basic:
                raise self._denied("no basic auth credentials")
            self.authorization = basic
            return
        if scheme != "bearer" or not values.get("realm"):
            raise self._denied(f"unsupported authentication challenge {header!r}")
        if self.auth and self.auth.get("registrytoken"):
            self.authorization = f"Bearer {self.auth['registrytoken']}"
            return
        self.check(values["realm"])
        query = {"scope": values.get("scope") or f"repository:{self.reference.path}:pull"}
        if values.get("service"):
            query["service"] = values["service"]
        url = f"{values['realm']}{'&' if '?' in values['realm'] else '?'}{urlencode(query)}"
        headers = {"Authorization": basic} if basic else {}
        async with self.session.get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise self._denied(f"failed to fetch {'oauth' if basic else 'anonymous'} token: unexpected status "
                                   f"from GET request to {values['realm']}: {response.status}")  # fmt: skip
            document = msgspec.json.decode(await response.content.read(MAX_MANIFEST))
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str):
            raise self._denied("the token server sent no token")
        self.authorization = f"Bearer {token}"

    def _denied(self, why: str) -> ImagePullFault:
        return self.unresolved(
            "pull access denied, repository does not exist or may require authorization: "
            f"authorization failed: {why}"
        )

    def refused(self, response: aiohttp.ClientResponse) -> ImagePullFault:
        if response.status == 404:
            return self.unresolved(f"{self.reference}: not found")
        if response.status in (401, 403):
            return self._denied("server message: insufficient_scope")
        return self.unresolved(
            f"unexpected status from GET request to {response.url}: {response.status} {response.reason}"
        )


class Puller:
    """Fetches images into a store."""

    def __init__(self, store: ImageStore, clock: Clock, *, egress: bool = True) -> None:
        self._store = store
        self._clock = clock
        self._egress = egress
        self._own = store.new_name()     # transfers are resumed by the process that began them
        self._transfers: dict[str, asyncio.Lock] = {}

    async def pull(self, reference: Reference, auth: Mapping[str, str] | None = None) -> StoredImage:
        """Raises ImagePullFault in containerd's words."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, auto_decompress=False, trust_env=self._egress) as session:
            pull = _Pull(session, reference, auth, self._egress)
            try:
                return await self._pull(pull)
            except ImagePullFault:
                raise
            except (RuntimeFault, OSError) as error:  # aiohttp's connection errors are OSErrors too
                raise pull.fault(f"failed to do request: {error}") from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise pull.fault(f"failed to do request: {error or type(error).__name__}") from error
            except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
                raise pull.fault(f"unusable manifest: {error}") from error

    async def _pull(self, pull: _Pull) -> StoredImage:
        reference = pull.reference
        manifest, raw, digest = await self._resolve(pull, reference.digest or reference.tag)
        config_digest = str(manifest["config"]["digest"])
        if not IMAGE_ID.fullmatch(config_digest):
            raise pull.fault(f"unusable digest {config_digest!r}")
        config = await self._small(pull, f"{pull.base}/blobs/{config_digest}", MAX_CONFIG, config_digest)
        diff_ids = self._store.parse_config(config).rootfs.diff_ids
        layers = [str(layer["digest"]) for layer in manifest["layers"]]
        if len(layers) != len(diff_ids):
            raise pull.fault("manifest and configuration disagree about the layers")
        wanted = {
            layer for layer, chain in zip(layers, chain_ids(diff_ids), strict=True) if not self._store.has_layer(chain)
        }
        try:
            await self._layers(pull, wanted)
        finally:
            for layer in wanted:
                self._transfers.pop(layer, None)
        openers = [self._opener(layer) for layer in layers]
        tags = (reference.tagged,) if reference.tagged and not reference.digest else ()
        try:
            return await asyncio.to_thread(
                self._store.install, config, openers, tags=tags, digests=(f"{reference.name}@{digest}",), manifest=raw
            )
        except RuntimeFault as error:
            raise pull.fault(f"failed to extract layer: {error}") from error
        finally:
            for layer in wanted:
                self._partial(layer).unlink(missing_ok=True)

    async def _layers(self, pull: _Pull, wanted: set[str]) -> None:
        """Fetch layers, a few at a time; what has come of a failed transfer stays, to go on from."""
        limit = asyncio.Semaphore(PARALLEL_LAYERS)
        try:
            async with asyncio.TaskGroup() as group:
                for layer in wanted:
                    group.create_task(self._layer(pull, layer, limit))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _resolve(self, pull: _Pull, what: str) -> tuple[dict[str, Any], bytes, str]:
        """The manifest for this machine, its bytes, and the digest that the reference stands for."""
        first = ""
        for _ in range(MAX_NESTING):
            expect = what if IMAGE_ID.fullmatch(what) else ""
            raw = await self._small(pull, f"{pull.base}/manifests/{what}", MAX_MANIFEST, expect, ACCEPT)
            first = first or digest_of(raw)
            document = msgspec.json.decode(raw)
            if "manifests" not in document:
                if "layers" not in document or "config" not in document:
                    raise pull.fault("the registry sent a manifest of an unknown kind")
                return document, raw, first
            entry = choose_platform(document["manifests"], machine())
            if entry is None:
                raise pull.unresolved(f"no match for platform in manifest: linux/{machine()}: not found")
            what = str(entry["digest"])
        raise pull.fault("image index is nested too deeply")

    async def _small(self, pull: _Pull, url: str, limit: int, expect: str, accept: str = "*/*") -> bytes:
        for attempt in range(ATTEMPTS):
            async with pull.get(url, {"Accept": accept}) as response:
                if response.status in (429, 500, 502, 503, 504) and attempt + 1 < ATTEMPTS:
                    await self._clock.sleep(0.2 * 2**attempt)
                    continue
                if response.status != 200:
                    raise pull.refused(response)
                received = bytearray()
                async for chunk in response.content.iter_chunked(CHUNK):
                    received += chunk
                    if len(received) > limit:
                        raise pull.fault(f"{url} is larger than {limit} bytes")
            data = bytes(received)
            if expect and digest_of(data) != expect:
                raise pull.fault(f"failed to verify {url}: expected {expect}, got {digest_of(data)}")
            return data
        raise pull.fault(f"{url} could not be fetched")

    def _partial(self, digest: str) -> Path:
        return self._store.ingest / f"pull-{self._own}-{digest.removeprefix('sha256:')}"

    def _opener(self, digest: str) -> Callable[[], BinaryIO]:
        return lambda: self._partial(digest).open("rb")

    async def _layer(self, pull: _Pull, digest: str, limit: asyncio.Semaphore) -> None:
        """Fetch a layer into `ingest`, going on where an attempt broke off."""
        if not IMAGE_ID.fullmatch(digest):
            raise pull.fault(f"unusable digest {digest!r}")
        path = self._partial(digest)
        lock = self._transfers.setdefault(digest, asyncio.Lock())
        async with limit, lock:
            for attempt in range(ATTEMPTS):
                try:
                    await self._fetch(pull, f"{pull.base}/blobs/{digest}", path)
                    found = await asyncio.to_thread(file_digest, path)
                    if found == digest:
                        return
                    path.unlink(missing_ok=True)
                    raise pull.fault(f"failed to verify layer: expected {digest}, got {found}")
                except (aiohttp.ClientError, TimeoutError, ConnectionError):
                    if attempt + 1 == ATTEMPTS:
                        raise
                    await self._clock.sleep(0.2 * 2**attempt)

    async def _fetch(self, pull: _Pull, url: str, path: Path) -> None:
        have = path.stat().st_size if path.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        async with pull.get(url, headers) as response:
            if response.status == 416:
                return  # it was whole already
            if response.status not in (200, 206):
                raise pull.refused(response)
            mode = "ab" if response.status == 206 else "wb"
            with path.open(mode) as file:
                async for chunk in response.content.iter_chunked(CHUNK):
                    file.write(chunk)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

"""The image store on disk: blobs by digest, unpacked layers by chain id, and the index of names.

One store serves all nodes of a machine. Readers take no lock: the index is replaced whole, and re-read when it
has changed. Writers hold a file lock. Blobs (manifests and configurations) and layers are durable before the
index names them. A layer's compressed form is dropped once it is unpacked.

    blobs/sha256/<hex>     manifests and configurations
    layers/<chain>/diff    unpacked layers, shared by all images that have them
    l/<short>              short links to them, so that the mount options of a deep image fit a page
    uses/<holder>          which container of which node uses which image
    ingest/                what is under way
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import Image, NotFound, RuntimeFault
from pinnace.runtime.images import references
from pinnace.runtime.images.layers import Bounds, unpack
from pinnace.runtime.linux import syncfs
from pinnace.runtime.oci import ImageConfig
from pinnace.runtime.state import write_atomically

MAX_LAYERS = 127
STALE_TRANSFER = 86_400.0                # seconds after which a broken transfer is not resumed any more
SHORT = 20                               # hex digits in a short link: 127 of them fit into a page


class StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the index."""

    id: str
    chain: tuple[str, ...]               # chain ids, the lowest layer first
    size: int
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    manifest: str = ""                   # digest of its manifest, if it has one
    user: str = ""
    pinned: bool = False

    def view(self) -> Image:
        return Image(
            id=self.id, tags=self.tags, digests=self.digests, size=self.size, user=self.user, pinned=self.pinned
        )


class Use(msgspec.Struct, frozen=True):
    """A container's note that it needs an image's layers."""

    image: str
    chain: tuple[str, ...]
    state_dir: str


class LayerUsage(msgspec.Struct, frozen=True):
    """Counted once, when a layer is unpacked: the kubelet asks for the sum every few seconds."""

    size: int                            # bytes of its files
    disk: int                            # bytes on disk
    inodes: int


class Index(msgspec.Struct):
    images: dict[str, StoredImage] = msgspec.field(default_factory=dict)


class LayerConfig(msgspec.Struct):
    Entrypoint: list[str] | None = None
    Cmd: list[str] | None = None
    Env: list[str] | None = None
    User: str | None = None
    WorkingDir: str | None = None
    StopSignal: str | None = None
    Volumes: dict[str, object] | None = None


class RootFs(msgspec.Struct):
    diff_ids: list[str]


class ImageFile(msgspec.Struct):
    """An image's configuration blob, as far as it concerns us."""

    rootfs: RootFs
    config: LayerConfig | None = None
    architecture: str = ""
    os: str = ""

    def run_config(self) -> ImageConfig:
        config = self.config or LayerConfig()
        return ImageConfig(
            entrypoint=tuple(config.Entrypoint or ()),
            cmd=tuple(config.Cmd or ()),
            env=tuple(config.Env or ()),
            user=config.User or "",
            working_dir=config.WorkingDir or "",
            stop_signal=config.StopSignal or "",
            volumes=tuple(config.Volumes or ()),
        )


def chain_ids(diff_ids: list[str]) -> tuple[str, ...]:
    """The names of the stacks: the first layer's own digest, then sha256 of "parent child" (OCI image spec)."""
    chain: list[str] = []
    for diff in diff_ids:
        if not references.IMAGE_ID.fullmatch(diff):
            raise RuntimeFault(f"unusable layer digest {diff!r}")
        joined = f"{chain[-1]} {diff}".encode() if chain else b""
        chain.append("sha256:" + hashlib.sha256(joined).hexdigest() if chain else diff)
    return tuple(chain)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Lock:
    """Against other threads and other processes; may be nested."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._threads, self._path.open("wb") as file:
            if self._depth == 0:
                fcntl.flock(file, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1


class ImageStore:
    """All methods block; callers on a loop use a thread."""

    def __init__(self, root: Path, randomness: Randomness, bounds: Bounds = Bounds()) -> None:  # noqa: B008
        self.root = root
        self.links = root / "l"
        self._blobs = root / "blobs" / "sha256"
        self._layers = root / "layers"
        self._uses = root / "uses"
        self.ingest = root / "ingest"
        self._index_file = root / "index.json"
        self._randomness = randomness
        self._bounds = bounds
        self._cached: tuple[tuple[int, int, int], Index] = ((0, 0, 0), Index())
        self._configs: dict[str, ImageFile] = {}
        # Unpacking takes seconds, naming a moment: containers are created while an image is loaded. Whoever
        # needs both takes `_unpacking` first.
        self._unpacking = _Lock(root / "unpacking.lock")
        self._naming = _Lock(root / "naming.lock")
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self._blobs, self._layers, self._uses, self.ingest, self.links):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def new_name(self) -> str:
        """For a file or directory that must not meet another."""
        return self._randomness.token(8).hex()

    def index(self) -> Index:
        """The index as it is now; not to be changed by the caller."""
        try:
            found = self._index_file.stat()
        except FileNotFoundError:
            return Index()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        cached_stamp, cached = self._cached
        if stamp == cached_stamp:
            return cached
        index = msgspec.json.decode(self._index_file.read_bytes(), type=Index)
        self._cached = (stamp, index)
        return index

    def _save(self, index: Index) -> None:
        write_atomically(self._index_file, msgspec.json.encode(index))
        fd = os.open(self._index_file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._sync_directory(self.root)

    @staticmethod
    def _sync_directory(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def find(self, reference: str) -> StoredImage | None:
        """By id, tag or digest, in any of their spellings."""
        images = self.index().images
        wanted = reference if reference.startswith("sha256:") else f"sha256:{reference}"
        if references.IMAGE_ID.fullmatch(wanted):
            return images.get(wanted)
        parsed = references.parse(reference)
        by_digest = f"{parsed.name}@{parsed.digest}" if parsed.digest else ""
        for image in images.values():
            if by_digest and by_digest in image.digests:
                return image
            if not by_digest and parsed.tagged in image.tags:
                return image
        return None

    def require(self, reference: str) -> StoredImage:
        image = self.find(reference)
        if image is None:
            raise NotFound(f'no such image: "{reference}"')
        return image

    def config(self, image_id: str) -> ImageFile:
        known = self._configs.get(image_id)
        if known is None:
            if len(self._configs) > 256:
                self._configs.clear()
            known = self._configs[image_id] = self.parse_config(self.read_blob(image_id))
        return known

    @staticmethod
    def parse_config(data: bytes) -> ImageFile:
        try:
            parsed = msgspec.json.decode(data, type=ImageFile)
        except msgspec.MsgspecError as error:
            raise RuntimeFault(f"unusable image configuration: {error}") from error
        if len(parsed.rootfs.diff_ids) > MAX_LAYERS:
            raise RuntimeFault(f"image has {len(parsed.rootfs.diff_ids)} layers; at most {MAX_LAYERS} can be mounted")
        return parsed

    def read_blob(self, digest: str) -> bytes:
        try:
            return (self._blobs / digest.removeprefix("sha256:")).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no such blob: {digest}") from None

    def write_blob(self, data: bytes, expect: str = "") -> str:
        """Keep a small blob, durably; its digest is checked against what was expected."""
        digest = digest_of(data)
        if expect and digest != expect:
            raise RuntimeFault(f"digest mismatch: expected {expect}, got {digest}")
        path = self._blobs / digest.removeprefix("sha256:")
        if not path.exists():
            fresh = self.ingest / f"blob-{self.new_name()}"
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
            self._sync_directory(self._blobs)
        return digest

    def has_layer(self, chain: str) -> bool:
        return (self._layers / chain.removeprefix("sha256:") / "diff").is_dir()

    def layer(self, chain: str) -> Path:
        """The unpacked layer's directory."""
        return self._layers / chain.removeprefix("sha256:") / "diff"

    def short(self, chain: str) -> str:
        return chain.removeprefix("sha256:")[:SHORT]

    def add_layer(self, file: BinaryIO, diff_id: str, chain: str, parents: tuple[str, ...]) -> None:
        """Unpack a layer on top of `parents` (lowest first), unless it is there. Checks its diff id."""
        if self.has_layer(chain):
            return
        fresh = self.ingest / f"layer-{self.new_name()}"
        (fresh / "diff").mkdir(parents=True, mode=0o755)
        (fresh / "diff").chmod(0o755)
        try:
            lowers = [self.layer(parent) for parent in reversed(parents)]
            found, size = unpack(file, fresh / "diff", lowers, self._bounds)
            if found != diff_id:
                raise RuntimeFault(f"layer digest mismatch: expected {diff_id}, got {found}")
            note = LayerUsage(size, *_disk_usage(fresh / "diff"))
            (fresh / "usage.json").write_bytes(msgspec.json.encode(note))
            syncfs(str(fresh))
            fresh.rename(self._layers / chain.removeprefix("sha256:"))
            link = self.links / self.short(chain)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(f"../layers/{chain.removeprefix('sha256:')}/diff")
            self._sync_directory(self._layers)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def install(
        self, config: bytes, layers: Sequence[Callable[[], BinaryIO]], *, tags: tuple[str, ...] = (),
        digests: tuple[str, ...] = (), manifest: bytes = b"",
    ) -> StoredImage:
        """Unpack the layers that are not there yet and enter the image. `layers` open the compressed layers."""
        parsed = self.parse_config(config)
        diff_ids = parsed.rootfs.diff_ids
        if len(layers) != len(diff_ids):
            raise RuntimeFault(f"image has {len(layers)} layers but its configuration names {len(diff_ids)}")
        chain = chain_ids(diff_ids)
        with self._unpacking():  # or another process's garbage collection takes the layers before they are named
            for number, (diff_id, name) in enumerate(zip(diff_ids, chain, strict=True)):
                if not self.has_layer(name):
                    with layers[number]() as file:
                        self.add_layer(file, diff_id, name, chain[:number])
            kept = self.write_blob(manifest) if manifest else ""
            return self.commit(config, tags=tags, digests=digests, manifest=kept)

    def commit(
        self, config: bytes, *, tags: tuple[str, ...] = (), digests: tuple[str, ...] = (), manifest: str = "",
        pinned: bool = False,
    ) -> StoredImage:
        """Enter an image whose layers are all there. A tag moves here from the image that had it."""
        parsed = self.parse_config(config)
        chain = chain_ids(parsed.rootfs.diff_ids)
        with self._naming():
            missing = [layer for layer in chain if not self.has_layer(layer)]
            if missing:
                raise RuntimeFault(f"layers are missing: {', '.join(missing)}")
            id = self.write_blob(config)
            old = self.index().images
            previous = old.get(id)
            images = {
                key: msgspec.structs.replace(image, tags=tuple(tag for tag in image.tags if tag not in tags))
                for key, image in old.items()
            }
            if previous is not None:
                tags = tuple(dict.fromkeys((*images[id].tags, *tags)))
                digests = tuple(dict.fromkeys((*previous.digests, *digests)))
            unpacked = sum(self._usage(self.layer(layer).parent).size for layer in chain)
            image = StoredImage(
                id=id, chain=chain, size=len(config) + unpacked, tags=tags,
                digests=digests, manifest=manifest or (previous.manifest if previous else ""),
                user=parsed.run_config().user, pinned=pinned or (previous is not None and previous.pinned),
            )  # fmt: skip
            images[id] = image
            self._save(Index(images))
            return image

    def _usage(self, directory: Path) -> LayerUsage:
        try:
            return msgspec.json.decode((directory / "usage.json").read_bytes(), type=LayerUsage)
        except (OSError, msgspec.MsgspecError):
            return LayerUsage(0, 0, 0)

    def remove(self, reference: str) -> None:
        """Drop the image with all its names (CRI's RemoveImage); its layers stay while a container uses them."""
        with self._naming():
            image = self.find(reference)
            if image is not None:
                self._save(Index({key: value for key, value in self.index().images.items() if key != image.id}))
        self.collect()

    def acquire(self, reference: str, holder: str, state_dir: str) -> StoredImage:
        """Note that a container uses an image: it can be removed from the index, but its layers stay."""
        with self._naming():
            image = self.require(reference)
            note = Use(image.id, image.chain, state_dir)
            write_atomically(self._uses / holder, msgspec.json.encode(note))
            return image

    def release(self, holder: str) -> None:
        (self._uses / holder).unlink(missing_ok=True)

    def _notes(self) -> Iterator[tuple[Path, Use]]:
        for path in list(self._uses.iterdir()):
            with contextlib.suppress(msgspec.MsgspecError, FileNotFoundError):
                yield path, msgspec.json.decode(path.read_bytes(), type=Use)

    def sweep(self, state_dir: str, alive: Collection[str], now: float) -> None:
        """Drop the notes of a node's containers that are no more, and transfers given up long ago."""
        with self._naming():  # nobody is writing a note now
            for path in list(self._uses.glob(".*")):
                path.unlink()
        for path, use in self._notes():
            gone = not Path(use.state_dir).is_dir()
            if gone or (use.state_dir == state_dir and path.name not in alive):
                path.unlink(missing_ok=True)
        for path in list(self.ingest.glob("pull-*")):
            with contextlib.suppress(FileNotFoundError):
                if now - path.stat().st_mtime > STALE_TRANSFER:
                    path.unlink()

    def collect(self) -> None:
        """Remove layers and blobs that neither an image nor a container needs."""
        with self._unpacking():
            for path in list(self.ingest.iterdir()):
                if path.name.startswith(("layer-", "blob-")):  # of a process that died while unpacking
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            with self._naming():
                doomed = self._unused()
            for path in doomed:
                shutil.rmtree(path)

    def _unused(self) -> list[Path]:
        """Take what nobody needs out of its place; removing it then needs no lock on the names."""
        layers: set[str] = set()
        blobs: set[str] = set()
        for image in self.index().images.values():
            layers.update(image.chain)
            blobs.update((image.id, image.manifest))
        for _, use in self._notes():
            layers.update(use.chain)
            blobs.add(use.image)
        doomed = []
        for path in list(self._layers.iterdir()):
            if f"sha256:{path.name}" not in layers:
                (self.links / self.short(path.name)).unlink(missing_ok=True)
                doomed.append(path.rename(self.ingest / f"layer-{self.new_name()}"))
        for path in list(self._blobs.iterdir()):
            if f"sha256:{path.name}" not in blobs:
                path.unlink()
        return doomed

    def usage(self) -> tuple[int, int]:
        """(bytes, inodes) of blobs and layers on disk, as counted when each was unpacked."""
        total, inodes = _disk_usage(self._blobs)
        for path in list(self._layers.iterdir()):
            layer = self._usage(path)
            total, inodes = total + layer.disk, inodes + layer.inodes
        return total, inodes


def _disk_usage(top: Path) -> tuple[int, int]:
    """(bytes, inodes) below a directory; of hard links each counts once."""
    total, seen = 0, set[int]()
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):
                found = Path(directory, name).lstat()
                if found.st_ino not in seen:
                    seen.add(found.st_ino)
                    total += found.st_blocks * 512
    return total, len(seen)

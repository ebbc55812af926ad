"""Loading images from files: docker-archive (`docker save`) and OCI layout; tar, gzipped tar, or a directory."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from pinnace.runtime.cri import ImagePullFault, RuntimeFault
from pinnace.runtime.images import references
from pinnace.runtime.images.layers import CHUNK, decompressed
from pinnace.runtime.images.store import ImageStore, StoredImage, digest_of
from pinnace.runtime.linux import machine

MAX_JSON = 8 << 20
MAX_MEMBERS = 100_000
MAX_NESTING = 4
MANIFEST_TYPES = frozenset({
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
})  # fmt: skip
INDEX_TYPES = frozenset({
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
})  # fmt: skip


class Files(Protocol):
    """What an archive holds, by name."""

    def exists(self, name: str) -> bool: ...

    def open(self, name: str) -> BinaryIO: ...


class DirectoryFiles:
    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, name: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise RuntimeFault(f"{name!r} leaves the image layout")
        return path

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def open(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")


class TarFiles:
    """Random access to a tar that is not compressed. `docker save` links equal layers to each other."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is the caller's to close)
        self._members: dict[str, tarfile.TarInfo] = {}
        for count, member in enumerate(self._tar):
            if count >= MAX_MEMBERS:
                raise RuntimeFault(f"archive has more than {MAX_MEMBERS} members")
            self._members[self._normal(member.name)] = member

    @staticmethod
    def _normal(name: str) -> str:
        out: list[str] = []
        for part in name.split("/"):
            if part == ".." and out:
                out.pop()
            elif part not in ("", ".", ".."):
                out.append(part)
        return "/".join(out)

    def _member(self, name: str) -> tarfile.TarInfo | None:
        name = self._normal(name)
        for _ in range(8):
            member = self._members.get(name)
            if member is None or member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                return None
            base = name.rpartition("/")[0] + "/" if member.issym() else ""
            name = self._normal(base + member.linkname)
        return None

    def exists(self, name: str) -> bool:
        return self._member(name) is not None

    def open(self, name: str) -> BinaryIO:
        member = self._member(name)
        file = self._tar.extractfile(member) if member is not None else None
        if file is None:
            raise RuntimeFault(f"{name!r} is missing in the archive")
        return cast(BinaryIO, file)


@contextlib.contextmanager
def open_archive(path: str, scratch: Path) -> Iterator[Files]:
    """The files of a directory, a tar, or a compressed tar (which is unpacked into `scratch` first)."""
    where = Path(path)
    if where.is_dir():
        yield DirectoryFiles(where)
        return
    with contextlib.ExitStack() as stack:
        file: BinaryIO = stack.enter_context(where.open("rb"))
        plain = decompressed(file)
        if plain is not file:
            temporary = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=scratch)))
            shutil.copyfileobj(plain, temporary, CHUNK)
            temporary.seek(0)
            file = temporary
        yield TarFiles(file)


def load(store: ImageStore, path: str) -> tuple[StoredImage, ...]:
    """Take in every image of an archive. Blocks. Raises RuntimeFault for what is no image."""
    try:
        with open_archive(path, store.ingest) as files:
            if files.exists("index.json"):
                return tuple(_load_oci(store, files))
            if files.exists("manifest.json"):
                return tuple(_load_docker(store, files))
            raise RuntimeFault(f"{path} is neither a docker archive nor an OCI layout")
    except (tarfile.TarError, EOFError, OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeFault(f"{path} cannot be loaded as an image: {error}") from error


def _json(files: Files, name: str) -> tuple[Any, bytes]:
    with files.open(name) as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise RuntimeFault(f"{name} is larger than {MAX_JSON} bytes")
    return msgspec.json.decode(data), data


def _opener(files: Files, name: str) -> Callable[[], BinaryIO]:
    return lambda: files.open(name)


def _load_docker(store: ImageStore, files: Files) -> Iterator[StoredImage]:
    entries, _ = _json(files, "manifest.json")
    for entry in entries:
        _, config = _json(files, entry["Config"])
        tags = tuple(references.parse(tag).tagged for tag in entry.get("RepoTags") or ())
        yield store.install(config, [_opener(files, name) for name in entry["Layers"]], tags=tags)


def _load_oci(store: ImageStore, files: Files) -> Iterator[StoredImage]:
    index, _ = _json(files, "index.json")
    docker_tags = _docker_tags(files)
    found = False
    for descriptor in index["manifests"]:
        chosen = _choose(files, descriptor)
        if chosen is None:
            continue
        found = True
        manifest, raw = chosen
        config_digest = str(manifest["config"]["digest"])
        _, config = _json(files, _blob(config_digest))
        if digest_of(config) != config_digest:
            raise RuntimeFault(f"digest mismatch: expected {config_digest}, got {digest_of(config)}")
        names = _names(descriptor.get("annotations") or {}) or docker_tags.get(config_digest, ())
        tags = tuple(dict.fromkeys(name.tagged for name in names if name.tagged))
        digests = tuple(dict.fromkeys(f"{name.name}@{descriptor['digest']}" for name in names))
        layers = [_opener(files, _blob(str(layer["digest"]))) for layer in manifest["layers"]]
        yield store.install(config, layers, tags=tags, digests=digests, manifest=raw)
    if not found:
        raise RuntimeFault(f"the archive has no image for linux/{machine()}")


def _docker_tags(files: Files) -> dict[str, tuple[references.Reference, ...]]:
    """`docker save` of today writes both forms; the names are in the older one."""
    if not files.exists("manifest.json"):
        return {}
    entries, _ = _json(files, "manifest.json")
    return {
        "sha256:" + str(entry["Config"]).rpartition("/")[2].removesuffix(".json"): tuple(
            references.parse(tag) for tag in entry.get("RepoTags") or ()
        )
        for entry in entries
    }


def _names(annotations: dict[str, str]) -> tuple[references.Reference, ...]:
    """containerd writes the full name; others only what stands after the colon, which names nothing."""
    for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name"):
        name = annotations.get(key, "")
        if name and (key.startswith("io.") or "/" in name or ":" in name):
            with contextlib.suppress(ImagePullFault):
                return (references.parse(name),)
    return ()


def _blob(digest: str) -> str:
    if not references.IMAGE_ID.fullmatch(digest):
        raise RuntimeFault(f"unusable digest {digest!r}")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def choose_platform(manifests: Sequence[dict[str, Any]], architecture: str) -> dict[str, Any] | None:
    """The entry of an index for linux on this architecture; one without a platform serves as a last resort."""
    candidates = [entry for entry in manifests if "platform" not in entry]
    for entry in manifests:
        platform = entry.get("platform") or {}
        if platform.get("os") == "linux" and platform.get("architecture") == architecture:
            return entry
    return candidates[0] if candidates else None


def _choose(files: Files, descriptor: dict[str, Any], depth: int = 0) -> tuple[dict[str, Any], bytes] | None:
    """Follow an index to the manifest for this machine; None if there is none (or it is an attestation)."""
    if depth > MAX_NESTING:
        raise RuntimeFault("image index is nested too deeply")
    platform = descriptor.get("platform") or {}
    if depth == 0 and platform and (platform.get("os"), platform.get("architecture")) != ("linux", machine()):
        return None
    name = _blob(str(descriptor["digest"]))
    if not files.exists(name):
        return None
    document, raw = _json(files, name)
    if digest_of(raw) != descriptor["digest"]:
        raise RuntimeFault(f"digest mismatch: expected {descriptor['digest']}, got {digest_of(raw)}")
    if "manifests" in document:
        entry = choose_platform(document["manifests"], machine())
        return _choose(files, entry, depth + 1) if entry is not None else None
    return document, raw



"""Image references: `busybox` → `docker.io/library/busybox:latest`, by the rules of distribution's grammar. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pinnace.runtime.cri import ImagePullFault

DEFAULT_DOMAIN = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DOMAIN = re.compile(r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9.-]*[a-zA-Z0-9]|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed, complete reference. `tag` is empty only where a digest is given without one."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def tagged(self) -> str:
        return f"{self.name}:{self.tag}" if self.tag else ""

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Raises ImagePullFault(InvalidImageName) for what is no reference."""
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.fullmatch(digest):
        raise _invalid(text)
    head, slash, tail = rest.partition("/")
    if slash and (head == "localhost" or "." in head or ":" in head or head.lower() != head):
        domain, remainder = head, tail
    else:
        domain, remainder = DEFAULT_DOMAIN, rest
    path, colon, tag = remainder.partition(":")
    if domain in ("docker.io", "index.docker.io"):
        domain = DEFAULT_DOMAIN
        if "/" not in path:
            path = f"library/{path}"
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text)
    if not _DOMAIN.fullmatch(domain) or not _NAME.fullmatch(path) or len(domain) + 1 + len(path) > 255:
        raise _invalid(text)
    return Reference(domain, path, tag if tag or digest else "latest", digest)


def _invalid(text: str) -> ImagePullFault:
    return ImagePullFault(
        f'Failed to apply default image tag "{text}": couldn\'t parse image name "{text}": invalid reference format',
        "InvalidImageName",
    )

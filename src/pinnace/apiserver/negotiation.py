"""What a client wants to read: JSON or YAML, the object itself, a table of it, or its metadata only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pinnace.api.errors import NotAcceptable

JSON = "application/json"
YAML = "application/yaml"
_OFFERED = f"{JSON}, {YAML}"
_VIEWS = frozenset({"Table", "PartialObjectMetadata", "PartialObjectMetadataList"})


@dataclass(frozen=True, slots=True)
class Format:
    """`view` is "" (the object as it is), Table, PartialObjectMetadata or PartialObjectMetadataList; `version` the
    version of meta.k8s.io that it is asked in."""

    media: str = JSON
    view: str = ""
    version: str = "v1"


PLAIN = Format()


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """`application/json; charset=utf-8` → the type in lower case, and its parameters."""
    kind, _, rest = header.partition(";")
    parameters = {}
    for part in rest.split(";") if rest else ():
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    return kind.strip().lower(), parameters


@lru_cache(maxsize=512)
def accepts(header: str) -> tuple[tuple[str, dict[str, str]], ...]:
    """The ranges of an Accept header, the most wanted first; equals stay in their order."""
    ranges = []
    for position, text in enumerate(header.split(",")):
        kind, parameters = media_type(text)
        if not kind:
            continue
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        if weight > 0:
            ranges.append((-weight, position, kind, parameters))
    ranges.sort(key=lambda found: found[:2])
    return tuple((kind, parameters) for _, _, kind, parameters in ranges)


@lru_cache(maxsize=512)
def negotiate(header: str, *, views: bool = True, streaming: bool = False) -> Format:
    """The first range that the server can answer. Raises NotAcceptable.

    `views`: tables and metadata are on offer; `streaming`: only what can be sent line by line is.
    """
    if not header.strip() or header == JSON:
        return PLAIN
    for kind, parameters in accepts(header):
        if kind in (JSON, "*/*", "application/*"):
            media = JSON
        elif kind in (YAML, "application/x-yaml") and not streaming:
            media = YAML
        else:
            continue
        view = parameters.get("as", "")
        if not view:
            return Format(media)
        asked = parameters.get("v", "v1")
        known = view in _VIEWS and parameters.get("g", "") == "meta.k8s.io" and asked in ("v1", "v1beta1")
        if known and views:
            return Format(media, view, asked)
    raise NotAcceptable(f"only the following media types are accepted: {_OFFERED}")

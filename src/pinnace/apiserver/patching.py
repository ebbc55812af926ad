"""From a patch to a function on objects, which the registry may apply again when somebody else was faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from pinnace.api import codec, errors, strict
from pinnace.api.patch import PatchError, json_patch, merge_patch, strategic
from pinnace.api.patch.fields import field, name_of
from pinnace.apiserver import bodies
from pinnace.apiserver.metadata import content
from pinnace.apiserver.negotiation import media_type
from pinnace.apiserver.registry import Change, Registry
from pinnace.client.transport import Request

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_OFFERED = (JSON_PATCH, MERGE, STRATEGIC)
_MOST_OPERATIONS = 10_000
# Takes plain data, which may be changed in place, what the patch says of it, and the name of its type.
Merge = Callable[[Any, Any, str], Any]


def change_for(
    request: Request, registry: Registry, validation: str, warnings: list[str], *, status: bool = False
) -> tuple[Change, bool]:
    """The change that a PATCH asks for, and whether it is for one revision only. Raises BadRequest and
    UnsupportedMediaType; the change itself raises BadRequest and Invalid.

    `status`: of the change, only status and metadata will be taken over."""
    media = request.headers.get("content-type", "")
    if media not in _OFFERED:
        media, _ = media_type(media)
        check_media(media)
    text = request.body
    patch = bodies.plain(text, registry.kind.kind)
    asked = _Asked(registry, patch, merger(media, patch, text), validation, warnings)
    if media == JSON_PATCH:
        return asked.whole, pinned(patch, media)
    # What else there is need not be taken apart and put together again: the spec is the greater part of an object.
    match patch:
        case {"status": dict(), **rest} if status and not rest:
            return asked.of_status, False
        case {"status": dict(), "metadata": {"uid": str(), **more}, **rest} if status and not (rest or more):
            return asked.of_status, False
        case {"metadata": dict() as about, **rest} if not status and not rest:
            return asked.of_metadata, bool(about.get("resourceVersion"))
    return asked.whole, pinned(patch, media)


class _Asked(msgspec.Struct, frozen=True):
    """What a patch asks for, as functions from the current object (shared) to the wanted one."""

    registry: Registry
    patch: Any
    merge: Merge
    validation: str
    warnings: list[str]

    def whole(self, current: Any) -> Any:
        kind = self.registry.kind
        data = self.merge(codec.to_dict(current), self.patch, name_of(kind.type))
        if self.validation != "Ignore":
            self._check(data)
        obj = bodies.from_dict(data, kind)
        _check_identity(obj, current)
        self.registry.resource.default(obj)
        return obj

    def of_status(self, current: Any) -> Any:
        """Of a patch of nothing else; of metadata it may give the uid."""
        status = self._patched("status", current.status)
        metadata = _own(current.metadata)
        if "metadata" in self.patch:
            metadata.uid = self.patch["metadata"]["uid"]
        # What a status lacks by default does not depend on the rest, which is shared with the current object.
        of = self.registry.kind.type
        obj = of(kind=current.kind, apiVersion=current.apiVersion, metadata=metadata, status=status)
        self.registry.resource.default(obj)
        return msgspec.structs.replace(current, metadata=obj.metadata, status=obj.status)

    def of_metadata(self, current: Any) -> Any:
        """Of a patch of nothing else."""
        metadata = self._patched("metadata", current.metadata) if current.metadata.labels else None
        if metadata is None or not metadata.labels:      # by default they may be a template's, and depend on the rest
            return self.whole(current)
        obj = self.registry.kind.type(kind=current.kind, apiVersion=current.apiVersion, metadata=metadata)
        _check_identity(obj, current)
        self.registry.resource.default(obj)
        return _with_metadata(current, obj.metadata)

    def _patched(self, name: str, part: Any) -> Any:
        """A part of the object, after the patch."""
        of: Any = type(part)
        data = self.merge(codec.to_dict(part), self.patch[name], field(name_of(self.registry.kind.type), name).of)
        if self.validation != "Ignore":
            self._check({name: data})
        try:
            return codec.decode(of, codec.encode(data), compact=True)
        except errors.BadRequest:      # which is put in terms of the whole
            return getattr(bodies.from_dict({name: data}, self.registry.kind), name)

    def _check(self, data: Any) -> None:
        """Look for fields that are not known. Raises BadRequest under Strict."""
        findings = strict.unknown_fields(self.registry.kind.type, data)
        for text in bodies.judge(findings, self.registry.kind, self.validation):
            if text not in self.warnings:
                self.warnings.append(text)


def _with_metadata(current: Any, metadata: Any) -> Any:
    """The same object with other metadata: a write may still set what stands in its spec and the like, so these are
    copied; what lies deeper is shared."""
    new = msgspec.structs.replace(current, metadata=metadata)
    of: Any = type(new)
    for name in content(of):
        value = getattr(new, name)
        if isinstance(value, msgspec.Struct):
            setattr(new, name, msgspec.structs.replace(value))
    return new


def _own(metadata: Any) -> Any:
    """A copy, with maps and lists of its own."""
    new = msgspec.structs.replace(metadata)
    new.labels, new.annotations = new.labels and {**new.labels}, new.annotations and {**new.annotations}
    new.finalizers = new.finalizers and [*new.finalizers]
    new.ownerReferences = new.ownerReferences and [*new.ownerReferences]
    return new


def check_media(media: str) -> None:
    """Raises UnsupportedMediaType for what is no patch that the server knows."""
    if media == APPLY:
        raise errors.UnsupportedMediaType(
            "server-side apply is not served yet; use client-side apply, or one of these media types: "
            + ", ".join(_OFFERED)
        )
    if media not in _OFFERED:
        raise errors.UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(_OFFERED)}"
        )


def pinned(patch: Any, media: str) -> bool:
    """The patch itself says which revision it is for."""
    if media == JSON_PATCH:
        return any(
            isinstance(step, dict) and step.get("path") == "/metadata/resourceVersion" for step in patch or ()
        )
    metadata = patch.get("metadata") if isinstance(patch, dict) else None
    return isinstance(metadata, dict) and bool(metadata.get("resourceVersion"))


def patcher(media: str, patch: Any, type: type[Any], text: bytes) -> Callable[[Any], Any]:
    """The patch as a function on plain data of that type, which may be changed in place; `text`: as it was sent.
    Raises BadRequest."""
    merge, of = merger(media, patch, text), name_of(type)
    return lambda data: merge(data, patch, of)


def merger(media: str, patch: Any, text: bytes) -> Merge:
    """How a patch of that media type is applied; `text` is the patch as it was sent. Raises BadRequest."""
    if media == JSON_PATCH:
        if not isinstance(patch, list):
            raise errors.BadRequest("error decoding patch: a JSON patch is a list of operations")
        if len(patch) > _MOST_OPERATIONS:
            raise errors.RequestEntityTooLarge(
                f"The allowed maximum operations in a JSON patch is {_MOST_OPERATIONS}, got {len(patch)}"
            )
        return _json_patch
    if not isinstance(patch, dict):
        raise errors.BadRequest("error decoding patch: a patch of this type is an object")
    if media == MERGE:
        return _merge
    # Not `in`: for bytes in bytes that first makes an exception.
    if text.find(b'"$') >= 0 or text.find(b"\\u") >= 0:
        return _strategic
    return _with_nulls if text.find(b"null") >= 0 else _plain


def _merge(data: Any, patch: Any, _: str) -> Any:
    return merge_patch.apply(data, patch)


def _json_patch(data: Any, patch: Any, _: str) -> Any:
    try:
        return json_patch.apply(data, patch)
    except PatchError as error:
        # Upstream: a patch that cannot be applied to this object is Invalid, not malformed.
        raise errors.Invalid(f"the server rejected our request due to an error in our request: {error}") from error


def _strategic(data: Any, patch: Any, of: str, *, plain: bool = False, nulls: bool = True) -> Any:
    try:
        return strategic.merge(data, patch, of, plain, nulls)
    except PatchError as error:
        raise errors.BadRequest(str(error)) from error


# Most patches have no directive, and nearly as many no null.
_with_nulls = partial(_strategic, plain=True)
_plain = partial(_strategic, plain=True, nulls=False)


def _check_identity(new: Any, current: Any) -> None:
    """A patch may not give the object another name or namespace. Raises BadRequest."""
    meta, old = new.metadata, current.metadata
    if (meta.name or "") != (old.name or ""):
        raise errors.BadRequest(
            f"the name of the object ({meta.name or ''}) does not match the name on the URL ({old.name})"
        )
    if (meta.namespace or "") != (old.namespace or ""):
        raise errors.BadRequest(
            f"the namespace of the object ({meta.namespace or ''}) does not match the namespace on the request "
            f"({old.namespace or ''})"
        )


def fresh_copies(obj: Any, *, again: bool = True) -> Change:
    """The change to a whole given object, for an update: the same each time, and each time a fresh one. Without
    `again` it is asked for once only."""
    if not again:
        return lambda _: obj
    first = [obj]
    data = codec.encode(obj)

    def change(_: Any) -> Any:
        return first.pop() if first else codec.decode(type(obj), data)

    return change

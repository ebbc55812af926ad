"""From a patch to a function on objects, which the registry may apply again when somebody else was faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pinnace.api import codec, errors, strict
from pinnace.api.patch import PatchError, json_patch, merge_patch, strategic
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
_MAIN = frozenset({"kind", "apiVersion", "metadata"})
_STATUS = frozenset({"kind", "apiVersion", "metadata", "status"})


def change_for(
    request: Request, registry: Registry, validation: str, warnings: list[str], *, status: bool = False
) -> tuple[Change, bool]:
    """The change that a PATCH asks for, and whether it is for one revision only. Raises BadRequest and
    UnsupportedMediaType; the change itself raises BadRequest and Invalid.

    `status`: of the change, only status and metadata will be taken over."""
    media, kind = request.headers.get("content-type", ""), registry.kind
    if media not in _OFFERED:
        media, _ = media_type(media)
        check_media(media)
    patch = bodies.plain(request.body, kind.kind)
    apply = patcher(media, patch, kind.type, request.body)
    default = registry.resource.default
    # What else there is need not be taken apart and put together again: the spec is the greater part of an object.
    partial = media != JSON_PATCH and (_STATUS if status else _MAIN).issuperset(patch)
    uid = _uid_alone(patch) if partial and status else None

    def change(current: Any) -> Any:
        whole = not partial or not (status or current.metadata.labels)
        data = apply(codec.to_dict(current) if whole else _part(current, status, uid is None))
        findings = strict.unknown_fields(kind.type, data) if validation != "Ignore" else []
        obj = bodies.from_dict(data, kind, partial=not whole)
        for text in bodies.judge(findings, kind, validation):
            if text not in warnings:
                warnings.append(text)
        if uid is not None:
            obj.metadata = _own(current.metadata)
            obj.metadata.uid = uid or obj.metadata.uid
        _check_identity(obj, current)
        default(obj)
        if whole:
            return obj
        # What metadata and status lack by default does not depend on the rest, which is shared with the current
        # object. (Labels may, where there are none: then the whole is patched.)
        if status:
            return msgspec.structs.replace(current, metadata=obj.metadata, status=obj.status)
        return _with_metadata(current, obj.metadata)

    return change, pinned(patch, media)


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


def _uid_alone(patch: Any) -> str | None:
    """The uid that a patch gives, if that is all that it says of metadata; "" if it says nothing. It need not be
    patched then. None: it does more."""
    metadata = patch.get("metadata", {})
    if metadata == {}:
        return ""
    if isinstance(metadata, dict) and len(metadata) == 1 and isinstance(metadata.get("uid"), str):
        return str(metadata["uid"])
    return None


def _own(metadata: Any) -> Any:
    """A copy, with maps and lists of its own."""
    new = msgspec.structs.replace(metadata)
    new.labels, new.annotations = new.labels and {**new.labels}, new.annotations and {**new.annotations}
    new.finalizers = new.finalizers and [*new.finalizers]
    new.ownerReferences = new.ownerReferences and [*new.ownerReferences]
    return new


def _part(current: Any, status: bool, metadata: bool) -> dict[str, Any]:
    """Plain data of the object's metadata, and perhaps of its status."""
    data: dict[str, Any] = {"kind": current.kind, "apiVersion": current.apiVersion}
    if metadata:
        data["metadata"] = codec.to_dict(current.metadata)
    if status:
        data["status"] = codec.to_dict(current.status)
    return data


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
    """A function on plain data that may be changed in place; `text` is the patch as it was sent. Raises BadRequest."""
    if media == JSON_PATCH:
        if not isinstance(patch, list):
            raise errors.BadRequest("error decoding patch: a JSON patch is a list of operations")
        if len(patch) > _MOST_OPERATIONS:
            raise errors.RequestEntityTooLarge(
                f"The allowed maximum operations in a JSON patch is {_MOST_OPERATIONS}, got {len(patch)}"
            )
        return lambda data: _json_patch(data, patch)
    if not isinstance(patch, dict):
        raise errors.BadRequest("error decoding patch: a patch of this type is an object")
    if media == MERGE:
        return lambda data: merge_patch.apply(data, patch)
    plain = b'"$' not in text and b"\\u" not in text
    nulls = b"null" in text
    return lambda data: _strategic(data, patch, type, plain, nulls)


def _json_patch(data: Any, patch: list[Any]) -> Any:
    try:
        return json_patch.apply(data, patch)
    except PatchError as error:
        # Upstream: a patch that cannot be applied to this object is Invalid, not malformed.
        raise errors.Invalid(f"the server rejected our request due to an error in our request: {error}") from error


def _strategic(data: Any, patch: dict[str, Any], type: type[Any], plain: bool, nulls: bool) -> Any:
    try:
        return strategic.apply(data, patch, type, plain=plain, nulls=nulls)
    except PatchError as error:
        raise errors.BadRequest(str(error)) from error


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

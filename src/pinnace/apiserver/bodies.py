"""From a request's body to an object: JSON or YAML, of the kind that the path takes, checked field by field."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from pinnace.api import codec, strict, yaml
from pinnace.api.errors import BadRequest, UnsupportedMediaType
from pinnace.api.kinds import Kind
from pinnace.apiserver import protobuf
from pinnace.apiserver.negotiation import JSON, YAML, media_type
from pinnace.client.transport import Request

K = TypeVar("K")

_YAML = frozenset({YAML, "application/x-yaml", "text/yaml", "text/x-yaml"})


class _TypeMeta(msgspec.Struct):
    kind: str | None = None
    apiVersion: str | None = None


_peek = msgspec.json.Decoder(_TypeMeta).decode


def media_of(request: Request) -> str:
    """JSON or YAML. Raises UnsupportedMediaType for everything else."""
    header = request.headers.get("content-type", "")
    if not header or header == JSON:
        return JSON
    kind, _ = media_type(header)
    if kind in ("", JSON):
        return JSON
    if kind in _YAML:
        return YAML
    if kind == protobuf.MEDIA:
        return protobuf.MEDIA
    raise UnsupportedMediaType(
        "the body of the request was in an unknown format - accepted media types include: "
        f"{JSON}, {YAML}, {protobuf.MEDIA}"
    )


def as_json(request: Request, kind: Kind) -> bytes:
    """The body as JSON text, whose syntax is not checked yet. Raises BadRequest, UnsupportedMediaType."""
    match media_of(request):
        case "application/json":
            return request.body
        case "application/yaml":
            return json.dumps(from_yaml(request.body, kind.kind)).encode()
        case _:
            return codec.encode(from_protobuf(request.body, kind))


def from_protobuf(body: bytes, kind: Kind) -> Any:
    """Raises BadRequest."""
    if not body:
        return {}
    try:
        found = protobuf.envelope(body)
        if kind.kind != "DeleteOptions":      # which clients send under the version of what they delete
            check_type(found.kind, found.api_version, kind)
        return {**protobuf.decode(kind.type, found.raw), "kind": kind.kind, "apiVersion": kind.api_version}
    except (ValueError, RecursionError) as error:
        raise _unreadable(kind.kind, f"proto parse error: {error}") from error


def from_yaml(body: bytes, what: str) -> Any:
    """Raises BadRequest."""
    try:
        return yaml.load(body)
    except (ValueError, RecursionError) as error:
        raise _unreadable(what, f"yaml parse error: {error}") from error


def plain(body: bytes, what: str) -> Any:
    """JSON to dicts and lists. Raises BadRequest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(what, f"json parse error: {error}") from error


def decode(request: Request, kind: Kind, validation: str, *, ours: bool = False) -> tuple[Any, list[str]]:
    """The request's object and warnings about its fields. Raises BadRequest, UnsupportedMediaType.

    `validation` is the query's fieldValidation: what Strict refuses, Warn warns of, and Ignore drops. `ours`: a part
    of ours has encoded a typed object.
    """
    body = request.body if request.headers.get("content-type") == JSON else as_json(request, kind)
    if not body:
        raise _unreadable(kind.kind, "unexpected end of JSON input")
    obj = typed(body, kind, compact=ours)
    if validation == "Ignore" or media_of(request) == protobuf.MEDIA:
        return obj, []
    findings = strict.unknown_fields(kind.type, plain(body, kind.kind))
    if validation == "Strict" and media_of(request) == JSON:
        findings = [*strict.duplicate_fields(body), *findings]
    return obj, judge(findings, kind, validation)


def given(request: Request, kind: Kind) -> Any:
    """The object that a part of this process has given in a body's stead: a copy that shares all but its metadata's
    fields. Raises BadRequest."""
    obj: Any = request.given
    if obj.__class__ is not kind.type:
        raise BadRequest(cannot(kind, f"a {obj.__class__.__name__} was given"))
    return replace(obj, metadata=replace(obj.metadata))


def metadata_and_status(body: bytes, kind: Kind) -> Any:
    """An object of that kind with nothing but these two, from what our own encoder wrote. Raises BadRequest."""
    of: Any = kind.type
    partial = _partial(of)
    obj = codec.decode(partial, body, compact=True)
    if obj.kind != kind.kind or obj.apiVersion != kind.api_version:
        check_type(obj.kind or "", obj.apiVersion or "", kind)
    if "status" in partial.__struct_fields__:
        return of(kind=kind.kind, apiVersion=kind.api_version, metadata=obj.metadata, status=obj.status)
    return of(kind=kind.kind, apiVersion=kind.api_version, metadata=obj.metadata)


@cache
def _partial(of: Any) -> type[Any]:
    taken = [f for f in msgspec.structs.fields(of) if f.name in ("kind", "apiVersion", "metadata", "status")]
    fields = [(field.name, field.type, _default(field)) for field in taken]
    return msgspec.defstruct(of.__name__, fields, module=of.__module__, kw_only=True, gc=False)


def _default(of: msgspec.structs.FieldInfo) -> Any:
    if of.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=of.default_factory)
    return msgspec.field(default=of.default)


def typed(body: bytes, kind: Kind, *, compact: bool = False) -> Any:
    """JSON to an object of that kind, which is what the body says it is. Raises BadRequest."""
    try:
        obj = codec.decode(kind.type, body, compact=compact)
    except BadRequest as error:
        check_type(*_type_of(body, kind), kind)
        raise BadRequest(cannot(kind, _detail(error))) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(kind.kind, f"json parse error: {error}") from error
    if obj.kind != kind.kind or obj.apiVersion != kind.api_version:
        check_type(obj.kind, obj.apiVersion, kind)
        obj.kind, obj.apiVersion = kind.kind, kind.api_version
    return obj


def from_dict(data: Any, kind: Kind, *, partial: bool = False) -> Any:
    """The same, of a patched object; `partial`: only its metadata and status are there and count. Raises BadRequest."""
    if not isinstance(data, dict):
        raise BadRequest(cannot(kind, "the patched object is no object"))
    check_type(str(data.get("kind") or ""), str(data.get("apiVersion") or ""), kind)
    try:
        text = codec.encode(data)
        return metadata_and_status(text, kind) if partial else codec.decode(kind.type, text, compact=True)
    except BadRequest as error:
        raise BadRequest(cannot(kind, _detail(error))) from error
    except RecursionError as error:
        raise BadRequest(cannot(kind, "json: exceeded max depth")) from error


def judge(findings: list[str], kind: Kind, validation: str) -> list[str]:
    """Refuse under Strict, warn under Warn. Raises BadRequest."""
    if validation == "Strict" and findings:
        raise BadRequest(cannot(kind, f"strict decoding error: {', '.join(findings)}"))
    return findings if validation == "Warn" else []


def cannot(kind: Kind, why: str) -> str:
    return f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}'


def check_type(name: str, api_version: str, kind: Kind) -> None:
    """Raises BadRequest if a body says that it is something else; saying nothing is fine."""
    if api_version and api_version != kind.api_version:
        raise BadRequest(
            f"the API version in the data ({api_version}) does not match the expected API version ({kind.api_version})"
        )
    if name and name != kind.kind:
        raise BadRequest(
            f'{name} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            f'no kind "{name}" is expected here, only "{kind.kind}"'
        )


def _type_of(body: bytes, kind: Kind) -> tuple[str, str]:
    try:
        found = _peek(body)
    except msgspec.ValidationError:
        return "", ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(kind.kind, f"json parse error: {error}") from error
    return found.kind or "", found.apiVersion or ""


def _unreadable(what: str, why: str) -> BadRequest:
    return BadRequest(
        f"the object provided is unrecognized (must be of type {what}): couldn't get version/kind; {why}"
    )


def _detail(error: BadRequest) -> str:
    return error.message.partition(" cannot be handled: ")[2] or error.message

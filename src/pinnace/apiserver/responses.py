"""Answers: from entries, lists, statuses and plain documents to bytes in the form the client asked for."""

from __future__ import annotations

import json
from typing import Any

from pinnace.api import codec, yaml
from pinnace.api.errors import NotAcceptable, StatusError
from pinnace.apiserver import negotiation
from pinnace.apiserver.cache import Entry, Form
from pinnace.apiserver.listing import Listed
from pinnace.apiserver.negotiation import JSON, YAML, Format
from pinnace.apiserver.tables import Tables, metadata_only
from pinnace.client.client import ObjectList
from pinnace.client.transport import Response

_JSON_HEADERS = {"content-type": JSON}
_YAML_HEADERS = {"content-type": YAML}
NO_STORE = {"cache-control": "no-cache, private"}


def render(body: bytes, format: Format, *, status: int = 200, object: Any = None, pretty: bool = False) -> Response:
    """JSON text as the client wants it."""
    if format.media == YAML:
        return Response(status, dict(_YAML_HEADERS), yaml.dump(json.loads(body)).encode())
    if pretty:
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False).encode()
    return Response(status, dict(_JSON_HEADERS), body + b"\n", object)


def document(value: Any, format: Format = negotiation.PLAIN, *, status: int = 200, pretty: bool = False) -> Response:
    """Any JSON value or wire object."""
    return render(codec.encode(value), format, status=status, pretty=pretty, object=value)


def one(
    entry: Entry, form: Form, format: Format, tables: Tables | None, *, status: int = 200, pretty: bool = False
) -> Response:
    """One object."""
    match format.view:
        case "":
            body = form.whole(entry.item)
            return render(body, format, status=status, object=entry.object, pretty=pretty)
        case "Table" if tables is not None:
            body = tables.table([entry], {"resourceVersion": entry.object.metadata.resourceVersion})
        case "PartialObjectMetadata":
            body = metadata_only(entry, format.version)
        case _:
            raise NotAcceptable(f"{format.view} is a form of lists")
    return render(body, format, status=status, pretty=pretty)


def many(
    listed: Listed, form: Form, format: Format, tables: Tables | None, *, pretty: bool = False
) -> Response:
    """A list."""
    metadata: dict[str, Any] = {"resourceVersion": str(listed.revision)}
    if listed.token:
        metadata["continue"] = listed.token
        if listed.remaining:
            metadata["remainingItemCount"] = listed.remaining
    match format.view:
        case "":
            kind = form.kind
            items = b",".join([entry.item for entry in listed.entries])
            body = b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[%b]}' % (
                kind.list_kind.encode(), kind.api_version.encode(), codec.encode(metadata), items,
            )  # fmt: skip
        case "Table" if tables is not None:
            body = tables.table(listed.entries, metadata)
        case "PartialObjectMetadataList":
            items = b",".join([metadata_only(entry, format.version) for entry in listed.entries])
            body = b'{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/%b","metadata":%b,"items":[%b]}' % (
                format.version.encode(), codec.encode(metadata), items,
            )  # fmt: skip
        case _:
            raise NotAcceptable(f"{format.view} is no form of lists")
    return render(body, format, pretty=pretty)


def object_list(listed: Listed) -> Response:
    """A list for a caller in the same process: the objects themselves, without bytes."""
    items = [entry.object for entry in listed.entries]
    return Response(
        200, {}, object=ObjectList(items, str(listed.revision), listed.token, listed.remaining)
    )


def failure(error: StatusError, accept: str = "") -> Response:
    """A refusal as a Status; in YAML where only that is wanted."""
    try:
        format = negotiation.negotiate(accept, views=False)
    except NotAcceptable:
        format = negotiation.PLAIN
    response = document(error.status(), Format(format.media), status=error.status_code)
    response.object = None
    headers = dict(response.headers)
    if error.details is not None and error.details.retryAfterSeconds:
        headers["retry-after"] = str(error.details.retryAfterSeconds)
    if error.status_code == 401:
        headers["www-authenticate"] = 'Bearer realm="pinnace"'
    response.headers = headers
    return response


def deleted(name: str, group: str, plural: str, uid: str) -> dict[str, Any]:
    """The Status of an object that is gone."""
    details = {"name": name, "group": group, "kind": plural, "uid": uid}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }


def warn(response: Response, warnings: list[str]) -> Response:
    """Adds the Warning headers (RFC 7234, code 299), all in one."""
    if warnings:
        quoted = []
        for text in dict.fromkeys(warnings):
            clean = "".join(sign if sign.isprintable() else " " for sign in text)[:4096]
            escaped = clean.replace("\\", "\\\\").replace('"', '\\"')
            quoted.append(f'299 - "{escaped}"')
        response.headers = {**response.headers, "warning": ", ".join(quoted[:64])}
    return response

"""What `kubectl apply` does: the patch from what was applied last, what is wanted now, and what lives.

What was applied last stands in an annotation of the object itself, so that a later manifest which leaves something
out takes it away, and what others wrote stays.
"""

from __future__ import annotations

import json
from typing import Any

from pinnace.api import codec, errors
from pinnace.api.kinds import Kind
from pinnace.api.patch.strategic_diff import three_way
from pinnace.client.client import Client, collection_path, object_path
from pinnace.client.transport import Response
from pinnace.testing.manifests import Document

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_STRICT = {"fieldValidation": ("Strict",)}       # a misspelt field is an error, as kubectl has it
_ATTEMPTS = 5                                    # as kubectl, when others write at the same time

Json = dict[str, Any]


async def apply(client: Client, document: Document) -> Any:
    """Create the object, or patch it. Returns it as it is now. Raises the classes of `api.errors`."""
    kind, place = document.kind, document.namespace
    if not document.name:
        raise errors.BadRequest("cannot use generate name with apply")
    wanted = annotated(document.content)
    path = object_path(kind, place, document.name)
    for attempt in range(_ATTEMPTS):
        try:
            live = codec.to_dict(await client.get(kind.type, document.name, place))
        except errors.NotFound:
            try:
                return await create(client, Document(kind, wanted))
            except errors.AlreadyExists:
                continue
        change = patch(kind, wanted, live)
        if not change:
            return codec.from_dict(kind.type, live)       # unchanged
        try:
            response = await client.call(
                "PATCH", path, body=json.dumps(change).encode(), query=_STRICT,
                content_type="application/strategic-merge-patch+json",
            )  # fmt: skip
        except (errors.Conflict, errors.NotFound):
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return own(kind.type, response)
    raise errors.Conflict.of(kind.plural, kind.group, document.name)


async def create(client: Client, document: Document) -> Any:
    """Returns what the server made of it."""
    path = collection_path(document.kind, document.namespace)
    response = await client.call("POST", path, body=json.dumps(document.content).encode(), query=_STRICT)
    return own(document.kind.type, response)


def own(kind: type[Any], response: Response) -> Any:
    """The object of an answer, for the caller to keep and change: in-process the server shares its own."""
    shared = response.object
    return codec.copy(shared) if isinstance(shared, kind) else codec.decode(kind, response.body)


def annotated(content: Json) -> Json:
    """The object with what is applied noted in it."""
    meta = content["metadata"]
    annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if key != LAST_APPLIED}
    bare = {**content, "metadata": {**meta, "annotations": annotations}}
    note = json.dumps(bare, separators=(",", ":"), sort_keys=True) + "\n"
    return {**content, "metadata": {**meta, "annotations": {**annotations, LAST_APPLIED: note}}}


def patch(kind: Kind, wanted: Json, live: Json) -> Json:
    """What has to change, as a strategic merge patch; empty if nothing has to."""
    note = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    applied = json.loads(note) if note else {}
    return three_way(applied, wanted, live, kind.type)

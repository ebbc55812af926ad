"""The typed client: verbs on kinds, over a transport.

Every part of Pinnace (and the tests that users write) talks to the API through this. Objects come back typed;
in-process they are the server's own decoded objects, shared and never to be changed: build a new one
(`msgspec.structs.replace`, `codec.copy`) before writing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from pinnace.api import codec, errors
from pinnace.api.kinds import Kind, kind_of, kind_of_type
from pinnace.client.transport import DirectWatch, Request, Response, Tell, Transport, User

K = TypeVar("K")

PatchType = Literal["json", "merge", "strategic", "apply"]
_PATCH_MEDIA: Mapping[PatchType, str] = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}
_JSON = "application/json"
# What is accepted and what is sent.
_ASKING, _TELLING = (_JSON, ""), (_JSON, _JSON)
_ALL_DRY: Mapping[str, tuple[str, ...]] = {"dryRun": ("All",)}
_NO_QUERY: Mapping[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[K]):
    """What `list` gives: the items, the moment they show, and how to go on."""

    items: list[K]
    resourceVersion: str
    continue_: str = ""
    remainingItemCount: int | None = None


class WatchEvent(msgspec.Struct, Generic[K], frozen=True):
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK (whose object carries only its resourceVersion)."""

    type: str
    object: K


class _Headers(dict[tuple[str, str], Mapping[str, str]]):
    """Of one component's requests, by what is accepted and what is sent ("": nothing)."""

    def __init__(self, agent: str) -> None:
        super().__init__()
        self._agent = agent

    def __missing__(self, media: tuple[str, str]) -> Mapping[str, str]:
        accept, sent = media
        headers = {"accept": accept, "user-agent": self._agent}
        if sent:
            headers["content-type"] = sent
        self[media] = headers
        return headers


class Client:
    """Verbs on kinds. Raises the classes of `api.errors`, or ConnectionError when the server is out of reach.

    `user` names the caller to an in-process server (over HTTPS the credentials do); `agent` is the component's
    name, as in the User-Agent header and in the causes that the server records.
    """

    def __init__(
        self, transport: Transport, *, agent: str = "pinnace", user: User | None = None, about: str = ""
    ) -> None:
        self.transport = transport
        self.agent = agent
        self.user = user
        self.about = about
        self._headers = _Headers(agent)

    def acting_as(self, agent: str, user: User | None = None) -> Client:
        """The same connection under another component's name."""
        return Client(self.transport, agent=agent, user=user or self.user)

    def acting_for(self, obj: Any) -> Client:
        """The same client, whose writes are recorded as made for an object (`None`: for nobody in particular)."""
        client = Client(self.transport, agent=self.agent, user=self.user, about=about(obj) if obj is not None else "")
        client._headers = self._headers
        return client

    async def get(self, kind: type[K], name: str, namespace: str = "", *, subresource: str = "") -> K:
        path = object_path(kind_of(kind), namespace, name, subresource)
        return self._object(kind, await self._sent("GET", path, self._headers[_ASKING]))

    async def list(
        self,
        kind: type[K],
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> ObjectList[K]:
        """Objects of a namespace, or of all namespaces if none is given."""
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit) if limit else "",
            resourceVersion=resource_version,
            resourceVersionMatch=resource_version_match,
            **{"continue": continue_},
        )
        response = await self.call("GET", collection_path(kind_of(kind), namespace), query=query)
        if isinstance(response.object, ObjectList):
            return cast("ObjectList[K]", response.object)
        items, about = codec.decode_list(kind, response.body)
        return ObjectList(items, about.resourceVersion or "", about.continue_ or "", about.remainingItemCount)

    async def create(
        self, obj: K, *, namespace: str = "", because: tuple[int, ...] = (), dry_run: bool = False, giving: bool = False
    ) -> K:
        """`giving`: see `update`."""
        new: Any = obj
        of: Any = type(new)
        path = collection_path(kind_of_type(of), namespace or new.metadata.namespace or "")
        query = _ALL_DRY if dry_run else _NO_QUERY
        body, given = (b"", obj) if giving else (codec.encode(obj), None)
        response = await self._sent("POST", path, self._headers[_TELLING], query, body, because, given)
        return self._object(type(obj), response)

    async def create_subresource(
        self, parent: type[Any], name: str, namespace: str, subresource: str, body: K, *,
        because: tuple[int, ...] = (), giving: bool = False,
    ) -> K:
        """POST to a subresource, e.g. `pods/web/binding`. Returns what the server answered, decoded as the
        body's type where it is of that kind; a Status answer gives the body back. `giving`: see `update`."""
        path = object_path(kind_of(parent), namespace, name, subresource)
        data, given = (b"", body) if giving else (codec.encode(body), None)
        response = await self.call("POST", path, body=data, because=because, given=given)
        if isinstance(response.object, type(body)):
            return response.object
        answer = response.object if isinstance(response.object, dict) else json.loads(response.body)
        if answer.get("kind") == "Status":
            return body
        return codec.decode(type(body), response.body)

    async def update(
        self, obj: K, *, subresource: str = "", because: tuple[int, ...] = (), giving: bool = False
    ) -> K:
        """`giving`: a server in this process gets the object itself, not its JSON, and may change it: nobody else has
        it or changes what is in it, from now on. Metadata may be shared with others; with `subresource` "status",
        so may everything but the status itself. It is in the form that a server sends (see `Request.given`)."""
        new: Any = obj
        of: Any = type(new)
        meta = new.metadata
        path = object_path(kind_of_type(of), meta.namespace or "", meta.name or "", subresource)
        body, given = (b"", obj) if giving else (codec.encode(obj), None)
        response = await self._sent("PUT", path, self._headers[_TELLING], _NO_QUERY, body, because, given)
        return self._object(type(obj), response)

    async def patch(
        self,
        kind: type[K],
        name: str,
        namespace: str,
        patch: Any,
        *,
        type: PatchType = "merge",
        subresource: str = "",
        because: tuple[int, ...] = (),
        query: Mapping[str, tuple[str, ...]] | None = None,
    ) -> K:
        """`patch` is what goes over the wire, as plain dicts and lists."""
        path = object_path(kind_of(kind), namespace, name, subresource)
        headers = self._headers[_JSON, _PATCH_MEDIA[type]]
        response = await self._sent("PATCH", path, headers, query or _NO_QUERY, codec.encode(patch), because)
        return self._object(kind, response)

    async def delete(
        self,
        kind: type[Any],
        name: str,
        namespace: str = "",
        *,
        grace_period: int | None = None,
        propagation: Literal["", "Orphan", "Background", "Foreground"] = "",
        uid: str = "",
        resource_version: str = "",
        because: tuple[int, ...] = (),
    ) -> None:
        """Ask for the object's end; it may live on while finalizers or its grace period last."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        if propagation:
            options["propagationPolicy"] = propagation
        conditions = {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}
        if conditions:
            options["preconditions"] = conditions
        path = object_path(kind_of(kind), namespace, name)
        await self.call("DELETE", path, given=options, because=because)

    async def watch(
        self,
        kind: type[K],
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 0,
        send_initial_events: bool = False,
        directly: Tell | None = None,
    ) -> AsyncGenerator[tuple[WatchEvent[K], ...], None]:
        """Batches of events, until the server ends the watch. An ERROR event is raised (e.g. Expired).

        Where the transport leads straight into a server of this process, `directly` (if given) gets the events
        instead, each in the call that makes it; see `client.transport.DirectWatch`. One empty batch says that this
        is so, and no other follows; the server's limit of time does not hold then."""
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            timeoutSeconds=str(timeout_seconds) if timeout_seconds else "",
            sendInitialEvents="true" if send_initial_events else "",
            resourceVersionMatch="NotOlderThan" if send_initial_events else "",
        )
        response = await self.call("GET", collection_path(kind_of(kind), namespace), query=query)
        if response.watch is None:
            raise errors.InternalError("the server did not answer with a watch")
        try:
            if directly is not None and isinstance(response.watch, DirectWatch):
                over = response.watch.subscribe(directly)
                yield ()
                await over
                return
            async for batch in response.watch:
                yield tuple(_event(kind, line.type, line.object, line.line) for line in batch)
        finally:
            close = getattr(response.watch, "aclose", None)
            if close is not None:
                await close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, tuple[str, ...]] | None = None,
        body: bytes = b"",
        content_type: str = _JSON,
        accept: str = _JSON,
        because: tuple[int, ...] = (),
        given: object = None,
    ) -> Response:
        """One request; raises for every answer that is not a success. `given`: see `Request`."""
        headers = self._headers[accept, content_type if body or given is not None else ""]
        response = await self._sent(method, path, headers, query or _NO_QUERY, body, because, given)
        if response.status >= 400:
            raise _failure(response)
        return response

    def _sent(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, tuple[str, ...]] = _NO_QUERY,
        body: bytes = b"",
        because: tuple[int, ...] = (),
        given: object = None,
    ) -> Coroutine[Any, Any, Response]:
        return self.transport.send(
            Request(method, path, query, headers, body, self.user, because, self.about, given=given)
        )

    @staticmethod
    def _object(kind: type[K], response: Response) -> K:
        if response.status >= 400:
            raise _failure(response)
        found: Any = response.object
        return found if found.__class__ is kind else codec.decode(kind, response.body)


def collection_path(kind: Kind, namespace: str = "") -> str:
    if namespace and kind.namespaced:
        return f"{kind.root}/namespaces/{namespace}/{kind.plural}"
    return f"{kind.root}/{kind.plural}"


def object_path(kind: Kind, namespace: str, name: str, subresource: str = "") -> str:
    if not name:
        raise ValueError(f"{kind.kind} without a name")
    within = f"{kind.root}/namespaces/{namespace}" if namespace and kind.namespaced else kind.root
    path = f"{within}/{kind.plural}/{name}"
    return f"{path}/{subresource}" if subresource else path


def about(obj: Any) -> str:
    """How a cause names an object: "Deployment.apps/default/web", "Node/node-1"."""
    kind, meta = kind_of(obj), codec.metadata(obj)
    word = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return f"{word}/{meta.namespace}/{meta.name}" if meta.namespace else f"{word}/{meta.name}"


def _query(**values: str) -> dict[str, tuple[str, ...]]:
    return {key: (value,) for key, value in values.items() if value}


def _event(kind: type[K], type: str, obj: object, line: bytes) -> WatchEvent[K]:
    if type == "ERROR":
        raise errors.from_status(json.loads(line)["object"])
    if isinstance(obj, kind):
        return WatchEvent(type, obj)
    return WatchEvent(type, codec.decode_event(kind, line))


def _failure(response: Response) -> errors.StatusError:
    try:
        status = json.loads(response.body)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = response.body[:1024].decode("utf-8", "replace").strip()
        status = {"message": text or f"the server answered {response.status}", "code": response.status}
    return errors.from_status(status, response.status)

"""The verbs on objects: what a request means for a registry, and the answer to it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from pinnace.api import errors
from pinnace.api.kinds import Kind
from pinnace.apiserver import bodies, metadata, options, patching, responses
from pinnace.apiserver.access import NODES, Admission, Operation
from pinnace.apiserver.cache import Entry
from pinnace.apiserver.listing import list_options
from pinnace.apiserver.negotiation import JSON, PLAIN, Format, negotiate
from pinnace.apiserver.options import DeleteOptions, WriteOptions, flag
from pinnace.apiserver.paths import Target
from pinnace.apiserver.registry import Registry, Write
from pinnace.apiserver.resource import Action, Context, Subresource
from pinnace.apiserver.selection import select
from pinnace.apiserver.tables import TableEvents, Tables, metadata_event
from pinnace.apiserver.watching import Stream, Watch, duration, watch_options
from pinnace.client.transport import Request, Response, User
from pinnace.store.store import MOST_BECAUSE, Cause

if TYPE_CHECKING:
    from pinnace.apiserver.routes import Route
    from pinnace.apiserver.server import ApiServer

_TRUSTED = WriteOptions(validation="Ignore")
_OPTIONS_KIND = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_MOST_AGENT = 64          # characters of a component's name that are recorded …
_MOST_ABOUT = 330         # … and of the object that it acts for: a kind, two names of at most 253 and 63
DELETE_OPTIONS = Kind("", "v1", "DeleteOptions", "", "", module="meta/v1")


class Call(msgspec.Struct):
    """One authorized request on a resource."""

    server: ApiServer
    request: Request
    target: Target
    route: Route
    registry: Registry
    user: User
    verb: str
    encoded: bool = True         # False: the caller is in this process and takes objects
    warnings: list[str] = msgspec.field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.target.namespace

    @property
    def name(self) -> str:
        return self.target.name

    def format(self, *, views: bool = True) -> Format:
        return negotiate(self.request.headers.get("accept", ""), views=views)

    def tables(self, format: Format) -> Tables | None:
        if format.view != "Table":
            return None
        registry, now = self.registry, self.server.clock.now()
        return Tables(registry.resource, registry.view.form, format, self.request.query, now)

    @property
    def pretty(self) -> bool:
        return bool(self.request.query) and flag(self.request.query, "pretty")

    def context(self, dry_run: bool) -> Context:
        return Context(self.user, self.server.clock.now(), dry_run, self.target.subresource)

    def cause(self, now: datetime) -> Cause:
        """What is recorded with the write. Agent, object and revisions are the caller's own words: they are kept
        within bounds, shown beside the user that was authenticated, and decide nothing."""
        request = self.request
        if self.encoded:
            told, revisions = request.about or request.headers.get("pinnace-about", ""), because(request)
        else:
            told, revisions = request.about, request.because[:MOST_BECAUSE]
        return Cause(
            self.user.name, self.verb, revisions, agent(request.headers.get("user-agent", "")[:256]),
            printable(told[:_MOST_ABOUT]), self.target.subresource, milliseconds(now),
        )  # fmt: skip

    def write(self, dry_run: bool, operation: Operation, *, name: str = "") -> Write:
        """What the registry needs to know, with admission bound to this call."""
        user, now = self.user, self.server.clock.now()
        mutating, validating = self.route.plugins[operation, NODES in user.groups]
        admission = self._admission(operation, name or self.target.name, dry_run) if mutating or validating else None
        return Write(
            user, now, dry_run, self.target.subresource, self.cause(now), self.warnings, admission, mutating, validating
        )

    def _admission(self, operation: Operation, name: str, dry_run: bool) -> Admission:
        target, kind = self.target, self.registry.kind
        # As upstream: a namespace lies in itself.
        namespace = name if kind.plural == "namespaces" and not kind.group else target.namespace
        return Admission(
            self.user, operation, self.verb, kind, kind.group, kind.version, kind.plural, target.subresource,
            namespace, name, None, None, dry_run, self.request, self.warnings,
        )  # fmt: skip

    def terms(self) -> tuple[Format, WriteOptions]:
        """How a write is to be answered, and what else was asked for. Raises NotAcceptable, Invalid."""
        query = self.request.query
        if self.encoded:
            return self.format(), options.write_options(query, _OPTIONS_KIND[self.verb])
        # What a part of ours has encoded from typed objects has no unknown fields.
        if not query:
            return PLAIN, _TRUSTED
        found = options.write_options(query, _OPTIONS_KIND[self.verb])
        if "fieldValidation" not in query:
            found = WriteOptions(found.dry_run, "Ignore", found.manager, found.force)
        return PLAIN, found

    def sent(self, given: WriteOptions) -> Any:
        """The object that was sent, a fresh one. Raises BadRequest, UnsupportedMediaType."""
        request, kind = self.request, self.registry.kind
        if request.given is not None:
            return bodies.given(request, kind)
        if given is _TRUSTED and request.body and request.headers.get("content-type") == JSON:
            return bodies.typed(request.body, kind, compact=True)
        obj, warnings = bodies.decode(request, kind, given.validation, ours=not self.encoded)
        if warnings:
            self.warnings.extend(warnings)
        return obj

    def answer(self, entry: Entry, format: Format, *, status: int = 200) -> Response:
        if not self.encoded:
            response = Response(status, object=entry.object)
        else:
            response = responses.one(
                entry, self.registry.view.form, format, self.tables(format), status=status, pretty=self.pretty
            )
        return responses.warn(response, self.warnings) if self.warnings else response


def because(request: Request) -> tuple[int, ...]:
    """The revisions that the caller says it reacted to, from the request or its header; 0 stands for the clock."""
    if request.because:
        return request.because[:MOST_BECAUSE]
    header = request.headers.get("pinnace-because")
    if not header:
        return ()
    words = header[:512].split(",")[:MOST_BECAUSE]
    return tuple(int(word) for word in words if word.isascii() and word.strip().isdigit() and len(word) < 20)


@lru_cache(maxsize=16)
def milliseconds(moment: datetime) -> int:
    """Since 1970. Where time is virtual, many writes share one instant."""
    return int(moment.timestamp() * 1000)


@lru_cache(maxsize=1024)
def agent(header: str) -> str:
    """The component's name in a User-Agent header: its first word, without the version.

    "kubectl/v1.36.0 (linux/amd64) …" is kubectl; "kube-controller-manager/job-controller" stays what it is."""
    first = header.partition(" ")[0]
    name, _, rest = first.partition("/")
    part = rest.partition("/")[0]
    if part and not part.lstrip("v")[:1].isdigit():
        name = f"{name}/{part}"
    return printable(name[:_MOST_AGENT])


@lru_cache(maxsize=1024)
def printable(text: str) -> str:
    """ASCII that can be put on a terminal or into a line of a table; everything else becomes a question mark."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


async def get(call: Call) -> Response:
    format = call.format()
    revision = options.text(call.request.query, "resourceVersion") if call.request.query else ""
    await call.server.lister.not_older(_at_least(revision))
    return call.answer(call.registry.entry(call.namespace, call.name), format)


def _at_least(revision: str) -> int:
    return int(revision) if revision.isascii() and revision.isdigit() and len(revision) < 20 else 0


async def list_(call: Call) -> Response:
    format, query = call.format(), call.request.query
    tables = call.tables(format)
    selection = select(query, call.registry.resource)
    listed = await call.server.lister.page(call.registry, call.namespace, selection, list_options(query))
    if not call.encoded:
        return responses.object_list(listed)
    return responses.many(listed, call.registry.view.form, format, tables, pretty=call.pretty)


async def watch(call: Call) -> Response:
    query, registry, server = call.request.query, call.registry, call.server
    format = negotiate(call.request.headers.get("accept", ""), streaming=True)
    asked = watch_options(query)
    selection = select(query, registry.resource)
    if call.name:      # the old /watch/…/NAME
        selection = select({**query, "fieldSelector": (f"metadata.name={call.name}",)}, registry.resource)
    if asked.initial:
        await server.lister.not_older(asked.revision)
    watching = Watch(
        registry,
        call.namespace,
        selection,
        asked,
        current=server.current_revision,
        seconds=duration(asked, server.randomness.jitter),
        bookmarks=server.bookmarks,
        render=_render(call, format),
    )
    return Response(200, {"content-type": "application/json"}, watch=Stream(watching, server.watches))


def _render(call: Call, format: Format) -> Any:
    match format.view:
        case "":
            return None
        case "Table":
            tables = call.tables(format)
            assert tables is not None
            return TableEvents(tables)
        case _:
            return metadata_event(format.version)


async def create(call: Call) -> Response:
    registry, resource = call.registry, call.registry.resource
    format, given = call.terms()
    obj = call.sent(given)
    metadata.take_namespace(obj, registry.kind, call.target.namespace)
    resource.default(obj)
    if resource.answer is not None:
        return await _answer(call, obj, format)
    write = call.write(given.dry_run, "CREATE", name=obj.metadata.name or "")
    return call.answer(await registry.create(obj, write), format, status=201)


async def _answer(call: Call, obj: Any, format: Format) -> Response:
    """Kinds that are questions: nothing is stored, the answer is the object itself."""
    answer = call.registry.resource.answer
    assert answer is not None
    action = Action(call.request, call.server, call.namespace, "", call.context(False), None)
    done = await answer(action, obj)
    if not call.encoded:
        return Response(201, {}, object=done)
    return responses.warn(responses.document(done, Format(format.media), status=201), call.warnings)


def update(call: Call) -> Coroutine[Any, Any, Response]:
    part = call.route.part
    if part is not None and part.name == "status" and not call.encoded:
        return _update_status(call, part)
    return _update(call, part)


async def _update(call: Call, part: Subresource[Any] | None) -> Response:
    registry, resource, target = call.registry, call.registry.resource, call.target
    format, given = call.terms()
    obj = call.sent(given)
    metadata.take_namespace(obj, registry.kind, target.namespace)
    metadata.check_name(obj, target.name)
    resource.default(obj)
    if part is None and resource.allow_create_on_update and registry.find(target.namespace, target.name) is None:
        await registry.catch_up()
        if registry.find(target.namespace, target.name) is None:
            return await _create_on_update(call, obj, given, format)
    write = call.write(given.dry_run, "UPDATE")
    pinned = obj.metadata.resourceVersion not in (None, "", "0")
    change = patching.fresh_copies(obj, again=not pinned)
    entry = await registry.update(target.namespace, target.name, change, write, part=part, pinned=pinned)
    return call.answer(entry, format)


async def _update_status(call: Call, part: Subresource[Any]) -> Response:
    """From a caller in this process: the rest of its object, which would not be taken over, is not even decoded."""
    registry, target = call.registry, call.target
    format, given = call.terms()
    first = _status(call)
    pinned = first.metadata.resourceVersion not in (None, "", "0")

    def change(current: Any) -> Any:
        obj = first if pinned else _status(call)
        return msgspec.structs.replace(current, metadata=obj.metadata, status=obj.status)

    write = call.write(given.dry_run, "UPDATE")
    entry = await registry.update(target.namespace, target.name, change, write, part=part, pinned=pinned)
    return call.answer(entry, format)


def _status(call: Call) -> Any:
    """An object with the metadata and the status that were sent, fresh ones. Raises BadRequest."""
    request, registry = call.request, call.registry
    if request.given is not None:
        obj = bodies.given(request, registry.kind)
    else:
        obj = bodies.metadata_and_status(request.body, registry.kind)
        registry.resource.default(obj)       # what is given has its defaults
    metadata.take_namespace(obj, registry.kind, call.target.namespace)
    metadata.check_name(obj, call.target.name)
    return obj


async def _create_on_update(call: Call, obj: Any, given: WriteOptions, format: Format) -> Response:
    meta = obj.metadata
    if meta.uid:
        raise call.registry.conflict(
            call.name, f"Precondition failed: UID in precondition: {meta.uid}, UID in object meta: "
        )
    if meta.resourceVersion not in (None, "", "0"):
        raise call.registry.not_found(call.name)
    call.server.allow_create(call)
    write = call.write(given.dry_run, "CREATE")
    return call.answer(await call.registry.create(obj, write), format, status=201)


async def patch(call: Call) -> Response:
    part, target = call.route.part, call.target
    format, given = call.terms()
    status = part is not None and part.name == "status"
    change, pinned = patching.change_for(call.request, call.registry, given.validation, call.warnings, status=status)
    write = call.write(given.dry_run, "UPDATE")
    entry = await call.registry.update(target.namespace, target.name, change, write, part=part, pinned=pinned)
    return call.answer(entry, format)


async def delete(call: Call) -> Response:
    registry = call.registry
    format, asked = call.format(), _delete_options(call.request)
    write = call.write(asked.dry_run, "DELETE")
    await registry.catch_up()
    entry, gone = await registry.delete(call.namespace, call.name, asked, write)
    if not gone or registry.resource.returns_deleted:
        accepted = not gone and asked.orphan is False
        return call.answer(entry, format, status=202 if accepted else 200)
    meta, kind = entry.object.metadata, registry.kind
    status = responses.deleted(meta.name, kind.group, kind.plural, meta.uid or "")
    return responses.warn(responses.document(status, Format(format.media), pretty=call.pretty), call.warnings)


async def delete_collection(call: Call) -> Response:
    registry, query = call.registry, call.request.query
    format, asked = call.format(), _delete_options(call.request)
    selection = select(query, registry.resource)
    listed = await call.server.lister.page(registry, call.namespace, selection, list_options(query))
    for entry in listed.entries:
        meta = entry.object.metadata
        write = call.write(asked.dry_run, "DELETE", name=meta.name or "")
        try:
            await registry.delete(meta.namespace or "", meta.name or "", asked, write)
        except errors.NotFound:
            continue       # somebody else was faster: it is gone, which is what was wanted
    if not call.encoded:
        return responses.object_list(listed)
    return responses.warn(
        responses.many(listed, registry.view.form, format, call.tables(format), pretty=call.pretty), call.warnings
    )


def _delete_options(request: Request) -> DeleteOptions:
    if request.given is not None:
        return options.delete_options(request.query, request.given)
    if not request.body.strip():
        return options.delete_options(request.query, None)
    body = bodies.plain(bodies.as_json(request, DELETE_OPTIONS), "DeleteOptions")
    return options.delete_options(request.query, body)


VERBS: dict[str, Callable[[Call], Coroutine[Any, Any, Response]]] = {
    "get": get,
    "list": list_,
    "watch": watch,
    "create": create,
    "update": update,
    "patch": patch,
    "delete": delete,
    "deletecollection": delete_collection,
}

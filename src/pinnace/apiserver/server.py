"""The API server as one function: `handle` takes a Request and gives a Response.

Behind it: authentication → impersonation → authorization → the verb on a registry (with admission inside), or one
of the documents (discovery, OpenAPI, health, metrics). Two fronts call it: `http.py` and `inprocess.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.kinds import Kind, kind_of
from pinnace.apiserver import responses
from pinnace.apiserver.access import (
    AUTHENTICATED,
    AdmissionPlugin,
    AllowAll,
    Attributes,
    Authenticator,
    Authorizer,
    Unguarded,
    forbidden,
)
from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.cache import Entry, Form, Joined, WatchCache
from pinnace.apiserver.calls import Call
from pinnace.apiserver.causes import Causes
from pinnace.apiserver.documents import Documents
from pinnace.apiserver.expiry import Expiry
from pinnace.apiserver.feed import ROOT, Feed
from pinnace.apiserver.impersonation import impersonate
from pinnace.apiserver.kubelet_proxy import Kubelets, NoKubelets
from pinnace.apiserver.limits import Inflight
from pinnace.apiserver.listing import Lister
from pinnace.apiserver.metrics import Metrics
from pinnace.apiserver.objects import CachedObjects
from pinnace.apiserver.options import Query, flag, text
from pinnace.apiserver.paths import VERBS, Target, parse, verb_of
from pinnace.apiserver.registry import Registry
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.routes import Route, Routes
from pinnace.apiserver.watching import Bookmarks, Watch
from pinnace.base.clock import Clock
from pinnace.base.deadline import rest
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, Response, User
from pinnace.store.store import Store

log = logging.getLogger("pinnace.apiserver")

REQUEST_SECONDS = 60.0
# Field selectors that watchers of many objects use each for its own: looked up, not searched for.
_INDEXED = {("", "pods"): ("spec.nodeName",)}
_MOST_GRANTED = 4096
_LATE = "Timeout: request did not complete within the allotted timeout"

# A user's name and a verb; group, version, resource and subresource; a namespace; and whether there is no name. All
# requests that agree in these take the same route, and what is allowed for long is allowed for all of them.
_Place = tuple[str, str, str, str, str, str, str, bool]


class ApiServer:
    """Serves the resources of a table from a store. `start` before the first request; `close` at the end.

    `authenticator`, `authorizer` and `admission` may be set after construction, before `start`: those of
    the security parts read objects through `server.objects`.
    """

    def __init__(
        self,
        store: Store,
        resources: Iterable[Resource[Any]],
        clock: Clock,
        randomness: Randomness,
        *,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        admission: Sequence[AdmissionPlugin] = (),
        kubelets: Kubelets | None = None,
        address: str = "",
        service_cidr: str = "10.96.0.0/16",
    ) -> None:
        self.store = store
        self.clock = clock
        self.randomness = randomness
        self.authenticator: Authenticator = authenticator or Unguarded()
        self._authorizer: Authorizer = authorizer or AllowAll()
        self.kubelets: Kubelets = kubelets or NoKubelets()
        self.service_cidr = service_cidr
        self.token_issuer: TokenIssuer | None = None
        self.metrics = Metrics(clock)
        self.inflight = Inflight()
        self.resources = tuple(resources)
        self._caches: dict[str, WatchCache] = {}
        self.feed = Feed(store, self._caches, clock, self._expire_watches)
        self.lister = Lister(self.feed, store)
        self._registries: dict[tuple[str, str, str], Registry] = {}
        self._by_kind: dict[Kind, Registry] = {}
        for resource in self.resources:
            self._serve(resource)
        self._routes = Routes(self._registries, self.metrics)
        # Whose requests lead where: allowed for now, and found. (Not by id(), which calls a process' audit hooks.)
        self._granted: dict[_Place, tuple[User, Route]] = {}
        self._granting: dict[type[Any], Joined] = {}                # kinds of which each write may end that
        self.admission = tuple(admission)
        self.objects = CachedObjects(self)
        self.documents = Documents(self, address)
        self.watches: dict[Watch, None] = {}
        self.bookmarks = Bookmarks()
        self.causes = Causes(self)
        self.expiry = Expiry(self)
        self.ready = False

    def _serve(self, resource: Resource[Any]) -> None:
        kind, stored = resource.kind, resource.stored_as or resource.kind
        place = f"{stored.group}/{stored.plural}" if stored.group else stored.plural
        prefix = f"{ROOT}{resource.storage_prefix or place}/"
        cache = self._caches.get(prefix)
        if cache is None:
            fields = _INDEXED.get((stored.group, stored.plural), ())
            indexed = {name: resource.fields[name] for name in fields if name in resource.fields}
            cache = self._caches[prefix] = WatchCache(Form(stored), prefix, indexed)
        registry = Registry(resource, cache, self.feed, self.store, self, self.randomness)
        self._registries[kind.group, kind.version, kind.plural] = registry
        self._by_kind[kind] = registry

    async def start(self, decoded: Mapping[str, Entry] | None = None) -> None:
        """Fill the caches from the store and follow it. `decoded`: entries by key that need not be decoded again,
        where the store has the very values that they were made of."""
        await self.feed.start(decoded or {})
        if kind_of(core.Event) in self._by_kind:
            self.expiry.start()
        self.ready = True

    async def close(self) -> None:
        """End all watches and stop following the store, which stays open."""
        self.ready = False
        for watch in tuple(self.watches):
            watch.end()
        await self.expiry.close()
        await self.feed.close()
        await self.kubelets.close()

    # For the parts inside

    def registry(self, what: Kind | type[Any]) -> Registry:
        """The registry of a kind. Raises KeyError if it is not served."""
        return self._by_kind[what if isinstance(what, Kind) else kind_of(what)]

    def served(self, target: Target) -> Registry:
        """The registry that a path leads to. Raises NotFound."""
        return self._routes.served(target)

    def named(self, key: str) -> tuple[Kind, str, str] | None:
        """Kind, namespace and name of what lies under a key of the store; None for a key of no kind."""
        for prefix, cache in self._caches.items():
            if key.startswith(prefix):
                namespace, _, name = key.removeprefix(prefix).rpartition("/")
                return cache.form.kind, namespace, name
        return None

    def registries(self) -> Iterable[Registry]:
        return self._registries.values()

    def current_revision(self) -> int:
        return self.feed.revision

    @property
    def admission(self) -> tuple[AdmissionPlugin, ...]:
        return self._admission

    @admission.setter
    def admission(self, plugins: tuple[AdmissionPlugin, ...]) -> None:
        self._admission = plugins
        self._routes.admit_by(plugins)
        self._revoke()

    @property
    def authorizer(self) -> Authorizer:
        return self._authorizer

    @authorizer.setter
    def authorizer(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._revoke()

    def allow_create(self, call: Call) -> None:
        """An update that would create needs the right to create. Raises Forbidden."""
        self._authorize(_attributes(call.user, call.target, "create", call.request))

    # The front door

    async def handle(self, request: Request, *, encoded: bool = True) -> Response:
        """Answer one request; never raises. With `encoded` false objects are not turned into bytes."""
        answer = self.begin(request, encoded=encoded)
        return answer if isinstance(answer, Response) else await answer

    def begin(self, request: Request, *, encoded: bool = True) -> Response | Coroutine[Any, Any, Response]:
        """The answer, where nothing has to be waited for, as with nearly all requests of this process over a store in
        memory; else the rest of the work, to be awaited. Nothing is set up for waiting before that."""
        work = self._handle(request, encoded)
        try:
            waiting = work.send(None)
        except StopIteration as done:
            response: Response = done.value
            return response
        return self._rest(request, work, waiting)

    async def _rest(self, request: Request, work: Coroutine[Any, Any, Response], waiting: Any) -> Response:
        started, target = self.clock.monotonic(), parse(request.path)
        try:
            async with asyncio.timeout(self._limit(request, target)):
                return await rest(work, waiting)
        except TimeoutError:
            response = responses.failure(errors.Timeout(_LATE, errors.StatusDetails()))
            series = self.metrics.series(_verb(request, target), target)
            series.count(response.status, self.clock.monotonic() - started)
            return response

    def _limit(self, request: Request, target: Target | None) -> float | None:
        """Seconds that a request may take; None: as long as it likes."""
        if target is None:
            return None
        try:
            timed = self._routes.find(target, _verb(request, target)).timed
        except errors.StatusError:       # which will be its answer
            timed = True
        if not timed:
            return None
        return _deadline(request.query) if request.query else REQUEST_SECONDS

    async def _handle(self, request: Request, encoded: bool) -> Response:
        started = self.clock.monotonic()
        target = parse(request.path)
        verb, series = "", None
        try:
            verb = _verb(request, target)
            user = request.user
            if user is None or AUTHENTICATED not in user.groups or encoded:
                user = await self._user(request)
            if target is None:
                response = await self._document(request, user, verb)
            else:
                call = self._call(request, user, target, verb, encoded)
                series = call.route.series
                response = await call.route.run(call)
        except errors.StatusError as error:
            response = responses.failure(error, request.headers.get("accept", ""))
        except TimeoutError:
            response = responses.failure(errors.Timeout(_LATE, errors.StatusDetails()))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            response = responses.failure(errors.InternalError.of(error))
        if series is None:
            series = self.metrics.series(verb, target)
        series.count(response.status, self.clock.monotonic() - started)
        return response

    async def _user(self, request: Request) -> User:
        """Who asks, or in whose name. Raises Unauthorized, Forbidden."""
        user = await self.authenticator.authenticate(request)
        if user is None:
            raise errors.Unauthorized()
        if "impersonate-" in " ".join(request.headers):
            user = impersonate(user, request.headers, self._authorize)
        return user

    async def _document(self, request: Request, user: User, verb: str) -> Response:
        asked = self.causes.asked(request.path)
        if asked is not None:
            return await self.causes.answer(request, user, asked)       # whoever may get the object
        self._authorize(Attributes(user, verb, path=request.path))
        return await self.documents.answer(request)

    def _call(self, request: Request, user: User, target: Target, verb: str, encoded: bool) -> Call:
        """What is to be done, by whom. Raises MethodNotAllowed, Forbidden, NotFound."""
        place = (
            user.name, verb, target.group, target.version, target.resource, target.subresource,
            target.namespace, not target.name,
        )  # fmt: skip
        granted = self._granted.get(place)
        if granted is not None and granted[0] is user:
            route = granted[1]
        else:
            route = self._authorized(request, user, target, verb, encoded, place)
        return Call(self, request, target, route, route.registry, user, verb, encoded)

    def _authorized(
        self, request: Request, user: User, target: Target, verb: str, encoded: bool, place: _Place
    ) -> Route:
        """Raises Forbidden, MethodNotAllowed, NotFound."""
        if not verb:
            raise errors.MethodNotAllowed()
        attributes = _attributes(user, target, verb, request)
        decision = self.authorizer.authorize(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision.reason)
        route = self._routes.find(target, verb)
        # Users of this process stay the same; others come with each request. A namespace is judged as lying in itself.
        if decision.until is not None and not encoded and attributes.namespace == target.namespace:
            if len(self._granted) >= _MOST_GRANTED:
                self._granted.clear()
            for kind in decision.until:
                if kind not in self._granting:
                    self._granting[kind] = self.registry(kind).cache.join(("", ""), self._revoke)
            self._granted[place] = user, route
        return route

    def _revoke(self, _: object = None) -> None:
        """What was granted has to be asked for anew."""
        self._granted.clear()

    def _authorize(self, attributes: Attributes) -> None:
        decision = self.authorizer.authorize(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision.reason)

    def _expire_watches(self) -> None:
        self._revoke()
        if kind_of(core.Event) in self._by_kind:
            self.expiry.start()
        for watch in tuple(self.watches):
            watch.end(errors.Expired("too old resource version: the server had to read everything anew"))


def _verb(request: Request, target: Target | None) -> str:
    """As authorization and metrics name it; "" for a method that the API does not know."""
    if target is None:
        return request.method.lower()
    found = VERBS.get(request.method)
    return found or verb_of(request.method, target, "watch" in request.query and flag(request.query, "watch"))


def _deadline(query: Query) -> float:
    asked = text(query, "timeout")
    if asked.endswith("s") and asked[:-1].isdigit() and len(asked) < 6:
        return min(REQUEST_SECONDS, float(asked[:-1]) or REQUEST_SECONDS)
    return REQUEST_SECONDS


def _attributes(user: User, target: Target, verb: str, request: Request) -> Attributes:
    query, name, namespace = request.query, target.name, target.namespace
    field_selector = label_selector = ""
    if query and verb in ("list", "watch", "deletecollection"):
        field_selector, label_selector = text(query, "fieldSelector"), text(query, "labelSelector")
        if not name and field_selector.startswith("metadata.name=") and "," not in field_selector:
            name = field_selector.removeprefix("metadata.name=").removeprefix("=")
    if target.resource == "namespaces" and not target.group and name:
        namespace = name      # upstream: a namespace lies in itself
    return Attributes(
        user, verb, target.group, target.version, target.resource, target.subresource, namespace, name,
        request.path, field_selector, label_selector,
    )  # fmt: skip
